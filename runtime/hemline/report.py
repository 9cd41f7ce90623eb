"""`hemline report`: one table of what folders hold, from their parity.json and bench.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hemline.benchmark import report as bench_report
from hemline.benchmark.latency import Latency
from hemline.benchmark.report import FileBench
from hemline.benchmark.speed import Speed
from hemline.commit import newest
from hemline.documents import read_document
from hemline.errors import ManifestError
from hemline.facts import Task
from hemline.manifest import Manifest, read_manifest
from hemline.parity import verify as parity
from hemline.parity.verify import ArtifactParity, ParityReport
from hemline.terminal import printable

# What stands between the bytes and the verdict, by task.
_COLUMNS: dict[str, tuple[str, str]] = {
    Task.CLASSIFICATION: ("accuracy", "delta pt"),
    Task.REGRESSION: ("loss", "growth %"),
    Task.AUTOENCODER: ("loss", "growth %"),
    Task.TENSORS: ("SQNR dB", "cosine"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is known of one file. None: it does not run here, or is the float model itself.

    Attributes:
        task: what its model is for.
        file: its file name.
        size_bytes: of the file, or of all files of a package.
        result: on the test samples: for classification top-1 accuracy in [0, 1]; for regression
            and autoencoders the mean squared error; for tensors SQNR in dB, None also if equal.
        change: for classification accuracy less the float model's, in percentage points; for
            regression and autoencoders the growth of the loss in percent; for tensors the mean
            cosine with the float model's.
        verdict: of `hemline verify`.
        is_reference: whether the verdict is from a reference evaluation.
        latency: of `predict` on one image, or of the bare engine for a file without facts.
        speed: against the float file of the same engine.
    """

    task: str
    file: str
    size_bytes: int
    result: float | None
    change: float | None
    verdict: str
    is_reference: bool
    latency: Latency | None
    speed: Speed | None

    def header(self) -> tuple[str, ...]:
        """Returns what stands above the cells."""
        return ("artifact", "bytes", *_COLUMNS[self.task], "verdict", "p50 µs", "speed")

    def cells(self) -> tuple[str, ...]:
        """Returns the row's text; a tilde marks a noisy latency."""
        result, change = {
            Task.CLASSIFICATION: (".4f", "+.2f"),
            Task.TENSORS: (".1f", ".6f"),
        }.get(Task(self.task), (".4g", "+.2f"))
        return (
            self.file,
            f"{self.size_bytes:,}",
            "" if self.result is None else format(self.result, result),
            "" if self.change is None else format(self.change, change),
            mark_verdict(self.verdict, is_reference=self.is_reference),
            ""
            if self.latency is None
            else f"{self.latency.median_ns / 1e3:.1f}{'~' if self.latency.noisy else ''}",
            "" if self.speed is None else format_speed(self.speed),
        )


def report(folder: Path) -> list[Row]:
    """Returns a row for a folder's float model and for each of its artifacts.

    Raises:
        ManifestError: the folder lacks one of the three documents, one is not valid, or they
            speak of other files than the manifest's.
    """
    manifest = read_manifest(folder)
    parity_report = read_parity(folder, manifest)
    timed = bench_report.read_bench(newest(folder / bench_report.FILE_NAME))
    # Of several rows of a file, the first is of the first number of threads, and of a Core ML
    # package also of the compute units that `load` takes, if it ran on those.
    rows: dict[tuple[str, str], FileBench] = {}
    for file in timed.files:
        if file.batch == 1 and file.file not in timed.not_run:
            rows.setdefault((file.file, file.sha256), file)
    results = {(result.file, result.sha256): result for result in parity_report.artifacts}
    reference = parity_report.float_model
    return [
        Row(
            task=parity_report.task,
            file=reference.file,
            size_bytes=manifest.float_model.size_bytes,
            result=reference.loss if reference.accuracy is None else reference.accuracy,
            change=None,
            verdict=reference.verdict,
            is_reference=False,
            latency=None,
            speed=None,
        ),
        *(
            Row(
                task=parity_report.task,
                file=artifact.file,
                size_bytes=artifact.size_bytes,
                result=_result(result),
                change=_change(result),
                verdict=result.verdict,
                is_reference=result.is_reference,
                latency=row.main if row else None,
                speed=row.speed if row else None,
            )
            for artifact in manifest.artifacts
            for key in [(artifact.file, artifact.sha256)]
            for result, row in [(results[key], rows.get(key))]
        ),
    ]


def _result(found: ArtifactParity) -> float | None:
    if found.fidelity is not None:
        return found.sqnr_db
    return found.loss if found.accuracy is None else found.accuracy


def _change(found: ArtifactParity) -> float | None:
    if found.paired is not None:
        return found.paired.delta_pt
    if found.loss_growth is not None:
        return found.loss_growth.growth_percent
    return found.fidelity.cosine if found.fidelity else None


def format_speed(speed: Speed) -> str:
    """Returns a speed as tables show it: times its float file's, and what that makes it."""
    return f"{speed.ratio:.2f}× {speed.verdict}"


def mark_verdict(verdict: str, *, is_reference: bool) -> str:
    """Returns a verdict as tables show it, marked if it is from a reference evaluation."""
    return f"{verdict} (reference)" if is_reference else verdict


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with columns of equal width, the first to the left.

    What a cell holds cannot act on a terminal, nor pass for a border.
    """
    rows = [[printable(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(header), line(rule), *(line(row) for row in rows)])


def read_parity(folder: Path, manifest: Manifest) -> ParityReport:
    """Reads a folder's parity.json, and checks that it speaks of the manifest's files.

    Raises:
        ManifestError: it is missing, not valid, or of other files.
    """
    path = newest(folder / parity.FILE_NAME)
    result = read_document(path, parity.SCHEMA, ParityReport)
    reference = result.float_model
    judged = [(artifact.file, artifact.sha256) for artifact in result.artifacts]
    listed = [(artifact.file, artifact.sha256) for artifact in manifest.artifacts]
    if sorted(judged) != sorted(listed) or (reference.file, reference.sha256) != (
        manifest.float_model.file,
        manifest.float_model.sha256,
    ):
        raise ManifestError(f"{path} is of other files than the manifest's; run `hemline verify`")
    if result.task != manifest.model.task:
        raise ManifestError(
            f"{path} judges the task {result.task}, and the manifest's is {manifest.model.task}; "
            "run `hemline verify`"
        )
    return result

"""`hemline report`: one table of what folders hold, from their parity.json and bench.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hemline import bench, parity
from hemline.bench import BenchReport, Latency
from hemline.documents import read_document
from hemline.errors import ManifestError
from hemline.manifest import Manifest, read_manifest
from hemline.parity import ParityReport
from hemline.speed import Speed, judge_speeds

HEADER = ("artifact", "bytes", "accuracy", "delta pt", "verdict", "p50 µs", "speed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is known of one file. None: it does not run here, or is the float model itself.

    Attributes:
        file: its file name.
        size_bytes: of the file, or of all files of a package.
        accuracy: top-1 on the test samples, in [0, 1].
        delta_pt: accuracy less the float model's, in percentage points.
        verdict: of `hemline verify`.
        is_reference: whether the verdict is from a reference evaluation.
        latency: of `predict` on one image, or of the bare engine for a file without facts.
        speed: against the float file of the same engine.
    """

    file: str
    size_bytes: int
    accuracy: float | None
    delta_pt: float | None
    verdict: str
    is_reference: bool
    latency: Latency | None
    speed: Speed | None

    def cells(self) -> tuple[str, ...]:
        """Returns the row's text, under `HEADER`; a tilde marks a noisy latency."""
        return (
            self.file,
            f"{self.size_bytes:,}",
            "" if self.accuracy is None else f"{self.accuracy:.4f}",
            "" if self.delta_pt is None else f"{self.delta_pt:+.2f}",
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
    bench_report = read_document(folder / bench.FILE_NAME, bench.SCHEMA, BenchReport)
    latencies: dict[str, Latency] = {}
    for file in bench_report.files:
        # The first row of a Core ML package is for the compute units that `load` takes.
        if file.file not in bench_report.not_run:
            latencies.setdefault(file.sha256, file.predict or file.bare)
    speeds = {speed.file: speed for speed in judge_speeds(manifest.artifacts, bench_report)}
    reference = parity_report.float_model
    return [
        Row(
            file=reference.file,
            size_bytes=manifest.float_model.size_bytes,
            accuracy=reference.accuracy,
            delta_pt=None,
            verdict=reference.verdict,
            is_reference=False,
            latency=None,
            speed=None,
        ),
        *(
            Row(
                file=artifact.file,
                size_bytes=artifact.size_bytes,
                accuracy=result.accuracy,
                delta_pt=result.paired.delta_pt if result.paired else None,
                verdict=result.verdict,
                is_reference=result.is_reference,
                latency=latencies.get(artifact.sha256),
                speed=speeds.get(artifact.file),
            )
            for artifact, result in zip(manifest.artifacts, parity_report.artifacts, strict=True)
        ),
    ]


def format_speed(speed: Speed) -> str:
    """Returns a speed as tables show it: times its float file's, and what that makes it."""
    return f"{speed.ratio:.2f}× {speed.verdict}"


def mark_verdict(verdict: str, *, is_reference: bool) -> str:
    """Returns a verdict as tables show it, marked if it is from a reference evaluation."""
    return f"{verdict} (reference)" if is_reference else verdict


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with columns of equal width, the first to the left."""
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
    path = folder / parity.FILE_NAME
    result = read_document(path, parity.SCHEMA, ParityReport)
    verified = {result.float_model.file: result.float_model.sha256} | {
        artifact.file: artifact.sha256 for artifact in result.artifacts
    }
    if verified != manifest.sha256_by_file():
        raise ManifestError(f"{path} is of other files than the manifest's; run `hemline verify`")
    return result

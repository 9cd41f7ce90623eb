"""`hemline report`: one table of what folders hold, from their parity.json and bench.json."""

from collections.abc import Sequence
from pathlib import Path

from hemline import bench, parity
from hemline.bench import BenchReport
from hemline.documents import read_document
from hemline.errors import ManifestError
from hemline.manifest import Manifest, read_manifest
from hemline.parity import ParityReport

_HEADER = ("artifact", "bytes", "accuracy", "delta pt", "verdict", "p50 µs")


def report(folders: Sequence[Path]) -> str:
    """Returns the table: a row for each float model and artifact.

    Raises:
        ManifestError: a folder lacks one of the three documents, one is not valid, or they speak
            of other files than the manifest's.
    """
    rows = [row for folder in folders for row in _rows(folder)]
    return format_table(_HEADER, rows)


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


def _rows(folder: Path) -> list[tuple[str, ...]]:
    manifest = read_manifest(folder)
    parity_report = read_parity(folder, manifest)
    bench_report = read_document(folder / bench.FILE_NAME, bench.SCHEMA, BenchReport)
    latencies = {file.sha256: file for file in bench_report.files}
    source = manifest.float_model
    reference = parity_report.float_model
    rows: list[tuple[str, ...]] = [
        (
            source.file,
            f"{source.size_bytes:,}",
            f"{reference.accuracy:.4f}",
            "",
            reference.verdict,
            "",
        )
    ]
    for artifact, result in zip(manifest.artifacts, parity_report.artifacts, strict=True):
        timed = latencies.get(artifact.sha256)
        latency = (timed.predict or timed.bare) if timed else None
        rows.append(
            (
                artifact.file,
                f"{artifact.size_bytes:,}",
                "" if result.accuracy is None else f"{result.accuracy:.4f}",
                "" if result.paired is None else f"{result.paired.delta_pt:+.2f}",
                result.verdict,
                f"{latency.median_ns / 1e3:.1f}{'~' if latency.noisy else ''}" if latency else "",
            )
        )
    return rows

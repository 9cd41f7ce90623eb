"""bench.json: what `hemline bench` measured, every sample included."""

from dataclasses import dataclass
from pathlib import Path

from hemline.benchmark.first_answer import FirstAnswer
from hemline.benchmark.latency import Latency, Ratio
from hemline.benchmark.speed import Speed
from hemline.benchmark.timing import Clock, Schedule
from hemline.documents import read_document
from hemline.errors import ManifestError
from hemline.host import Machine

SCHEMA = "hemline.bench/2"
FILE_NAME = "bench.json"

# The peer that is the same engine, called by a script without Hemline.
ALONE = "alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBench:
    """One file's latencies, for one number of threads and one size of batch.

    Attributes:
        file: its file name.
        engine: what ran it, with its version, and the compute units that Core ML might use.
        sha256: of the file.
        size_bytes: of the file.
        recipe: how it was made; None for a file that Hemline did not export.
        parent_sha256: of the float Keras file that it was made from, likewise.
        threads: how many the engine might use; None for Core ML, whose own affair that is.
        batch: images in a call.
        cold_ns: the first call after loading, `predict` if there is one, in this process.
        bare: set, invoke and get on ready tensors.
        predict: from images to probabilities, or to the outputs of another task; None for a file
            without facts.
        predict_ratio: predict over bare, round by round.
        image_ns: the median of predict, or else of bare, by images in a call.
        peer_ratios: by peer, its time over that of predict, or else of bare, round by round: above
            1, the peer is slower.
        speed: against the float file of the same engine, threads and batch, on the same calls.
        first_answer: of a process of its own; None if that was not asked for.
    """

    file: str
    engine: str
    sha256: str
    size_bytes: int
    recipe: str | None
    parent_sha256: str | None
    threads: int | None
    batch: int
    cold_ns: int
    bare: Latency
    predict: Latency | None
    predict_ratio: Ratio | None
    image_ns: float
    peer_ratios: dict[str, Ratio]
    speed: Speed | None
    first_answer: FirstAnswer | None

    @property
    def main(self) -> Latency:
        """What a user waits for: predict, or else bare."""
        return self.predict or self.bare


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerBench:
    """The latency of a peer: what Hemline is compared with, on the same inputs and rounds.

    Attributes:
        name: `alone` for the engine by a script without Hemline, or the call's name in Keras.
        file: the file that it ran.
        sha256: of the file.
        engine: with its version.
        threads: how many it might use; None for Keras, whose own affair that is.
        batch: images in a call.
        latency: of its call.
    """

    name: str
    file: str
    sha256: str
    engine: str
    threads: int | None
    batch: int
    latency: Latency


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """Latencies on one machine, from one process but for Core ML.

    Attributes:
        machine: where it ran.
        clock: what the times were read from.
        schedule: how many calls were asked for.
        load_before: the one-minute load average before the first call; None on Windows.
        load_after: after the last.
        files: what ran.
        peers: what ran beside them.
        not_run: what could not, with the reason; a file's name alone stands for the engine as
            `hemline.load` opens it, `FILE (UNITS)` for other compute units.
    """

    machine: Machine
    clock: Clock
    schedule: Schedule
    load_before: float | None
    load_after: float | None
    files: tuple[FileBench, ...]
    peers: tuple[PeerBench, ...]
    not_run: dict[str, str]


def read_bench(path: Path) -> BenchReport:
    """Reads a bench.json.

    Raises:
        ManifestError: it is missing, damaged or of another version of Hemline.
    """
    try:
        return read_document(path, SCHEMA, BenchReport)
    except ManifestError as error:
        raise ManifestError(f"{error}; make it anew: hemline bench DIR --json {path}") from error

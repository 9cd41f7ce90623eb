"""`hemline bench`: the latency of single-image calls on this machine.

Two calls are timed for each file, taking turns: `engine` is the bare engine's set, invoke and
get on a ready tensor, and `predict` is what a user calls, from uint8 pixels to probabilities;
for a task other than classification that is `Model.outputs`.
Files take turns as well, round by round, so that drift of the machine meets them all alike.
bench.json keeps every sample.

On macOS, Core ML packages are timed after the other files, one choice of compute units after the
other, each in a process of its own (see `hemline.coreml_device`).
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline import coreml_device
from hemline.documents import from_json
from hemline.engines import coreml
from hemline.errors import EngineUnavailableError, InputError, ModelFileError
from hemline.facts import Task, TensorSpec
from hemline.files import sha256, size_bytes
from hemline.host import Host, describe_host
from hemline.manifest import read_manifest
from hemline.model import Model, load

SCHEMA = "hemline.bench/1"
FILE_NAME = "bench.json"

WARMUP_CALLS = 50
ROUNDS = 20
CALLS_PER_ROUND = 50
# Above this spread, (p90 − p10) / median, a result is marked as noisy.
NOISY_SPREAD = 0.25
# What Core ML packages are timed on: what `hemline.load` takes comes first.
COMPUTE_UNITS = ("CPU_AND_NE", "ALL", "CPU_ONLY")
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The time of one kind of call, in nanoseconds.

    Attributes:
        median_ns: p50.
        p10_ns: tenth percentile.
        p90_ns: ninetieth.
        p99_ns: ninety-ninth.
        spread: (p90 − p10) / median.
        noisy: the spread is above `NOISY_SPREAD`: compare with care.
        warmup_ns: the calls before the first round, not counted.
        samples_ns: all that were counted, in the order measured.
    """

    median_ns: float
    p10_ns: float
    p90_ns: float
    p99_ns: float
    spread: float
    noisy: bool
    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBench:
    """One file's latencies.

    Attributes:
        file: its file name.
        engine: what ran it, with its version, and the compute units that Core ML might use.
        sha256: of the file.
        size_bytes: of the file.
        bare: set, invoke and get on a ready tensor.
        predict: from uint8 pixels to probabilities, or to the outputs of another task; None for a
            file without facts, or which takes no pixels.
        predict_ratio: median of predict over median of bare.
    """

    file: str
    engine: str
    sha256: str
    size_bytes: int
    bare: Latency
    predict: Latency | None
    predict_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """Latencies on one machine, from one process but for Core ML.

    Attributes:
        host: the machine.
        threads: how many the engines might use.
        load_before: the one-minute load average before the first call; None on Windows.
        clock_resolution_ns: of `time.perf_counter_ns`.
        warmup_calls: per file and kind of call.
        rounds: how often the files took turns.
        calls_per_round: of each kind, per file.
        files: what ran.
        not_run: what could not, with the reason; a file's name alone stands for the engine as
            `hemline.load` opens it, `FILE (UNITS)` for other compute units.
    """

    host: Host
    threads: int
    load_before: float | None
    clock_resolution_ns: float
    warmup_calls: int
    rounds: int
    calls_per_round: int
    files: tuple[FileBench, ...]
    not_run: dict[str, str]


@dataclass(slots=True)
class _Timed:
    call: Callable[[Any], object]
    argument: NDArray[Any]
    times_ns: list[int]

    def measure(self, calls: int, clock: Callable[[], int]) -> None:
        call, argument, times = self.call, self.argument, self.times_ns
        for _ in range(calls):
            start = clock()
            call(argument)
            times.append(clock() - start)


def bench(
    paths: Sequence[Path],
    *,
    threads: int = 1,
    warmup_calls: int = WARMUP_CALLS,
    rounds: int = ROUNDS,
    calls_per_round: int = CALLS_PER_ROUND,
    compute_units: Sequence[str] = COMPUTE_UNITS,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Times files against each other.

    Args:
        paths: model files, and folders whose manifests list some.
        threads: how many threads an engine may use.
        warmup_calls: per file and kind of call, kept apart.
        rounds: how often the files take turns.
        calls_per_round: of each kind, per file.
        compute_units: what Core ML may run on, one result for each.
        clock: a monotonic clock in nanoseconds.
        progress: is told what is being run.

    Raises:
        InputError: there are no such compute units.
        ModelFileError: a file is missing, or none of them runs here.
        ChecksumError: a file is not the one that its manifest records.
        ManifestError: a folder has no valid manifest.
    """
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    for units in compute_units:
        if units not in coreml.COMPUTE_UNITS:
            raise InputError(
                f"compute units {units!r}: expected some of {', '.join(coreml.COMPUTE_UNITS)}"
            )
    models, packages, not_run = _load_all(paths, threads)
    timed = {model.path: _timed_calls(model) for model in models}
    warmups: dict[Path, list[list[int]]] = {}
    for path, calls in timed.items():
        progress(f"warm up {path.name}")
        for call in calls:
            call.measure(warmup_calls, clock)
        warmups[path] = [call.times_ns[:] for call in calls]
        for call in calls:
            call.times_ns.clear()
    order = list(timed)
    for turn in range(rounds if order else 0):
        progress(f"round {turn + 1} of {rounds}")
        start = turn % len(order)
        for path in order[start:] + order[:start]:
            for call in timed[path]:
                call.measure(calls_per_round, clock)
    files = [_summarize(model, timed[model.path], warmups[model.path]) for model in models]
    steps = ["--timing", str(warmup_calls), str(rounds), str(calls_per_round)]
    for package in packages:
        for units in compute_units:
            progress(f"{package.name} on {units}")
            answer = coreml_device.ask_child(package, units, steps)
            if "timing" in answer.results:
                where = f"the timing of {package}"
                file = from_json(FileBench, answer.results["timing"], where)
                files.append(replace(file, engine=f"{file.engine} {units}"))
            else:
                alone = units == coreml.DEFAULT_COMPUTE_UNITS
                name = package.name if alone else f"{package.name} ({units})"
                not_run[name] = answer.failure or "its process gave no timing"
    if not files:
        raise ModelFileError(f"nothing to time: {not_run or 'no files given'}")
    return BenchReport(
        host=describe_host(),
        threads=threads,
        load_before=load_before,
        clock_resolution_ns=time.get_clock_info("perf_counter").resolution * 1e9,
        warmup_calls=warmup_calls,
        rounds=rounds,
        calls_per_round=calls_per_round,
        files=tuple(files),
        not_run=not_run,
    )


def bench_model(model: Model, *, warmup_calls: int, rounds: int, calls_per_round: int) -> FileBench:
    """Times one model alone, as `bench` does."""
    calls = _timed_calls(model)
    for call in calls:
        call.measure(warmup_calls, time.perf_counter_ns)
    warmups = [call.times_ns[:] for call in calls]
    for call in calls:
        call.times_ns.clear()
    for _ in range(rounds):
        for call in calls:
            call.measure(calls_per_round, time.perf_counter_ns)
    return _summarize(model, calls, warmups)


def summarize_latency(warmup_ns: Sequence[int], samples_ns: Sequence[int]) -> Latency:
    """Returns the percentiles of samples in nanoseconds (NumPy's linear interpolation)."""
    p10, median, p90, p99 = (float(p) for p in np.percentile(samples_ns, [10, 50, 90, 99]))
    spread = (p90 - p10) / median if median else 0.0
    return Latency(
        median_ns=median,
        p10_ns=p10,
        p90_ns=p90,
        p99_ns=p99,
        spread=spread,
        noisy=spread > NOISY_SPREAD,
        warmup_ns=tuple(warmup_ns),
        samples_ns=tuple(samples_ns),
    )


def _load_all(
    paths: Sequence[Path], threads: int
) -> tuple[list[Model], list[Path], dict[str, str]]:
    """Loads the files, but for the Core ML packages, which are for child processes to load."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir() and path.suffix != ".mlpackage":
            files += [path / artifact.file for artifact in read_manifest(path).artifacts]
        else:
            files.append(path)
    models, packages, not_run = [], [], {}
    for file in dict.fromkeys(files):
        if file.suffix == ".mlpackage" and file.exists() and coreml.runs_here():
            packages.append(file)
            continue
        try:
            models.append(load(file, threads=threads))
        except EngineUnavailableError as error:
            not_run[file.name] = str(error)
    return models, packages, not_run


def _timed_calls(model: Model) -> list[_Timed]:
    """Returns the bare call and, where the facts allow it, the predict call, on noise."""
    random = np.random.default_rng(_SEED)
    facts = model.facts
    if facts is None or facts.input.preprocessing is None:
        return [_Timed(model.engine.run, _noise(model.engine.inputs[0], random), [])]
    image = random.integers(0, 256, facts.input.shape, np.uint8)
    return [
        _Timed(model.engine.run, model.tensor(image), []),
        _Timed(model.predict if facts.task == Task.CLASSIFICATION else model.outputs, image, []),
    ]


def _noise(spec: TensorSpec, random: np.random.Generator) -> NDArray[Any]:
    shape = tuple(size or 1 for size in spec.shape)
    if np.issubdtype(np.dtype(spec.dtype), np.integer):
        limits = np.iinfo(spec.dtype)
        return random.integers(limits.min, limits.max, shape, spec.dtype, endpoint=True)
    return random.random(shape).astype(spec.dtype)


def _summarize(model: Model, calls: list[_Timed], warmups: list[list[int]]) -> FileBench:
    latencies = [
        summarize_latency(warmup, call.times_ns)
        for warmup, call in zip(warmups, calls, strict=True)
    ]
    bare, predict = latencies[0], latencies[1] if len(latencies) > 1 else None
    return FileBench(
        file=model.path.name,
        engine=f"{model.engine.name} {model.engine.version()}",
        sha256=sha256(model.path),
        size_bytes=size_bytes(model.path),
        bare=bare,
        predict=predict,
        predict_ratio=predict.median_ns / bare.median_ns if predict else None,
    )

"""`hemline bench`: the latency of model files on this machine, measured against each other.

Every file is opened once for each number of threads and size of batch, and all of them take turns
(see `hemline.benchmark.timing`) at two calls or more (see `hemline.benchmark.timed_calls`).

On macOS, Core ML packages are timed after the other files, one choice of compute units after the
other, each in a process of its own (see `hemline.coreml.device`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from hemline.benchmark.first_answer import first_answer
from hemline.benchmark.latency import Latency, compare_rounds, compare_runs
from hemline.benchmark.report import ALONE, BenchReport, FileBench, PeerBench
from hemline.benchmark.speed import FLOAT_RECIPES, Speed, judge_speed
from hemline.benchmark.timed_calls import alone_call, bare_call, peer_calls, predict_call
from hemline.benchmark.timing import Case, Schedule, describe_clock, take_turns
from hemline.coreml import device as coreml_device
from hemline.documents import from_json
from hemline.engines import coreml, engine_names
from hemline.errors import EngineUnavailableError, InputError, ModelFileError
from hemline.host import describe_machine, load_average
from hemline.listing import FILE_NAME as MANIFEST
from hemline.manifest import read_manifest
from hemline.model import Model, load
from hemline.snapshot import Snapshot

# What Core ML packages are timed on: what `hemline.load` takes comes first.
COMPUTE_UNITS = ("CPU_AND_NE", "ALL", "CPU_ONLY")

_PREDICT, _BARE = "predict", "bare"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A file that is open, and its case."""

    model: Model
    threads: int | None
    batch: int
    case: Case

    @property
    def snapshot(self) -> Snapshot:
        """What was read of the file."""
        return cast(Snapshot, self.model.snapshot)


def bench(
    paths: Sequence[Path],
    *,
    schedule: Schedule | None = None,
    threads: Sequence[int] = (1,),
    batches: Sequence[int] = (1,),
    compute_units: Sequence[str] = COMPUTE_UNITS,
    with_peers: bool = False,
    with_memory: bool = False,
    trust: bool = False,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Times files against each other.

    Args:
        paths: model files, and folders whose manifests list some.
        schedule: how many calls to make; None for the default.
        threads: how many threads an engine may use, one result for each.
        batches: how many images to give in a call, one result for each.
        compute_units: what Core ML may run on, one result for each.
        with_peers: time each engine without Hemline too, and the float models in Keras.
        with_memory: start a process for each result, to see its memory and its first answer.
        trust: as for `hemline.load`.
        clock: a monotonic clock in nanoseconds.
        progress: is told what is being run.

    Raises:
        InputError: there are no such compute units.
        ModelFileError: a file is missing, or none of them runs here.
        ChecksumError: a file is not the one that its manifest records.
        ManifestError: a folder has no valid manifest.
    """
    for units in compute_units:
        if units not in coreml.COMPUTE_UNITS:
            raise InputError(
                f"compute units {units!r}: expected some of {', '.join(coreml.COMPUTE_UNITS)}"
            )
    schedule, load_before = schedule or Schedule(), load_average()
    opened: list[_Opened] = []
    packages: list[Path] = []
    not_run: dict[str, str] = {}
    for path in _list_files(paths):
        if path.suffix == ".mlpackage" and path.exists() and coreml.runs_here():
            packages.append(path)
            continue
        try:
            for count in threads:
                opened += [_open(path, count, batch, with_peers, trust) for batch in batches]
        except EngineUnavailableError as error:
            not_run[path.name] = str(error)
    in_keras = _open_keras(opened, batches, not_run) if with_peers else []
    take_turns([one.case for one in [*opened, *in_keras]], schedule, clock, progress)
    peers = [peer for one in in_keras for peer in _peers(one, one.case.latencies())]
    files = []
    for one in opened:
        measured = one.case.latencies()
        peers += _peers(one, measured)
        files.append(_summarize(one, measured))
    files = [_with_peer_ratios(file, peers) for file in files]
    if with_memory:
        for i, one in enumerate(opened):
            progress(f"first answer of {one.model.path.name}")
            found = first_answer(one.model.path, one.threads or 1, one.batch)
            files[i] = replace(files[i], first_answer=found)
    for package in packages:
        files += _time_package(package, compute_units, batches, schedule, not_run, progress)
    if not files:
        raise ModelFileError(f"nothing to time: {not_run or 'no files given'}")
    return BenchReport(
        machine=describe_machine(),
        clock=describe_clock(clock),
        schedule=schedule,
        load_before=load_before,
        load_after=load_average(),
        files=tuple(replace(file, speed=_speed(file, files)) for file in files),
        peers=tuple(peers),
        not_run=not_run,
    )


def bench_model(model: Model, schedule: Schedule, batch: int) -> FileBench:
    """Times one model alone, as `bench` does, for an engine whose threads are its own affair."""
    one = _Opened(model=model, threads=None, batch=batch, case=_case(model, None, batch))
    take_turns([one.case], schedule, time.perf_counter_ns, lambda _: None)
    return _summarize(one, one.case.latencies())


def _list_files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir() and not engine_names(path):
            files += [path / artifact.file for artifact in read_manifest(path).artifacts]
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def _open(path: Path, threads: int, batch: int, with_peers: bool, trust: bool) -> _Opened:
    model = load(path, threads=threads, trust=trust)
    case = _case(model, threads if with_peers else None, batch)
    return _Opened(model=model, threads=threads, batch=batch, case=case)


def _case(model: Model, peer_threads: int | None, batch: int) -> Case:
    """Returns the calls of a file, and if `peer_threads` is given its engine's own as well."""
    calls = {
        _PREDICT: predict_call(model, batch),
        _BARE: bare_call(model, batch),
        ALONE: None if peer_threads is None else alone_call(model, peer_threads, batch),
    }
    return Case(model.path.name, {kind: call for kind, call in calls.items() if call is not None})


def _open_keras(
    opened: Sequence[_Opened], batches: Sequence[int], not_run: dict[str, str]
) -> list[_Opened]:
    """Opens the float models of the files' folders, and tells `not_run` of those it cannot."""
    folders = dict.fromkeys(one.model.path.parent for one in opened)
    paths = [
        folder / read_manifest(folder).float_model.file
        for folder in folders
        if (folder / MANIFEST).is_file()
    ]
    if not paths:
        not_run["Keras"] = f"there is no {MANIFEST} beside the files to name their float model"
    found = []
    for path in paths:
        try:
            model = load(path)
        except (EngineUnavailableError, ModelFileError) as error:
            not_run[path.name] = str(error)
            continue
        found += [
            _Opened(
                model=model,
                threads=None,
                batch=batch,
                case=Case(path.name, peer_calls(model, batch)),
            )
            for batch in batches
        ]
    return found


def _summarize(one: _Opened, measured: Mapping[str, Latency]) -> FileBench:
    bare, predict = measured[_BARE], measured.get(_PREDICT)
    artifact = one.model.artifact
    return FileBench(
        file=one.model.path.name,
        engine=_engine(one),
        sha256=one.snapshot.sha256,
        size_bytes=one.snapshot.size_bytes,
        recipe=artifact.recipe if artifact else None,
        parent_sha256=artifact.parent_sha256 if artifact else None,
        threads=one.threads,
        batch=one.batch,
        cold_ns=one.case.cold_ns,
        bare=bare,
        predict=predict,
        predict_ratio=compare_rounds(predict, bare) if predict else None,
        image_ns=(predict or bare).median_ns / one.batch,
        peer_ratios={},
        speed=None,
        first_answer=None,
    )


def _peers(one: _Opened, measured: Mapping[str, Latency]) -> list[PeerBench]:
    return [
        PeerBench(
            name=name,
            file=one.model.path.name,
            sha256=one.snapshot.sha256,
            engine=_engine(one),
            threads=one.threads,
            batch=one.batch,
            latency=latency,
        )
        for name, latency in measured.items()
        if name not in (_PREDICT, _BARE)
    ]


def _with_peer_ratios(file: FileBench, peers: Sequence[PeerBench]) -> FileBench:
    """Compares a file with what ran the same file, or the float model that it was made from."""
    ratios = {
        peer.name: compare_rounds(peer.latency, file.main)
        for peer in peers
        if peer.sha256 in (file.sha256, file.parent_sha256)
        and peer.threads in (None, file.threads)
        and peer.batch == file.batch
    }
    return replace(file, peer_ratios=ratios)


def _time_package(
    package: Path,
    compute_units: Sequence[str],
    batches: Sequence[int],
    schedule: Schedule,
    not_run: dict[str, str],
    progress: Callable[[str], None],
) -> list[FileBench]:
    """Has child processes time a Core ML package, and tells `not_run` what failed."""
    files = []
    counts = (schedule.warmup_calls, schedule.calls_per_round, schedule.rounds or 0)
    for units in compute_units:
        for batch in batches:
            progress(f"{package.name} on {units}")
            steps = ["--timing", *map(str, (*counts, batch))]
            answer = coreml_device.ask_child(package, units, steps)
            if "timing" in answer.results:
                where = f"the timing of {package}"
                file = from_json(FileBench, answer.results["timing"], where)
                files.append(replace(file, engine=f"{file.engine} {units}"))
            else:
                alone = units == coreml.DEFAULT_COMPUTE_UNITS
                name = package.name if alone else f"{package.name} ({units})"
                not_run[name] = answer.failure or "its process gave no timing"
    return files


def _speed(file: FileBench, files: Sequence[FileBench]) -> Speed | None:
    """Judges a file against the float file that was made of the same model and timed alike."""
    if file.parent_sha256 is None:
        return None
    alike = [
        other
        for other in files
        if (other.parent_sha256, other.engine, other.threads, other.batch)
        == (file.parent_sha256, file.engine, file.threads, file.batch)
    ]
    references = [other for recipe in FLOAT_RECIPES for other in alike if other.recipe == recipe]
    if not references or file.recipe == references[0].recipe:
        return None
    # Core ML packages ran one after the other, each in a process of its own.
    compare = compare_runs if file.threads is None else compare_rounds
    return judge_speed(file.file, references[0].file, compare(references[0].main, file.main))


def _engine(one: _Opened) -> str:
    return f"{one.model.engine.name} {one.model.engine.version()}"

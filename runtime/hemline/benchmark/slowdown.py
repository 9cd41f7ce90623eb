"""Has anything become slower since an older bench.json of this machine?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hemline.benchmark.latency import LEAST_ROUNDS, Latency, Ratio, compare_runs
from hemline.benchmark.report import BenchReport, FileBench
from hemline.errors import IncomparableError
from hemline.host import Machine

SLOWER = "slower"
FASTER = "faster"
ALIKE = "alike"

# An interval knows how the rounds of a run differ, but not how runs do, which start with other
# addresses and other neighbours. docs/runtime.md has what that came to.
MARGIN_PERCENT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How one file's latency changed: of `predict` if both have it, else of the bare engine.

    Attributes:
        file: its file name.
        engine: what ran it, without its version.
        threads: how many the engine might use.
        batch: images in a call.
        old_ns: the median of the older run.
        new_ns: of the newer.
        ratio: new/old.
        verdict: `slower` if all of the ratio's interval is beyond the margin above 1, `faster` if
            all of that of old/new is, else `alike`.
    """

    file: str
    engine: str
    threads: int | None
    batch: int
    old_ns: float
    new_ns: float
    ratio: Ratio
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs on one machine.

    Attributes:
        margin_percent: the change that is tolerated.
        changes: of each row that both have.
        only_old: the rows that only the older has.
        only_new: that only the newer has.
        packages: of each package whose version differs, the older and the newer.
    """

    margin_percent: float
    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    packages: dict[str, tuple[str, ...]]


def require_same_machine(old: Machine, new: Machine) -> None:
    """Raises unless two runs are of one machine in one state.

    Versions of packages and of Python may differ: what they cost is a question to ask.

    Raises:
        IncomparableError: the processor, its cores, flags or governor, or the system differ.
    """
    before, now = _facts(old), _facts(new)
    for name in before:
        if before[name] != now[name]:
            raise IncomparableError(
                f"the older benchmark is of another machine: its {name} is {before[name]!r}, here "
                f"it is {now[name]!r}; latencies of two machines are not comparable: measure both "
                "on one"
            )
    flags, own = set(old.cpu_flags.split()), set(new.cpu_flags.split())
    if flags != own:
        raise IncomparableError(
            "the older benchmark is of another machine: of its processor's flags, "
            f"{sorted(flags - own)} are missing here, and {sorted(own - flags)} were missing there"
        )


def _facts(machine: Machine) -> dict[str, str | int | None]:
    return {
        "processor": machine.host.cpu,
        "number of cores": machine.host.cores,
        "instruction set": machine.host.machine,
        "system": machine.host.system,
        "governor": machine.governor,
    }


def compare_reports(old: BenchReport, new: BenchReport, margin_percent: float) -> Comparison:
    """Compares two runs row by row.

    Args:
        old: the older run.
        new: the newer.
        margin_percent: the change that is tolerated, above 0.

    Raises:
        IncomparableError: they are of different machines, have no row in common, or are too short
            for an interval.
    """
    require_same_machine(old.machine, new.machine)
    before, now = _rows(old.files), _rows(new.files)
    common = [key for key in now if key in before]
    if not common:
        raise IncomparableError(
            f"the benchmarks have no row in common: the older has {_names(before)}, this one "
            f"{_names(now)}"
        )
    one, other = (
        {"python": report.machine.host.python} | report.machine.host.packages
        for report in (old, new)
    )
    packages = {name: (one.get(name, "none"), other.get(name, "none")) for name in one | other}
    return Comparison(
        margin_percent=margin_percent,
        changes=tuple(_change(before[key], now[key], margin_percent) for key in common),
        only_old=tuple(_name(key) for key in before if key not in now),
        only_new=tuple(_name(key) for key in now if key not in before),
        packages={name: pair for name, pair in packages.items() if pair[0] != pair[1]},
    )


def _change(old: FileBench, new: FileBench, margin_percent: float) -> Change:
    one, other = _same_calls(old, new)
    ratio = compare_runs(other, one)
    if ratio.low is None or ratio.high is None:
        raise IncomparableError(
            f"{new.file}: {one.rounds} and {other.rounds} rounds, expected at least {LEAST_ROUNDS} "
            "in each benchmark: leave --rounds out"
        )
    limit, verdict = 1 + margin_percent / 100, ALIKE
    if ratio.low > limit:
        verdict = SLOWER
    elif ratio.high < 1 / limit:
        verdict = FASTER
    file, engine, threads, batch = _key(new)
    return Change(
        file=file,
        engine=engine,
        threads=threads,
        batch=batch,
        old_ns=one.median_ns,
        new_ns=other.median_ns,
        ratio=ratio,
        verdict=verdict,
    )


def _same_calls(old: FileBench, new: FileBench) -> tuple[Latency, Latency]:
    if old.predict is not None and new.predict is not None:
        return old.predict, new.predict
    return old.bare, new.bare


_Key = tuple[str, str, int | None, int]


def _rows(files: Sequence[FileBench]) -> dict[_Key, FileBench]:
    return {_key(file): file for file in files}


def _key(file: FileBench) -> _Key:
    name, _, *units = file.engine.split()
    return file.file, " ".join([name, *units]), file.threads, file.batch


def _name(key: _Key) -> str:
    file, engine, threads, batch = key
    parts = [file, f"in {engine}"]
    if threads is not None:
        parts.append(f"with {threads} thread{'s' if threads > 1 else ''}")
    return " ".join(parts) + (f", {batch} images" if batch > 1 else "")


def _names(rows: Mapping[_Key, FileBench]) -> str:
    return "; ".join(map(_name, rows))

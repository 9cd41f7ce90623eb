"""The command `hemline bench`: its words, and its tables."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hemline.benchmark import run as bench
from hemline.benchmark import slowdown
from hemline.benchmark.latency import NOISY_SPREAD, Latency, Ratio
from hemline.benchmark.report import ALONE, SCHEMA, BenchReport, FileBench, read_bench
from hemline.benchmark.speed import Speed
from hemline.benchmark.timing import ENOUGH_CALLS, ENOUGH_NS, Schedule
from hemline.console import (
    Commands,
    above_zero,
    add_trust,
    end_progress,
    positive,
    show_progress,
)
from hemline.documents import write_document
from hemline.host import describe_machine
from hemline.limits import DRAWN_ELEMENTS, ROUNDS, THREADS
from hemline.ownership import require_record
from hemline.report import format_table
from hemline.terminal import show


def add_command(commands: Commands) -> None:
    """Adds `bench` to the subcommands."""
    parser = commands.add_parser(
        "bench", help="latency of files on this machine, against each other"
    )
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="DIR|FILE", help="folders of artifacts, or files"
    )
    parser.add_argument(
        "--threads",
        type=lambda text: _positives(text, THREADS),
        default=(1,),
        metavar="N[,N]",
        help="that an engine may use, one row for each number (default 1)",
    )
    parser.add_argument(
        "--batch",
        type=_positives,
        default=(1,),
        metavar="N[,N]",
        help="images in a call, one row for each number (default 1)",
    )
    schedule = Schedule()
    parser.add_argument(
        "--rounds",
        type=lambda text: positive(text, ROUNDS),
        metavar="N",
        help=f"turns of up to {schedule.calls_per_round} calls of each kind (default: until a file "
        f"has made {ENOUGH_CALLS:,}, or was measured for {ENOUGH_NS / 1e9:g} s)",
    )
    parser.add_argument(
        "--compute-units",
        type=lambda text: tuple(text.split(",")),
        default=bench.COMPUTE_UNITS,
        metavar="UNITS",
        help=f"what Core ML may run on, one row for each (default {','.join(bench.COMPUTE_UNITS)})",
    )
    parser.add_argument(
        "--peer",
        action="store_true",
        help="time the engines without Hemline too, and the float models in Keras",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD.json",
        help="an older bench.json of this machine: exit 1 if a file has become slower",
    )
    parser.add_argument(
        "--margin",
        type=above_zero,
        default=slowdown.MARGIN_PERCENT,
        metavar="PERCENT",
        help="the slowdown that --compare tolerates (default %(default)g)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write bench.json there")
    add_trust(parser)
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    if options.json:
        require_record(options.json)
    old = read_bench(options.compare) if options.compare else None
    if old is not None:
        # Before the minutes that measuring takes.
        slowdown.require_same_machine(old.machine, describe_machine())
    result = bench.bench(
        options.paths,
        schedule=Schedule(rounds=options.rounds),
        threads=options.threads,
        batches=options.batch,
        compute_units=options.compute_units,
        with_peers=options.peer,
        with_memory=True,
        trust=options.trust,
        progress=show_progress,
    )
    end_progress()
    if options.json:
        write_document(options.json, SCHEMA, result)
    _show(_describe_run(result))
    _show(_table(result))
    if any(file.main.noisy for file in result.files):
        show(
            f"noisy: from p10 to p90 is more than {NOISY_SPREAD:.0%} of the median; something else "
            "was at work"
        )
    if result.peers:
        _show(_peer_table(result))
    for file, reason in result.not_run.items():
        show(f"{file}: not run: {reason}")
    if old is None:
        return 0
    comparison = slowdown.compare_reports(old, result, options.margin)
    _show(_comparison_table(comparison))
    return int(slowdown.SLOWER in {change.verdict for change in comparison.changes})


def _show(lines: str) -> None:
    for line in lines.split("\n"):
        show(line)


def _describe_run(result: BenchReport) -> str:
    machine, clock = result.machine, result.clock
    host = machine.host
    loads = [
        "not known" if load is None else f"{load:.2f}"
        for load in (result.load_before, result.load_after)
    ]
    counts = [len(file.main.samples_ns) for file in result.files]
    calls = " to ".join(dict.fromkeys(f"{count:,}" for count in (min(counts), max(counts))))
    engines = dict.fromkeys(" ".join(file.engine.split()[:2]) for file in result.files)
    threads = dict.fromkeys(file.threads for file in result.files if file.threads is not None)
    allowed = f"; {' and '.join(map(str, threads))} thread(s)" if threads else ""
    return "\n".join(
        [
            f"{host.cpu}, {host.cores} cores, {host.system}, governor "
            f"{machine.governor or 'not known'}, load {loads[0]} before and {loads[1]} after",
            f"{', '.join(engines)}{allowed}; {calls} calls of each kind, in turns, after "
            f"{result.schedule.warmup_calls}",
            f"{clock.name} steps by {clock.resolution_ns:g} ns and adds {clock.overhead_ns:g} ns "
            "to each call, not subtracted",
            "microseconds of predict; ± to the farther end of the 95 % interval; bare is the "
            "engine's set, invoke and get",
        ]
    )


def _table(result: BenchReport) -> str:
    with_threads, with_batch = _choices(result)
    header = [
        "file",
        "engine",
        *(["threads"] if with_threads else []),
        *(["batch", "an image"] if with_batch else []),
        "p50",
        "p90",
        "p99",
        "cold",
        "bare p50",
        "predict/bare",
        "float/this",
        "MiB",
        "spread",
    ]
    rows = []
    for file in result.files:
        peak = file.first_answer.peak_memory_bytes if file.first_answer else None
        rows.append(
            [
                file.file,
                _engine(file),
                *([_threads(file.threads)] if with_threads else []),
                *([str(file.batch), f"{file.image_ns / 1e3:.1f}"] if with_batch else []),
                _median(file.main),
                f"{file.main.p90_ns / 1e3:.1f}",
                "" if file.main.p99_ns is None else f"{file.main.p99_ns / 1e3:.1f}",
                f"{file.cold_ns / 1e3:.0f}",
                f"{file.bare.median_ns / 1e3:.1f}",
                _ratio(file.predict_ratio),
                _ratio(file.speed),
                "" if peak is None else f"{peak / 2**20:.0f}",
                "noisy" if file.main.noisy else "",
            ]
        )
    return format_table(header, rows)


def _peer_table(result: BenchReport) -> str:
    with_threads, with_batch = _choices(result)
    names = sorted({peer.name for peer in result.peers}, key=lambda name: (name != ALONE, name))
    header = [
        "file",
        *(["threads"] if with_threads else []),
        *(["batch"] if with_batch else []),
        *(f"{name}/predict" for name in names),
    ]
    rows = [
        [
            file.file,
            *([_threads(file.threads)] if with_threads else []),
            *([str(file.batch)] if with_batch else []),
            *(_ratio(file.peer_ratios.get(name)) for name in names),
        ]
        for file in result.files
    ]
    lines = [f"{ALONE}: the engine by a script without Hemline", format_table(header, rows)]
    lines += [
        f"{peer.name} of {peer.file}, {peer.engine}"
        f"{f', {peer.batch} images' if peer.batch > 1 else ''}: {_median(peer.latency)} µs"
        for peer in result.peers
        if peer.name != ALONE
    ]
    return "\n".join(lines)


def _comparison_table(found: slowdown.Comparison) -> str:
    header = ("file", "engine", "threads", "batch", "old p50", "new p50", "new/old", "verdict")
    rows = [
        [
            change.file,
            change.engine,
            _threads(change.threads),
            str(change.batch),
            f"{change.old_ns / 1e3:.1f}",
            f"{change.new_ns / 1e3:.1f}",
            _ratio(change.ratio),
            change.verdict,
        ]
        for change in found.changes
    ]
    lines = [
        f"against the older benchmark; {slowdown.SLOWER}: all of the 95 % interval is above "
        f"1 + {found.margin_percent:g} %",
        format_table(header, rows),
    ]
    lines += [f"{name}: {' → '.join(versions)}" for name, versions in found.packages.items()]
    lines += [f"{row}: only in the older benchmark" for row in found.only_old]
    lines += [f"{row}: not in the older benchmark" for row in found.only_new]
    return "\n".join(lines)


def _choices(result: BenchReport) -> tuple[bool, bool]:
    """Says whether threads, and batches, are worth a column."""
    threads = {file.threads for file in result.files if file.threads is not None}
    return len(threads) > 1, {file.batch for file in result.files} != {1}


def _engine(file: FileBench) -> str:
    name, _, *units = file.engine.split()
    return " ".join([name, *units])


def _threads(threads: int | None) -> str:
    return "" if threads is None else str(threads)


def _median(latency: Latency) -> str:
    median = f"{latency.median_ns / 1e3:.1f}"
    if latency.low_ns is None or latency.high_ns is None:
        return median
    reach = max(latency.median_ns - latency.low_ns, latency.high_ns - latency.median_ns)
    return f"{median}±{reach / 1e3:.1f}"


def _ratio(found: Ratio | Speed | None) -> str:
    if found is None:
        return ""
    digits = 3 if found.ratio < 10 else 0 if found.ratio > 100 else 1
    if found.low is None or found.high is None:
        return f"{found.ratio:.{digits}f}"
    reach = max(found.ratio - found.low, found.high - found.ratio)
    return f"{found.ratio:.{digits}f}±{reach:.{digits}f}"


def _positives(text: str, most: int = DRAWN_ELEMENTS) -> Sequence[int]:
    return tuple(dict.fromkeys(positive(number, most) for number in text.split(",")))

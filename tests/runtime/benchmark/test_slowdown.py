from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hemline.benchmark.latency import Latency, summarize_latency
from hemline.benchmark.report import BenchReport, FileBench
from hemline.benchmark.slowdown import compare_reports, require_same_machine
from hemline.errors import IncomparableError


def takes(ns: int, rounds: int = 20) -> Latency:
    """Calls that take from 1 % less to 1 % more than this."""
    samples = [ns * (99 + (i % 3)) // 100 for i in range(3 * rounds)]
    return summarize_latency([], samples, rounds)


@pytest.fixture
def of(empty_bench: BenchReport, file_bench: FileBench) -> Callable[..., BenchReport]:
    """Makes the benchmark of files that are changed as told."""

    def of(*changes: dict[str, Any]) -> BenchReport:
        files = tuple(replace(file_bench, **change) for change in changes)
        return replace(empty_bench, files=files)

    return of


@pytest.mark.parametrize(
    ("new_ns", "margin", "verdict"),
    [
        (10_000, 10, "alike"),
        (10_800, 10, "alike"),
        (11_800, 10, "slower"),
        (11_800, 25, "alike"),
        (9_300, 10, "alike"),
        (8_500, 10, "faster"),
    ],
)
def test_beyond_the_margin(
    of: Callable[..., BenchReport], new_ns: int, margin: float, verdict: str
) -> None:
    found = compare_reports(of({"bare": takes(10_000)}), of({"bare": takes(new_ns)}), margin)
    (change,) = found.changes
    assert (change.old_ns, change.new_ns) == (10_000.0, new_ns)
    assert change.ratio.ratio == new_ns / 10_000
    assert (change.file, change.engine, change.threads, change.batch) == (
        "toy.int8.tflite",
        "litert",
        1,
        1,
    )
    assert change.verdict == verdict
    assert found.margin_percent == margin


def test_an_interval_across_the_margin_is_no_slowdown(of: Callable[..., BenchReport]) -> None:
    # The new rounds differ so much that their median might be anything from 1 to 2.
    unsteady = summarize_latency([], [10_000, 20_000] * 10, 20)
    found = compare_reports(of({"bare": takes(10_000)}), of({"bare": unsteady}), 10)
    assert found.changes[0].ratio.ratio == 1.5
    assert found.changes[0].verdict == "alike"


def test_what_a_user_waits_for_is_compared(of: Callable[..., BenchReport]) -> None:
    old = of({"bare": takes(100), "predict": takes(200)})
    new = of({"bare": takes(100), "predict": takes(300)})
    assert compare_reports(old, new, 10).changes[0].verdict == "slower"
    bare = of({"bare": takes(100)})
    for one, other in ((old, bare), (bare, old)):
        (change,) = compare_reports(one, other, 10).changes
        assert (change.old_ns, change.new_ns) == (100.0, 100.0)


def test_rows_are_paired_by_file_engine_threads_and_batch(of: Callable[..., BenchReport]) -> None:
    old = of({"threads": 1}, {"threads": 2}, {"file": "gone.onnx", "engine": "onnxruntime 1"})
    new = of(
        {"threads": 2, "engine": "litert 3"},
        {"threads": 1, "batch": 8},
        {"engine": "coreml 9 ALL", "threads": None},
    )
    found = compare_reports(old, new, 10)
    # The engine's version may differ: what it costs is the question.
    assert [(change.engine, change.threads) for change in found.changes] == [("litert", 2)]
    assert found.only_old == (
        "toy.int8.tflite in litert with 1 thread",
        "gone.onnx in onnxruntime with 1 thread",
    )
    assert found.only_new == (
        "toy.int8.tflite in litert with 1 thread, 8 images",
        "toy.int8.tflite in coreml ALL",
    )


def test_versions_that_differ_are_named(of: Callable[..., BenchReport]) -> None:
    old, new = of({}), of({})
    host = replace(old.machine.host, python="3.12", packages={"numpy": "3", "onnxruntime": "1"})
    new = replace(new, machine=replace(new.machine, host=host))
    assert compare_reports(old, new, 10).packages == {
        "python": ("3.11", "3.12"),
        "numpy": ("2", "3"),
        "onnxruntime": ("none", "1"),
    }
    assert compare_reports(new, old, 10).packages == {
        "python": ("3.12", "3.11"),
        "numpy": ("3", "2"),
        "onnxruntime": ("1", "none"),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cpu": "y"}, "its processor is 'x', here it is 'y'"),
        ({"cores": 4}, "its number of cores is 2, here it is 4"),
        ({"machine": "arm64"}, "its instruction set is 'm', here it is 'arm64'"),
        ({"system": "Linux 7"}, "its system is 's', here it is 'Linux 7'"),
    ],
)
def test_another_machine_is_refused(
    of: Callable[..., BenchReport], change: dict[str, Any], message: str
) -> None:
    old, new = of({}), of({})
    machine = replace(new.machine, host=replace(new.machine.host, **change))
    with pytest.raises(IncomparableError, match=f"is of another machine: {message}; latencies"):
        compare_reports(old, replace(new, machine=machine), 10)


def test_another_state_of_the_machine_is_refused(empty_bench: BenchReport) -> None:
    machine = empty_bench.machine
    require_same_machine(machine, replace(machine, cpu_flags="sse2 avx2"))
    with pytest.raises(IncomparableError, match="its governor is None, here it is 'powersave'"):
        require_same_machine(machine, replace(machine, governor="powersave"))
    with pytest.raises(
        IncomparableError,
        match=r"flags, \['avx2'\] are missing here, and \['neon'\] were missing there",
    ):
        require_same_machine(machine, replace(machine, cpu_flags="sse2 neon"))


def test_nothing_in_common(of: Callable[..., BenchReport]) -> None:
    message = (
        "no row in common: the older has toy.int8.tflite in litert with 1 thread; "
        "this one toy.int8.tflite in litert with 4 threads"
    )
    with pytest.raises(IncomparableError, match=message.replace("; this one", ", this one")):
        compare_reports(of({}), of({"threads": 4}), 10)


def test_too_few_rounds_for_an_interval(of: Callable[..., BenchReport]) -> None:
    with pytest.raises(IncomparableError, match="20 and 14 rounds, expected at least 15 in each"):
        compare_reports(of({"bare": takes(9)}), of({"bare": takes(9, rounds=14)}), 10)

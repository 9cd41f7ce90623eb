import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hemline.benchmark import command as bench_command
from hemline.benchmark.first_answer import FirstAnswer
from hemline.benchmark.latency import Ratio, summarize_latency
from hemline.benchmark.report import SCHEMA, BenchReport, FileBench, PeerBench, read_bench
from hemline.benchmark.speed import Speed
from hemline.benchmark.timing import Schedule
from hemline.cli import main
from hemline.documents import write_document
from hemline.host import describe_machine

INT8 = "separable.int8.tflite"

Captured = pytest.CaptureFixture[str]


def run(capsys: Captured, *words: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["bench", *[str(word) for word in words]])
    out, err = capsys.readouterr()
    return status, out, err


def fails(capsys: Captured, message: str, *words: str | Path) -> None:
    """Checks that the command ends in one line on stderr, nothing on stdout, and status 2."""
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert re.fullmatch(rf"hemline: [^\n]*{message}[^\n]*\n", err), err


class Measured:
    """Stands in for `hemline.benchmark.run.bench`: keeps how it was called, and gives a report."""

    def __init__(self, report: BenchReport) -> None:
        self.report = report
        self.options: dict[str, Any] = {}

    def __call__(self, paths: list[Path], **options: Any) -> BenchReport:
        self.options = {"paths": paths, **options}
        return self.report


@pytest.fixture
def measured(
    empty_bench: BenchReport, file_bench: FileBench, monkeypatch: pytest.MonkeyPatch
) -> Measured:
    """Two files, of which the first was compared with the second, on this machine."""
    fast = replace(
        file_bench,
        predict=summarize_latency([], [1400, 1500, 1600] * 340, 20),
        predict_ratio=Ratio(ratio=1.5, low=1.4966, high=1.502),
        speed=Speed(
            file="toy.int8.tflite",
            reference="toy.float32.onnx",
            ratio=2.5,
            low=2.4,
            high=2.51,
            verdict="faster",
        ),
        first_answer=FirstAnswer(load_ns=1, first_call_ns=2, peak_memory_bytes=40 * 2**20),
    )
    slow = replace(
        file_bench,
        file="toy.float32.onnx",
        engine="onnxruntime 1",
        bare=summarize_latency([], [2000, 4000] * 7, 14),
    )
    report = replace(
        empty_bench,
        machine=describe_machine(),
        load_before=0.5,
        load_after=1.25,
        files=(fast, slow),
        not_run={"toy.float16.mlpackage": "no Mac"},
    )
    measured = Measured(report)
    monkeypatch.setattr(bench_command.bench, "bench", measured)
    return measured


def test_the_table(measured: Measured, capsys: Captured) -> None:
    status, out, err = run(capsys, "toy")
    assert (status, err) == (0, "")
    host = measured.report.machine.host
    lines = out.splitlines()
    assert lines[0].startswith(f"{host.cpu}, {host.cores} cores, {host.system}, governor ")
    assert lines[0].endswith(", load 0.50 before and 1.25 after")
    assert lines[1:4] == [
        "litert 2, onnxruntime 1; 1 thread(s); 14 to 1,020 calls of each kind, in turns, after 1",
        "time.perf_counter_ns steps by 1 ns and adds 40 ns to each call, not subtracted",
        "microseconds of predict; ± to the farther end of the 95 % interval; bare is the engine's "
        "set, invoke and get",
    ]
    del lines[5]
    assert [" ".join(line.replace("|", " ").split()) for line in lines[4:7]] == [
        "file engine p50 p90 p99 cold bare p50 predict/bare float/this MiB spread",
        "toy.int8.tflite litert 1.5±0.0 1.6 1.6 5 1.0 1.500±0.003 2.500±0.100 40",
        "toy.float32.onnx onnxruntime 3.0 4.0 5 3.0 noisy",
    ]
    assert lines[7:] == [
        "noisy: from p10 to p90 is more than 25% of the median; something else was at work",
        "toy.float16.mlpackage: not run: no Mac",
    ]


def test_threads_and_batches_have_columns_where_there_are_several(
    measured: Measured, capsys: Captured
) -> None:
    fast, slow = measured.report.files
    files = (fast, replace(slow, threads=2, batch=8, image_ns=375.0))
    measured.report = replace(measured.report, files=files)
    lines = run(capsys, "toy")[1].splitlines()
    assert lines[4].replace(" ", "").startswith("|file|engine|threads|batch|animage|p50|")
    assert lines[6].replace(" ", "").startswith("|toy.int8.tflite|litert|1|1|1.0|1.5±0.0|")
    assert lines[7].replace(" ", "").startswith("|toy.float32.onnx|onnxruntime|2|8|0.4|3.0|")


def test_the_peers_have_a_table(
    measured: Measured, file_bench: FileBench, capsys: Captured
) -> None:
    ratios = {
        "keras call": Ratio(ratio=123.456, low=120.0, high=125.0),
        "keras predict": Ratio(ratio=12.345, low=None, high=None),
        "alone": Ratio(ratio=0.9, low=0.89, high=0.92),
    }
    fast, slow = measured.report.files
    peers = tuple(
        PeerBench(
            name=name,
            file="toy.float.keras" if name.startswith("keras") else fast.file,
            sha256="",
            engine="keras 3",
            threads=None,
            batch=batch,
            latency=file_bench.bare,
        )
        for name, batch in (("keras call", 1), ("keras predict", 8), ("alone", 1))
    )
    files = (replace(fast, peer_ratios=ratios), slow)
    measured.report = replace(measured.report, files=files, peers=peers)
    lines = run(capsys, "toy")[1].splitlines()
    start = lines.index("alone: the engine by a script without Hemline")
    assert lines[start + 1 : start + 7] == [
        "| file             | alone/predict | keras call/predict | keras predict/predict |",
        "| ---------------- | ------------: | -----------------: | --------------------: |",
        "| toy.int8.tflite  |   0.900±0.020 |              123±3 |                  12.3 |",
        "| toy.float32.onnx |               |                    |                       |",
        "keras call of toy.float.keras, keras 3: 1.0±0.0 µs",
        "keras predict of toy.float.keras, keras 3, 8 images: 1.0±0.0 µs",
    ]


def test_what_is_asked_for_is_measured(measured: Measured, capsys: Captured) -> None:
    run(capsys, "a", "b.onnx")
    assert measured.options.pop("progress") is bench_command.show_progress
    assert measured.options == {
        "paths": [Path("a"), Path("b.onnx")],
        "schedule": Schedule(),
        "threads": (1,),
        "batches": (1,),
        "compute_units": ("CPU_AND_NE", "ALL", "CPU_ONLY"),
        "with_peers": False,
        "with_memory": True,
        "trust": False,
    }
    words = ["--threads", "1,2,1", "--batch", "8", "--rounds", "3", "--peer"]
    run(capsys, "a", *words, "--compute-units", "ALL,CPU_ONLY")
    assert measured.options["schedule"] == Schedule(rounds=3)
    assert measured.options["threads"] == (1, 2)
    assert measured.options["batches"] == (8,)
    assert measured.options["compute_units"] == ("ALL", "CPU_ONLY")
    assert measured.options["with_peers"] is True


def test_a_slowdown_ends_in_status_1(measured: Measured, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "old.json"
    files = (measured.report.files[0],)
    measured.report = replace(measured.report, files=files)
    write_document(path, SCHEMA, measured.report)
    status, out, _ = run(capsys, "toy", "--compare", path)
    assert status == 0
    lines = out.splitlines()
    assert lines[-4] == (
        "against the older benchmark; slower: all of the 95 % interval is above 1 + 5 %"
    )
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells == ["toy.int8.tflite", "litert", "1", "1", "1.5", "1.5", "1.000±0.000", "alike"]
    slower = replace(files[0], predict=summarize_latency([], [1680, 1800, 1920] * 340, 20))
    measured.report = replace(measured.report, files=(slower,))
    status, out, _ = run(capsys, "toy", "--compare", path)
    assert (status, out.splitlines()[-1].split()[-2]) == (1, "slower")
    assert run(capsys, "toy", "--compare", path, "--margin", "25")[0] == 0
    other = replace(files[0], threads=4)
    packages = measured.report.machine.host.packages | {"numpy": "0.1"}
    host = replace(measured.report.machine.host, packages=packages)
    machine = replace(measured.report.machine, host=host)
    old = replace(measured.report, machine=machine, files=(slower, replace(slower, batch=2)))
    write_document(path, SCHEMA, old)
    measured.report = replace(measured.report, files=(slower, other))
    lines = run(capsys, "toy", "--compare", path)[1].splitlines()
    assert any(re.fullmatch(r"numpy: 0\.1 → [\d.]+", line) for line in lines)
    assert lines[-2:] == [
        "toy.int8.tflite in litert with 1 thread, 2 images: only in the older benchmark",
        "toy.int8.tflite in litert with 4 threads: not in the older benchmark",
    ]


def test_another_machine_is_refused_before_anything_is_measured(
    measured: Measured, tmp_path: Path, capsys: Captured
) -> None:
    machine = measured.report.machine
    other = replace(machine, host=replace(machine.host, cpu="Z80"))
    write_document(tmp_path / "old.json", SCHEMA, replace(measured.report, machine=other))
    message = "the older benchmark is of another machine: its processor is 'Z80'"
    fails(capsys, message, "toy", "--compare", tmp_path / "old.json")
    assert measured.options == {}


def test_a_benchmark_to_compare_with_that_is_none(tmp_path: Path, capsys: Captured) -> None:
    fails(capsys, r"cannot read .*none\.json", "toy", "--compare", tmp_path / "none.json")
    (tmp_path / "old.json").write_text('{"schema": "hemline.bench/1"}')
    fails(capsys, "make it anew", "toy", "--compare", tmp_path / "old.json")


def test_a_real_run(exported: Path, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "b.json"
    status, out, err = run(capsys, exported, "--rounds", "15", "--threads", "2", "--json", path)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert "; 2 thread(s); 750 calls of each kind, in turns, after 50" in lines[1]
    files = ["separable.float32.tflite", INT8, "separable.float32.onnx"]
    assert [line.split()[1] for line in lines[6:9]] == files
    assert lines[-1].startswith("separable.float16.mlpackage: not run: Core ML runs on macOS only")
    report = read_bench(path)
    assert [file.file for file in report.files] == files
    assert {file.threads for file in report.files} == {2}
    assert [file.speed is not None for file in report.files] == [False, True, False]
    for file in report.files:
        assert file.first_answer is not None
        assert file.main.rounds == 15
        assert len(file.main.samples_ns) == len(file.bare.samples_ns) == 750
    # Samples stand on one line each, and so all of them stay small.
    assert path.stat().st_size < 100_000


def test_compute_units(exported: Path, capsys: Captured) -> None:
    message = r"compute units 'NPU': expected some of CPU_AND_NE, ALL, CPU_ONLY, CPU_AND_GPU"
    fails(capsys, message, exported, "--compute-units", "ALL,NPU")
    words = [exported / INT8, "--rounds", "1", "--compute-units", "ALL,CPU_ONLY"]
    assert run(capsys, *words)[0] == 0


def test_bad_input(exported: Path, tmp_path: Path, capsys: Captured) -> None:
    fails(capsys, "there is no model file", tmp_path / "none.tflite")
    fails(capsys, r"has no manifest\.json", tmp_path)
    fails(capsys, "nothing to time", exported / "separable.float16.mlpackage")


@pytest.mark.parametrize(
    "option",
    ["--rounds=0", "--rounds=x", "--threads=0", "--threads=1,x", "--batch=-1", "--margin=0"],
)
def test_impossible_numbers(capsys: Captured, option: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "x", option])
    assert "hemline bench: error: argument" in capsys.readouterr().err

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemline.benchmark import run as module
from hemline.benchmark.first_answer import FirstAnswer
from hemline.benchmark.latency import Ratio, summarize_latency
from hemline.benchmark.report import SCHEMA, BenchReport, FileBench
from hemline.benchmark.run import bench
from hemline.benchmark.timing import Schedule
from hemline.coreml.device import Answer
from hemline.documents import decode, encode, to_json
from hemline.errors import (
    ChecksumError,
    EngineUnavailableError,
    InputError,
    ManifestError,
    ModelFileError,
)
from hemline.facts import TensorSpec
from hemline.files import sha256, size_bytes
from hemline.model import load

SHORT = Schedule(warmup_calls=1, calls_per_round=3, rounds=2)
# How many times 100 ns a fake file's bare call takes, its recipe and its float model.
FAKES = {
    "f16": (20, "float16", "parent"),
    "f32": (30, "float32", "parent"),
    "i8": (10, "int8", "parent"),
    "other": (5, "int8", "other parent"),
    "raw": (4, None, None),
}


class Clock:
    """Stands still but for the models' calls, which it lists by name."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now


class FakeModel:
    """Calls take as long as `FAKES` says over the number of threads, and `predict` 500 ns more."""

    def __init__(self, path: Path, clock: Clock, threads: int) -> None:
        number, recipe, parent = FAKES[path.stem]
        self.path, self.clock, self.threads = path, clock, threads
        self.takes_ns = 100 * number // threads
        self.snapshot = SimpleNamespace(sha256=sha256(path), size_bytes=size_bytes(path))
        spec = TensorSpec(name="image", shape=(None, 2), dtype="int8")
        self.engine = SimpleNamespace(
            name="fake", version=lambda: "1", inputs=(spec,), run=self.run_bare
        )
        facts = SimpleNamespace(
            task="classification", input=SimpleNamespace(shape=(2,), preprocessing=object())
        )
        self.facts = facts if recipe else None
        self.artifact = SimpleNamespace(recipe=recipe, parent_sha256=parent) if recipe else None

    def tensor(self, images: NDArray[Any]) -> NDArray[Any]:
        assert images.dtype == np.uint8
        return np.zeros((images.size // 2, 2), np.int8)

    def run_bare(self, tensor: NDArray[Any]) -> None:
        self.clock.calls.append(f"{self.path.stem} {self.threads} {len(tensor)} bare")
        self.clock.now += self.takes_ns * len(tensor)

    def predict(self, images: NDArray[Any]) -> None:
        self.clock.calls.append(f"{self.path.stem} {self.threads} {images.size // 2}")
        self.clock.now += self.takes_ns * images.size // 2 + 500


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Makes the fake files, and their clock."""
    clock = Clock()
    for name in FAKES:
        (tmp_path / f"{name}.fake").write_bytes(name.encode())
    monkeypatch.setattr(
        module, "load", lambda path, *, threads, **_: FakeModel(path, clock, threads)
    )
    return clock


def run(tmp_path: Path, clock: Clock, *names: str, **options: Any) -> BenchReport:
    paths = [tmp_path / f"{name}.fake" for name in names]
    return bench(paths, clock=clock, **{"schedule": SHORT} | options)


def test_what_is_measured_of_a_file(tmp_path: Path, clock: Clock) -> None:
    report = run(tmp_path, clock, "i8", "raw")
    first, raw = report.files
    assert (first.file, first.engine, first.size_bytes) == ("i8.fake", "fake 1", 2)
    assert first.sha256 == sha256(tmp_path / "i8.fake")
    assert (first.recipe, first.parent_sha256) == ("int8", "parent")
    assert (first.threads, first.batch, first.cold_ns) == (1, 1, 1500)
    assert first.predict is not None
    assert first.predict.samples_ns == (1500,) * 6
    assert first.bare.samples_ns == (1000,) * 6
    assert first.bare.warmup_ns == (1000,)
    assert first.predict_ratio == Ratio(ratio=1.5, low=None, high=None)
    assert (first.image_ns, first.main) == (1500.0, first.predict)
    assert (first.peer_ratios, first.first_answer) == ({}, None)
    # Without facts there is no preprocessing to predict with.
    assert (raw.predict, raw.predict_ratio, raw.recipe, raw.parent_sha256) == (None,) * 4
    assert (raw.bare.samples_ns, raw.main, raw.cold_ns) == ((400,) * 6, raw.bare, 400)
    assert report.schedule == SHORT
    assert (report.peers, report.not_run) == ((), {})


def test_the_first_call_of_all_is_the_user_s(tmp_path: Path, clock: Clock) -> None:
    run(tmp_path, clock, "i8", "raw")
    assert clock.calls[:3] == ["i8 1 1", "i8 1 1", "i8 1 1 bare"]


def test_files_threads_and_batches_take_turns(tmp_path: Path, clock: Clock) -> None:
    schedule = Schedule(warmup_calls=1, calls_per_round=1, rounds=1)
    options = {"threads": (1, 2), "batches": (1, 4), "schedule": schedule}
    report = run(tmp_path, clock, "i8", "raw", **options)
    rows = [("i8", 1, 1), ("i8", 1, 4), ("i8", 2, 1), ("i8", 2, 4)]
    turns = [
        f"{name} {threads} {batch}{kind}" for name, threads, batch in rows for kind in ("", " bare")
    ]
    assert clock.calls[-12:-4] == turns
    assert clock.calls[-4:] == [f"raw {t} {b} bare" for t in (1, 2) for b in (1, 4)]
    assert [(file.file, file.threads, file.batch, file.image_ns) for file in report.files] == [
        ("i8.fake", 1, 1, 1500.0),
        ("i8.fake", 1, 4, 1125.0),
        ("i8.fake", 2, 1, 1000.0),
        ("i8.fake", 2, 4, 625.0),
        ("raw.fake", 1, 1, 400.0),
        ("raw.fake", 1, 4, 400.0),
        ("raw.fake", 2, 1, 200.0),
        ("raw.fake", 2, 4, 200.0),
    ]


def test_each_file_is_compared_with_its_float_file(tmp_path: Path, clock: Clock) -> None:
    schedule = Schedule(warmup_calls=1, calls_per_round=1, rounds=15)
    names = ("i8", "f16", "f32", "other", "raw")
    report = run(tmp_path, clock, *names, threads=(1, 2), schedule=schedule)
    found = [(file.file, file.threads, file.speed) for file in report.files if file.speed]
    assert [(name, threads) for name, threads, _ in found] == [
        ("i8.fake", 1),
        ("i8.fake", 2),
        ("f16.fake", 1),
        ("f16.fake", 2),
    ]
    for _, threads, speed in found:
        assert speed.reference == "f32.fake"
        times = {"i8.fake": 1000, "f16.fake": 2000}[speed.file] / threads + 500
        assert speed.ratio == speed.low == speed.high == (3000 / threads + 500) / times


def test_the_float16_file_stands_in_for_a_float32_file(tmp_path: Path, clock: Clock) -> None:
    schedule = Schedule(warmup_calls=1, rounds=15)
    report = run(tmp_path, clock, "f16", "i8", schedule=schedule)
    assert [file.speed and file.speed.reference for file in report.files] == [None, "f16.fake"]


def test_a_ratio_without_an_interval_is_no_verdict(tmp_path: Path, clock: Clock) -> None:
    report = run(tmp_path, clock, "f32", "i8", schedule=Schedule(rounds=14))
    assert [file.speed for file in report.files] == [None, None]


def test_by_default_two_thousand_samples_are_taken(tmp_path: Path, clock: Clock) -> None:
    report = run(tmp_path, clock, "i8", schedule=None)
    assert len(report.files[0].bare.samples_ns) == len(report.files[0].main.samples_ns) == 2000
    assert len(report.files[0].bare.warmup_ns) == 50


def test_a_file_named_twice_is_timed_once(tmp_path: Path, clock: Clock) -> None:
    report = run(tmp_path, clock, "i8", "f32", "i8")
    assert [file.file for file in report.files] == ["i8.fake", "f32.fake"]


def test_a_model_that_is_a_folder_is_no_folder_of_models(tmp_path: Path) -> None:
    for suffix in (".mlpackage", ".csource"):
        path = tmp_path / f"a{suffix}"
        path.mkdir()
        assert module._list_files([path]) == [path]


def test_progress_is_told(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    first = FirstAnswer(load_ns=1, first_call_ns=2, peak_memory_bytes=3)
    asked: list[Any] = []

    def answer(*how: Any) -> FirstAnswer:
        asked.append(how)
        return first

    monkeypatch.setattr(module, "first_answer", answer)
    options = {"with_memory": True, "threads": (2,), "batches": (8,), "progress": told.append}
    report = run(tmp_path, clock, "i8", **options)
    assert told == [
        "warm up i8.fake",
        "round 1, 1 of 1 to go",
        "round 2, 1 of 1 to go",
        "first answer of i8.fake",
    ]
    assert asked == [(tmp_path / "i8.fake", 2, 8)]
    assert report.files[0].first_answer == first


def test_a_folder_and_a_file_of_it(exported: Path) -> None:
    paths = [exported, exported / "separable.int8.tflite"]
    report = bench(paths, schedule=SHORT, with_memory=True)
    assert [(file.file, file.engine.split()[0]) for file in report.files] == [
        ("separable.float32.tflite", "litert"),
        ("separable.int8.tflite", "litert"),
        ("separable.float32.onnx", "onnxruntime"),
    ]
    assert [file.recipe for file in report.files] == ["float32", "int8", "float32"]
    assert {file.parent_sha256 for file in report.files} == {
        sha256(exported / "separable.float.keras")
    }
    assert list(report.not_run) == ["separable.float16.mlpackage"]
    assert "macOS" in report.not_run["separable.float16.mlpackage"]
    assert report.machine.host.cores > 0
    assert report.clock.resolution_ns > 0
    for file in report.files:
        assert file.predict is not None
        assert file.predict_ratio is not None
        assert len(file.bare.samples_ns) == len(file.predict.samples_ns) == 6
        assert min(file.bare.samples_ns) > 0
        assert file.cold_ns > 0
        assert file.first_answer is not None
    assert decode(SCHEMA, BenchReport, encode(SCHEMA, report), "b") == report


def test_peers_take_turns_in_the_same_rounds(exported: Path) -> None:
    files = [exported / f"separable.{name}" for name in ("int8.tflite", "float32.onnx")]
    report = bench(files, schedule=SHORT, threads=(1, 2), batches=(1, 2), with_peers=True)
    keras_file = "separable.float.keras"
    rows = [
        (name, keras_file, None, batch)
        for batch in (1, 2)
        for name in ("keras predict", "keras call")
    ] + [("alone", file.name, t, b) for file in files for t in (1, 2) for b in (1, 2)]
    assert [(peer.name, peer.file, peer.threads, peer.batch) for peer in report.peers] == rows
    assert {peer.engine.split()[0] for peer in report.peers} == {"keras", "litert", "onnxruntime"}
    assert {peer.latency.rounds for peer in report.peers} == {2}
    medians = {
        (peer.name, peer.file, peer.threads, peer.batch): peer.latency for peer in report.peers
    }
    for file in report.files:
        assert sorted(file.peer_ratios) == ["alone", "keras call", "keras predict"]
        # Keras takes a hundred times as long: this is the right way round on any machine.
        assert file.peer_ratios["keras predict"].ratio > 1
        alone = medians["alone", file.file, file.threads, file.batch]
        assert file.peer_ratios["alone"] == module.compare_rounds(alone, file.main)
    assert report.not_run == {}
    assert decode(SCHEMA, BenchReport, encode(SCHEMA, report), "b") == report


def test_files_without_a_manifest_have_no_float_model(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.int8.tflite"
    copy.write_bytes((exported / "separable.int8.tflite").read_bytes())
    report = bench([copy], schedule=SHORT, with_peers=True)
    assert [peer.name for peer in report.peers] == ["alone"]
    assert report.not_run == {
        "Keras": "there is no manifest.json beside the files to name their float model"
    }


def test_a_float_model_that_does_not_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *, threads: int = 1, trust: bool = False) -> Any:
        if path.suffix == ".keras":
            raise EngineUnavailableError("no Keras here")
        return load(path, threads=threads, trust=trust)

    monkeypatch.setattr(module, "load", refuse)
    report = bench([folder / "separable.int8.tflite"], schedule=SHORT, with_peers=True)
    assert report.not_run == {"separable.float.keras": "no Keras here"}
    assert list(report.files[0].peer_ratios) == ["alone"]


@pytest.fixture
def mac(exported: Path, file_bench: FileBench, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Makes this a Mac whose child processes answer, but die on ALL; lists what they are told."""
    monkeypatch.setattr("hemline.engines.coreml.sys", SimpleNamespace(platform="darwin"))
    told: list[list[str]] = []
    package = exported / "separable.float16.mlpackage"

    def ask(path: Path, units: str, steps: list[str]) -> Answer:
        told.append([path.name, units, *steps])
        if units == "ALL":
            return Answer(results={}, failure="killed by SIGKILL")
        latency = summarize_latency([9], [len(units) * 1000] * 15, 15)
        timed = replace(
            file_bench,
            file=path.name,
            engine="coreml 9.0",
            sha256=sha256(package),
            recipe={"float16": "float16", "int8w": "int8w"}[path.name.split(".")[1]],
            threads=None,
            bare=latency,
            predict=latency,
        )
        return Answer(results={"timing": to_json(timed)}, failure=None)

    monkeypatch.setattr(module.coreml_device, "ask_child", ask)
    return told


def test_core_ml_packages_are_timed_in_child_processes(
    exported: Path, mac: list[list[str]]
) -> None:
    report = bench([exported], schedule=SHORT, batches=(1, 4))
    steps = ["--timing", "1", "3", "2"]
    file = "separable.float16.mlpackage"
    assert mac == [
        [file, units, *steps, batch]
        for units in ("CPU_AND_NE", "ALL", "CPU_ONLY")
        for batch in ("1", "4")
    ]
    assert [(file.file, file.engine) for file in report.files[6:]] == [
        (file, "coreml 9.0 CPU_AND_NE"),
        (file, "coreml 9.0 CPU_AND_NE"),
        (file, "coreml 9.0 CPU_ONLY"),
        (file, "coreml 9.0 CPU_ONLY"),
    ]
    assert [file.bare.median_ns for file in report.files[6::2]] == [10_000.0, 8_000.0]
    assert report.not_run == {f"{file} (ALL)": "killed by SIGKILL"}
    assert decode(SCHEMA, BenchReport, encode(SCHEMA, report), "b") == report


def test_core_ml_packages_are_compared_as_two_runs(
    exported: Path, mac: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = exported / "separable.float16.mlpackage"
    other = tmp_path / "separable.int8w.mlpackage"
    other.mkdir()
    compared: list[Any] = []
    whole = module.compare_runs
    monkeypatch.setattr(module, "compare_runs", lambda *pair: compared.append(pair) or whole(*pair))
    report = bench([package, other], compute_units=["CPU_ONLY"], schedule=SHORT)
    assert len(mac) == 2
    speed = report.files[1].speed
    assert speed is not None
    assert (speed.reference, speed.ratio) == (package.name, 1.0)
    assert len(compared) == 1


def test_core_ml_alone_on_chosen_compute_units(exported: Path, mac: list[list[str]]) -> None:
    package = exported / "separable.float16.mlpackage"
    told: list[str] = []
    report = bench([package], compute_units=["CPU_ONLY"], progress=told.append)
    assert [file.engine for file in report.files] == ["coreml 9.0 CPU_ONLY"]
    assert mac == [[package.name, "CPU_ONLY", "--timing", "50", "50", "0", "1"]]
    assert told == ["separable.float16.mlpackage on CPU_ONLY"]


def test_core_ml_that_does_not_run(
    exported: Path, mac: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = exported / "separable.float16.mlpackage"
    with pytest.raises(ModelFileError, match=r"nothing to time: \{'.*mlpackage \(ALL\)': 'killed"):
        bench([package], compute_units=["ALL"])
    answer = Answer(results={}, failure="hangs")
    monkeypatch.setattr(module.coreml_device, "ask_child", lambda *_: answer)
    report = bench([exported], schedule=SHORT, compute_units=["CPU_AND_NE", "ALL"])
    # The name alone: as `hemline.load` opens it.
    assert report.not_run == {package.name: "hangs", f"{package.name} (ALL)": "hangs"}
    assert len(mac) == 1


def test_compute_units_that_there_are_not(exported: Path) -> None:
    with pytest.raises(InputError, match="compute units 'NPU': expected some of CPU_AND_NE, ALL"):
        bench([exported], compute_units=["ALL", "NPU"])


def test_one_model_alone(exported: Path) -> None:
    model = load(exported / "separable.int8.tflite")
    timed = module.bench_model(model, Schedule(warmup_calls=2, calls_per_round=4, rounds=3), 1)
    assert (timed.threads, timed.batch) == (None, 1)
    assert timed.file == "separable.int8.tflite"
    assert timed.predict is not None
    for latency in (timed.bare, timed.predict):
        assert (len(latency.warmup_ns), len(latency.samples_ns)) == (2, 12)


def test_what_cannot_be_timed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"there is no model file .*none\.onnx"):
        bench([folder, tmp_path / "none.onnx"])
    with pytest.raises(ManifestError, match=r"has no manifest\.json"):
        bench([tmp_path])
    with pytest.raises(ModelFileError, match="nothing to time: no files given"):
        bench([])
    with pytest.raises(ModelFileError, match=r"nothing to time: \{'separable\.float16\.mlpackage'"):
        bench([folder / "separable.float16.mlpackage"])
    with pytest.raises(InputError, match="threads must be at least 1"):
        bench([folder], threads=(0,))
    (folder / "separable.int8.tflite").write_bytes(b"changed")
    with pytest.raises(ChecksumError, match=r"separable\.int8\.tflite has 7 bytes"):
        bench([folder])

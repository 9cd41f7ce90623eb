import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemline import bench as module
from hemline.bench import SCHEMA, BenchReport, FileBench, bench, summarize_latency
from hemline.coreml_device import Answer
from hemline.documents import decode, encode, to_json
from hemline.errors import ChecksumError, InputError, ManifestError, ModelFileError
from hemline.facts import TensorSpec
from hemline.files import sha256
from hemline.model import load


class Clock:
    """Stands still but for the models' calls, which it lists by name."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now


class FakeModel:
    def __init__(self, path: Path, clock: Clock, number: int, *, pixels: bool = True) -> None:
        self.path, self.clock, self.number = path, clock, number
        spec = TensorSpec(name="image", shape=(None, 2), dtype="int8")
        self.engine = SimpleNamespace(
            name="fake", version=lambda: "1", inputs=(spec,), run=self.run_bare
        )
        facts = SimpleNamespace(
            task="classification", input=SimpleNamespace(shape=(2,), preprocessing=object())
        )
        self.facts = facts if pixels else None

    def tensor(self, image: NDArray[Any]) -> NDArray[Any]:
        assert (image.dtype, image.shape) == (np.uint8, (2,))
        return np.zeros((1, 2), np.int8)

    def run_bare(self, tensor: NDArray[Any]) -> None:
        assert (tensor.dtype, tensor.shape) == (np.int8, (1, 2))
        self.clock.calls.append(f"{self.path.stem} bare")
        self.clock.now += 100 * self.number

    def predict(self, image: NDArray[Any]) -> None:
        assert (image.dtype, image.shape) == (np.uint8, (2,))
        self.clock.calls.append(self.path.stem)
        self.clock.now += 1000 * self.number


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Makes a.fake, b.fake, c.fake and raw.fake, the last without facts, and their clock."""
    clock = Clock()
    for name in ("a", "b", "c", "raw"):
        (tmp_path / f"{name}.fake").write_bytes(name.encode())

    def load(path: Path, threads: int) -> FakeModel:
        assert threads == 3
        number = {"a": 1, "b": 2, "c": 3, "raw": 4}[path.stem]
        return FakeModel(path, clock, number, pixels=path.stem != "raw")

    monkeypatch.setattr(module, "load", load)
    return clock


def run(tmp_path: Path, clock: Clock, *names: str, **options: Any) -> BenchReport:
    paths = [tmp_path / f"{name}.fake" for name in names]
    return bench(paths, threads=3, clock=clock, **options)


def test_files_take_turns_and_each_starts_a_round(tmp_path: Path, clock: Clock) -> None:
    run(tmp_path, clock, "a", "b", "c", warmup_calls=1, rounds=4, calls_per_round=2)
    warmup = ["a bare", "a", "b bare", "b", "c bare", "c"]
    a, b, c = ([f"{name} bare", f"{name} bare", name, name] for name in ("a", "b", "c"))
    rounds = [*a, *b, *c, *b, *c, *a, *c, *a, *b, *a, *b, *c]
    assert clock.calls == warmup + rounds


def test_every_sample_is_kept(tmp_path: Path, clock: Clock) -> None:
    report = run(tmp_path, clock, "a", "b", warmup_calls=3, rounds=5, calls_per_round=4)
    assert (report.threads, report.warmup_calls) == (3, 3)
    assert (report.rounds, report.calls_per_round) == (5, 4)
    first, second = report.files
    assert (first.file, first.engine, first.size_bytes) == ("a.fake", "fake 1", 1)
    assert first.predict is not None
    assert second.predict is not None
    assert first.bare.warmup_ns == (100, 100, 100)
    assert first.bare.samples_ns == (100,) * 20
    assert first.predict.warmup_ns == (1000, 1000, 1000)
    assert first.predict.samples_ns == (1000,) * 20
    assert second.bare.samples_ns == (200,) * 20
    assert second.predict.samples_ns == (2000,) * 20
    assert first.predict_ratio == second.predict_ratio == 10.0
    assert (second.predict.median_ns, second.predict.p99_ns) == (2000.0, 2000.0)
    assert (second.predict.spread, second.predict.noisy) == (0.0, False)


def test_by_default_a_thousand_samples_are_taken(tmp_path: Path, clock: Clock) -> None:
    report = run(tmp_path, clock, "a")
    assert len(report.files[0].bare.samples_ns) == 1000
    assert len(report.files[0].bare.warmup_ns) == 50


def test_a_file_without_facts_is_timed_bare(tmp_path: Path, clock: Clock) -> None:
    report = run(tmp_path, clock, "raw", warmup_calls=1, rounds=1, calls_per_round=2)
    assert report.files[0].predict is None
    assert report.files[0].predict_ratio is None
    assert report.files[0].bare.samples_ns == (400, 400)


def test_a_file_named_twice_is_timed_once(tmp_path: Path, clock: Clock) -> None:
    report = run(tmp_path, clock, "a", "b", "a", rounds=1)
    assert [file.file for file in report.files] == ["a.fake", "b.fake"]


def test_progress_is_told(tmp_path: Path, clock: Clock) -> None:
    told: list[str] = []
    run(tmp_path, clock, "a", "b", rounds=2, progress=told.append)
    assert told == ["warm up a.fake", "warm up b.fake", "round 1 of 2", "round 2 of 2"]


def test_percentiles() -> None:
    latency = summarize_latency([7, 8], range(100, 0, -1))
    assert latency.median_ns == 50.5
    assert latency.p10_ns == pytest.approx(10.9)
    assert latency.p90_ns == pytest.approx(90.1)
    assert latency.p99_ns == pytest.approx(99.01)
    assert latency.spread == pytest.approx(79.2 / 50.5)
    assert latency.noisy
    assert latency.warmup_ns == (7, 8)
    assert latency.samples_ns == tuple(range(100, 0, -1))


@pytest.mark.parametrize(("late", "noisy"), [(1250, False), (1251, True)])
def test_a_wide_spread_is_noisy(late: int, noisy: bool) -> None:
    latency = summarize_latency([], [1000] * 8 + [late] * 3)
    assert latency.spread == (late - 1000) / 1000
    assert latency.noisy is noisy


def test_a_clock_that_stands_still_divides_nothing() -> None:
    assert summarize_latency([], [0, 0, 0]).spread == 0.0


def test_noise_covers_the_range_of_the_type() -> None:
    random = np.random.default_rng(0)
    for dtype, least, greatest in (("int8", -128, 127), ("uint8", 0, 255), ("float32", 0, 1)):
        noise = module._noise(TensorSpec(name="x", shape=(None, 9999), dtype=dtype), random)
        assert (noise.dtype, noise.shape) == (dtype, (1, 9999))
        assert noise.min() == pytest.approx(least, abs=0.01)
        assert noise.max() == pytest.approx(greatest, abs=0.01)


def test_a_folder_and_a_file_of_it(exported: Path) -> None:
    paths = [exported, exported / "separable.int8.tflite"]
    report = bench(paths, warmup_calls=1, rounds=2, calls_per_round=3)
    assert [(file.file, file.engine.split()[0]) for file in report.files] == [
        ("separable.float32.tflite", "litert"),
        ("separable.int8.tflite", "litert"),
        ("separable.float32.onnx", "onnxruntime"),
    ]
    assert list(report.not_run) == ["separable.float16.mlpackage"]
    assert "macOS" in report.not_run["separable.float16.mlpackage"]
    assert report.host.cores > 0
    assert report.clock_resolution_ns > 0
    for file in report.files:
        assert file.predict is not None
        assert len(file.bare.samples_ns) == len(file.predict.samples_ns) == 6
        assert min(file.bare.samples_ns) > 0
        assert file.predict_ratio == file.predict.median_ns / file.bare.median_ns
    assert decode(SCHEMA, BenchReport, encode(SCHEMA, report), "b") == report
    assert json.loads(encode(SCHEMA, report))["schema"] == "hemline.bench/1"


@pytest.fixture
def mac(exported: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Makes this a Mac whose child processes answer, but die on ALL; lists what they are told."""
    monkeypatch.setattr("hemline.engines.coreml.sys", SimpleNamespace(platform="darwin"))
    told: list[list[str]] = []
    package = exported / "separable.float16.mlpackage"

    def ask(path: Path, units: str, steps: list[str]) -> Answer:
        told.append([path.name, units, *steps])
        if units == "ALL":
            return Answer(results={}, failure="killed by SIGKILL")
        latency = summarize_latency([9], [len(units) * 1000] * 2)
        timed = FileBench(
            file=path.name,
            engine="coreml 9.0",
            sha256=sha256(package),
            size_bytes=5,
            bare=latency,
            predict=latency,
            predict_ratio=1.0,
        )
        return Answer(results={"timing": to_json(timed)}, failure=None)

    monkeypatch.setattr(module.coreml_device, "ask_child", ask)
    return told


def test_core_ml_packages_are_timed_in_child_processes(
    exported: Path, mac: list[list[str]]
) -> None:
    report = bench([exported], warmup_calls=1, rounds=2, calls_per_round=3)
    steps = ["--timing", "1", "2", "3"]
    file = "separable.float16.mlpackage"
    assert mac == [[file, units, *steps] for units in ("CPU_AND_NE", "ALL", "CPU_ONLY")]
    assert [(file.file, file.engine) for file in report.files[3:]] == [
        (file, "coreml 9.0 CPU_AND_NE"),
        (file, "coreml 9.0 CPU_ONLY"),
    ]
    assert [file.bare.median_ns for file in report.files[3:]] == [10_000.0, 8_000.0]
    assert report.not_run == {f"{file} (ALL)": "killed by SIGKILL"}
    assert decode(SCHEMA, BenchReport, encode(SCHEMA, report), "b") == report


def test_core_ml_alone_on_chosen_compute_units(exported: Path, mac: list[list[str]]) -> None:
    package = exported / "separable.float16.mlpackage"
    told: list[str] = []
    report = bench([package], compute_units=["CPU_ONLY"], progress=told.append)
    assert [file.engine for file in report.files] == ["coreml 9.0 CPU_ONLY"]
    assert mac == [[package.name, "CPU_ONLY", "--timing", "50", "20", "50"]]
    assert told == ["separable.float16.mlpackage on CPU_ONLY"]


def test_core_ml_that_does_not_run(
    exported: Path, mac: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = exported / "separable.float16.mlpackage"
    with pytest.raises(ModelFileError, match=r"nothing to time: \{'.*mlpackage \(ALL\)': 'killed"):
        bench([package], compute_units=["ALL"])
    answer = Answer(results={}, failure="hangs")
    monkeypatch.setattr(module.coreml_device, "ask_child", lambda *_: answer)
    report = bench([exported], warmup_calls=1, rounds=1, compute_units=["CPU_AND_NE", "ALL"])
    # The name alone: as `hemline.load` opens it.
    assert report.not_run == {package.name: "hangs", f"{package.name} (ALL)": "hangs"}
    assert len(mac) == 1


def test_compute_units_that_there_are_not(exported: Path) -> None:
    with pytest.raises(InputError, match="compute units 'NPU': expected some of CPU_AND_NE, ALL"):
        bench([exported], compute_units=["ALL", "NPU"])


def test_one_model_alone(exported: Path) -> None:
    model = load(exported / "separable.int8.tflite")
    timed = module.bench_model(model, warmup_calls=2, rounds=3, calls_per_round=4)
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
        bench([folder], threads=0)
    (folder / "separable.int8.tflite").write_bytes(b"changed")
    with pytest.raises(ChecksumError, match=r"separable\.int8\.tflite has SHA-256"):
        bench([folder])

"""Models for other tasks than classification take the whole way, right and broken."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import hemline
from hemline.artifact_facts import EMBEDDED_SCHEMA, EmbeddedFacts
from hemline.cli import main
from hemline.documents import decode, encode
from hemline.errors import DataError, InputError
from hemline.facts import Preprocessing
from hemline.files import sha256, size_bytes
from hemline.golden import read_golden, selftest
from hemline.manifest import read_manifest, write_manifest
from hemline.parity.verify import SCHEMA, ArtifactParity, ParityReport, verify
from hemline_export.backend import keras
from hemline_export.export import Described, export
from hemline_export.recipes import RECIPES, Choices, Recipe, select_recipes

layers = keras.layers
PIXELS = Preprocessing(mean=0.0, std=255.0)
Pixels = NDArray[np.uint8]


def draw_blobs(count: int, seed: int) -> tuple[Pixels, NDArray[np.float32]]:
    """Draws a bright spot on each of some images, uint8 (n, 12, 12), and its place, (n, 2)."""
    random = np.random.default_rng(seed)
    places = random.uniform(2, 9, (count, 2)).astype(np.float32)
    rows, columns = np.mgrid[:12, :12]
    y, x = (places[:, i, np.newaxis, np.newaxis] for i in (0, 1))
    spots = 200 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 8)
    noisy = spots + random.normal(20, 8, spots.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), places


def finder() -> Any:
    """Finds the spot: two outputs without bounds."""
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(2),
        ]
    )


def autoencoder() -> Any:
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu"),
            layers.UpSampling2D(),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        ]
    )


def extractor() -> Any:
    """Feature maps (6, 6, 4), more numbers than golden.json keeps."""
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.AveragePooling2D(2),
            layers.Conv2D(4, 3, padding="same"),
        ]
    )


@dataclass(frozen=True)
class Case:
    build: Callable[[], Any]
    loss: float | None
    shape: tuple[int, ...]


CASES = {
    "regression": Case(finder, 0.5, (2,)),
    "autoencoder": Case(autoencoder, 0.02, (12, 12, 1)),
    "tensors": Case(extractor, None, (6, 6, 4)),
}


@pytest.fixture(scope="module", params=CASES)
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.npz and test.npz, for each of the tasks."""
    folder = tmp_path_factory.mktemp("blobs")
    for name, count, seed in (("train", 1_500, 1), ("test", 1_000, 2)):
        images, places = draw_blobs(count, seed)
        np.savez(folder / f"{name}.npz", images=images, targets=places)
    return folder


@pytest.fixture(scope="module")
def exported(
    task: str, trained: Any, blobs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the task's model, exported by every recipe. Copy it before changing it."""

    def fit(model: Any) -> None:
        with np.load(blobs / "train.npz") as data:
            values = data["images"][..., np.newaxis] / np.float32(255)
            targets = values if task == "autoencoder" else data["targets"]
        if CASES[task].loss is not None:
            model.compile(keras.optimizers.Adam(0.005), "mse")
            model.fit(values, targets, 32, 12, verbose=0)

    path = tmp_path_factory.mktemp("keras") / f"{task}.keras"
    trained(task, CASES[task].build, fit).save(path)
    out = tmp_path_factory.mktemp("tasks") / task
    export(
        path,
        str(blobs / "train.npz"),
        out,
        recipes=recipes_for(task),
        described=Described(task=task, preprocessing=PIXELS, ceiling_loss=CASES[task].loss),
        choices=Choices(calibration_count=100),
    )
    return out


def recipes_for(task: str) -> tuple[Recipe, ...]:
    """A recipe of each kind, but that ONNX Runtime has no integer transposed convolution."""
    kinds = {("float32", ".tflite"), ("int8", ".tflite"), ("float32", ".onnx")}
    kinds |= {("float16", ".mlpackage")}
    if task != "autoencoder":
        kinds.add(("int8", ".onnx"))
    return tuple(recipe for recipe in RECIPES if (recipe.name, recipe.suffix) in kinds)


def suffixes_for(task: str) -> list[str]:
    return [f"{recipe.name}{recipe.suffix}" for recipe in recipes_for(task)]


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / exported.name))


def judge(folder: Path, blobs: Path) -> dict[str, ArtifactParity]:
    report = verify(folder, str(blobs / "test.npz"))
    return {result.file.partition(".")[2]: result for result in report.artifacts}


def test_every_artifact_passes(exported: Path, blobs: Path, task: str) -> None:
    report = verify(exported, str(blobs / "test.npz"))
    assert (report.task, report.float_model.verdict) == (task, "PASS")
    results = {result.file.partition(".")[2]: result for result in report.artifacts}
    assert set(results) == set(suffixes_for(task))
    for suffix, result in results.items():
        assert result.verdict == "PASS", (suffix, result.reason)
        assert (result.accuracy, result.paired, result.classes) == (None, None, ())
        assert (result.loss_growth is None) == (task == "tensors")
        assert (result.fidelity is None) == (task != "tensors")
        assert [step.name for step in result.steps][-1:] != []
    # What costs something shows it: integers more than floats.
    int8, float32 = results["int8.tflite"].sqnr_db, results["float32.tflite"].sqnr_db
    assert int8 is not None
    assert 15 < int8 < 60
    assert float32 is None or float32 > 80
    assert decode(SCHEMA, ParityReport, encode(SCHEMA, report), "parity.json") == report


def test_losses_are_the_squared_errors(exported: Path, blobs: Path, task: str) -> None:
    with np.load(blobs / "test.npz") as data:
        images, places = data["images"], data["targets"]
    outputs = hemline.load(exported / f"{task}.int8.tflite").outputs(images)
    assert (outputs.dtype, outputs.shape) == (np.float32, (1000, *CASES[task].shape))
    result = judge(exported, blobs)["int8.tflite"]
    if task == "tensors":
        reference = hemline.load(exported / f"{task}.float.keras").outputs(images)
        assert result.fidelity is not None
        assert result.fidelity.max_change == pytest.approx(np.abs(outputs - reference).max(), 1e-4)
        flat = [values.reshape(1000, -1).astype(float) for values in (reference, outputs)]
        lengths = [np.linalg.norm(values, axis=1) for values in flat]
        cosines = (flat[0] * flat[1]).sum(axis=1) / (lengths[0] * lengths[1])
        assert result.fidelity.cosine == pytest.approx(cosines.mean(), abs=1e-6)
        assert result.fidelity.lowest_cosine_sample == cosines.argmin()
        return
    targets = places if task == "regression" else images[..., np.newaxis] / 255
    expected = np.square(outputs.astype(float) - targets).mean()
    assert result.loss == pytest.approx(expected, rel=1e-5)


def test_golden_vectors(task: str, exported: Path) -> None:
    report = selftest(exported)
    assert report.verdicts() == ["PASS"] * len(suffixes_for(task))
    assert (exported / "golden.json").stat().st_size < 20_000


def test_tolerances_leave_room_for_other_kernels(exported: Path, blobs: Path) -> None:
    manifest = read_manifest(exported)
    tolerances = {part.file: part.tolerance for part in read_golden(exported, manifest).artifacts}
    with np.load(blobs / "test.npz") as data:
        images = data["images"]
    for file, tolerance in tolerances.items():
        if file.endswith(".tflite"):
            fast = hemline.load(exported / file).outputs(images)
            plain = hemline.load(exported / file, engine="litert-builtin").outputs(images)
            assert np.abs(fast - plain).max() < tolerance / 2


def test_predict_says_what_to_use(exported: Path, task: str) -> None:
    model = hemline.load(exported / f"{task}.float32.onnx")
    image = np.zeros((12, 12), np.uint8)
    with pytest.raises(InputError, match=rf"for the task {task}, .*: use outputs\(\)"):
        model.predict(image)
    assert model.outputs(image).shape == (1, *CASES[task].shape)


def test_weights_that_were_scaled_fail(folder: Path, blobs: Path, task: str) -> None:
    replace_artifacts(folder, blobs, task, np.float32(1.5), recipes_for(task))
    for suffix, result in judge(folder, blobs).items():
        assert result.verdict == "FAIL", (suffix, result.reason)
        assert "dB): the converter changed the model" in result.reason or "float16" in suffix
    # golden.json is of the whole files.
    assert set(selftest(folder).verdicts()) == {"FAIL"}


def replace_artifacts(
    folder: Path, blobs: Path, task: str, factor: np.float32, recipes: Sequence[Recipe]
) -> None:
    """Puts artifacts of a model with its last weights scaled into a folder that agrees with them.

    What a converter that breaks weights would leave behind.
    """
    model = keras.saving.load_model(folder / f"{task}.float.keras", compile=False)
    last = next(layer for layer in reversed(model.layers) if layer.weights)
    last.set_weights([weight * factor for weight in last.get_weights()])
    model.save(folder.parent / f"{task}.keras")
    broken = folder.parent / "broken"
    made = export(
        folder.parent / f"{task}.keras",
        str(blobs / "train.npz"),
        broken,
        recipes=recipes,
        described=Described(task=task, preprocessing=PIXELS),
        choices=Choices(calibration_count=100),
    )
    manifest = read_manifest(folder)
    artifacts = {artifact.file: artifact for artifact in manifest.artifacts}
    for artifact, recipe in zip(made.artifacts, recipes, strict=True):
        path = folder / artifact.file
        if path.is_dir():
            shutil.rmtree(path)
        (broken / artifact.file).rename(path)
        facts = replace(artifact.facts, parent_sha256=manifest.float_model.sha256)
        embedded = EmbeddedFacts(model=manifest.model, artifact=facts)
        recipe.embed(path, encode(EMBEDDED_SCHEMA, embedded))
        artifacts[artifact.file] = replace(
            artifact, facts=facts, sha256=sha256(path), size_bytes=size_bytes(path)
        )
    write_manifest(folder, replace(manifest, artifacts=tuple(artifacts.values())))


def test_nan_fails(folder: Path, blobs: Path, task: str) -> None:
    replace_artifacts(folder, blobs, task, np.float32("nan"), select_recipes("float32"))
    results = judge(folder, blobs)
    for suffix in ("float32.tflite", "float32.onnx"):
        assert results[suffix].verdict == "FAIL"
        assert results[suffix].reason == (
            "NaN or infinity in the outputs of 1000 samples, first sample 0"
        )
        assert results[suffix].steps == ()
    assert results["float16.mlpackage"].verdict.startswith("PASS")
    reasons = [result.reason for result in selftest(folder).artifacts if result.verdict == "FAIL"]
    assert len(reasons) == 2
    assert all("found NaN or infinity" in reason for reason in reasons)


def test_the_command_line(
    folder: Path, blobs: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    test = str(blobs / "test.npz")
    files = ["--json", str(folder / "parity.json"), "--junit", str(folder / "ci.xml")]
    assert main(["verify", str(folder), "--data", test, "--strict", *files]) == 0
    table = capsys.readouterr().out
    assert ("growth %" in table) == (task != "tensors")
    assert ("cosine" in table) == (task == "tensors")
    assert "accuracy" not in table
    assert (
        f'tests="{1 + len(suffixes_for(task))}" failures="0" skipped="0"'.encode()
        in (folder / "ci.xml").read_bytes()
    )
    bench = ["bench", str(folder), "--rounds", "1", "--compute-units", "CPU_ONLY"]
    assert main([*bench, "--json", str(folder / "bench.json")]) == 0
    timed = json.loads((folder / "bench.json").read_text())["files"]
    assert all(file["predict"] for file in timed)
    capsys.readouterr()
    assert main(["report", str(folder)]) == 0
    table = capsys.readouterr().out
    assert all(f"{task}.{suffix}" in table for suffix in suffixes_for(task))
    assert main(["inspect", str(folder / f"{task}.int8.tflite")]) == 0
    described = capsys.readouterr().out
    assert f"\ntask       {task}\n" in described
    assert "labels" not in described


def test_a_ceiling_that_the_float_model_misses(
    exported: Path, blobs: Path, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keras_file = exported / f"{task}.float.keras"
    words = ["export", str(keras_file), "--task", task, "--calibration", str(blobs / "train.npz")]
    words += ["--input-mean", "0", "--input-std", "255", "--recipes", "float32"]
    words += ["--calibration-count", "50", "--out", str(tmp_path), "--ceiling-loss", "1e-6"]
    status = main(words)
    if task == "tensors":
        assert status == 2
        assert "a ceiling of loss" in capsys.readouterr().err
        return
    assert status == 0
    assert main(["verify", str(tmp_path), "--data", str(blobs / "test.npz")]) == 1
    assert f"{task}.float.keras: loss is above the ceiling of 1e-06" in capsys.readouterr().out


def test_a_margin_of_another_task_is_refused(exported: Path, blobs: Path, task: str) -> None:
    test = str(blobs / "test.npz")
    with pytest.raises(InputError, match="a margin in points is for classification"):
        verify(exported, test, margin_pt=1.0)
    if task == "tensors":
        with pytest.raises(InputError, match="one of loss in percent"):
            verify(exported, test, margin_loss_percent=1.0)
        return
    report = verify(exported, test, margin_loss_percent=1e-9)
    assert report.margin_override_loss_percent == 1e-9
    int8 = report.artifacts[1].loss_growth
    assert int8 is not None
    assert int8.margin_percent == 1e-9


def test_samples_without_what_the_task_needs(
    exported: Path, blobs: Path, task: str, tmp_path: Path
) -> None:
    with np.load(blobs / "test.npz") as data:
        images, targets = data["images"][:60], data["targets"][:60]
    path = tmp_path / "bare.npz"
    np.savez(path, images=images)
    if task != "regression":
        # An autoencoder's target is its input, and tensors have none.
        assert "FAIL" not in verify(exported, str(path)).verdicts()
        return
    with pytest.raises(DataError, match=r"bare\.npz has no `targets`"):
        verify(exported, str(path))
    np.savez(path, images=images, targets=targets[:, :1])
    with pytest.raises(DataError, match=r"targets of shape \(60, 1\), the model gives \(60, 2\)"):
        verify(exported, str(path))

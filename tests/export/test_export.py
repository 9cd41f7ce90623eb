import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hemline.artifact_facts import EMBEDDED_SCHEMA, EmbeddedFacts
from hemline.documents import decode, encode, from_json, to_json
from hemline.engines import engine_for, stand_in
from hemline.engines.mil_operations import COMPUTATIONS
from hemline.errors import (
    DataError,
    ExportError,
    InputError,
    ManifestError,
    ModelFileError,
    OutputError,
)
from hemline.facts import ModelFacts, Preprocessing
from hemline.files import sha256
from hemline.golden import TOLERANCES, draw_inputs, read_golden, selftest
from hemline.manifest import read_manifest
from hemline.model import load
from hemline.parity.verify import verify
from hemline.samples import resolve_samples
from hemline_export.backend import keras
from hemline_export.export import Described, export
from hemline_export.recipes import RECIPES, Choices, select_recipes

layers = keras.layers
PIXELS = Preprocessing(mean=0.0, std=255.0)


@pytest.fixture
def pixels(tmp_path: Path) -> str:
    random = np.random.default_rng(0)
    path = tmp_path / "pixels.npz"
    np.savez(path, images=random.integers(0, 256, (30, 8, 8), np.uint8), labels=np.arange(30) % 3)
    return str(path)


@pytest.fixture
def classifier(save: Any) -> Path:
    path: Path = save(layers.Flatten(), layers.Dense(3, activation="softmax"), name="tiny.float")
    return path


def export_int8(keras_file: Path, calibration: str, out: Path, **settings: Any) -> Any:
    settings = {
        "described": Described(preprocessing=PIXELS),
        "choices": Choices(calibration_count=30),
    } | settings
    return export(keras_file, calibration, out, recipes=select_recipes("int8"), **settings)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_manifest_names_what_is_there(exported: Path) -> None:
    manifest = read_manifest(exported)
    assert [artifact.file for artifact in manifest.artifacts] == [
        "separable.float32.tflite",
        "separable.int8.tflite",
        "separable.float32.onnx",
        "separable.float16.mlpackage",
    ]
    for file, digest in manifest.sha256_by_file().items():
        assert sha256(exported / file) == digest
    assert names(exported) == sorted([*manifest.sha256_by_file(), "golden.json", "manifest.json"])


def test_the_same_facts_ride_in_every_file(exported: Path) -> None:
    manifest = read_manifest(exported)
    for artifact in manifest.artifacts:
        path = exported / artifact.file
        content = engine_for(path).structure(path).embedded_facts
        assert content is not None
        embedded = decode(EMBEDDED_SCHEMA, EmbeddedFacts, content, path.name)
        assert embedded == EmbeddedFacts(model=manifest.model, artifact=artifact.facts)
        assert embedded.artifact.parent_sha256 == manifest.float_model.sha256


def test_only_the_calibrated_file_names_a_calibration(exported: Path) -> None:
    manifest = read_manifest(exported)
    assert len(set(manifest.calibration_sample_sha256)) == 100
    for artifact in manifest.artifacts:
        calibration = artifact.facts.calibration
        assert (calibration is not None) == (artifact.facts.recipe == "int8")
        if calibration is not None:
            assert (calibration.source, calibration.split) == ("train.npz", "file")
            assert (calibration.seed, calibration.count) == (0, 100)


def test_an_int8_file_records_its_grids(exported: Path) -> None:
    facts = read_manifest(exported).artifacts[1].facts
    assert facts.input.quantization is not None
    assert facts.input.quantization.zero_point == -128
    assert facts.input.quantization.scale == pytest.approx(1 / 255, rel=1e-3)
    assert facts.toolchain.keys() == {"hemline", "tensorflow", "keras"}


def test_golden_vectors_are_written_for_what_runs_here(exported: Path) -> None:
    manifest = read_manifest(exported)
    assert manifest.golden_sha256 == sha256(exported / "golden.json")
    assert (exported / "golden.json").stat().st_size < 16_000
    golden = read_golden(exported, manifest)
    assert [part.file for part in golden.artifacts] == [a.file for a in manifest.artifacts]
    assert [part.sha256 for part in golden.parts()] == [
        manifest.float_model.sha256,
        *(artifact.sha256 for artifact in manifest.artifacts),
    ]
    inputs = draw_inputs(manifest.model.input, golden.seed, golden.count)
    for part in golden.parts():
        # The float model takes its preprocessing from the manifest, as the artifacts do.
        engine = stand_in("coreml") if part.file.endswith(".mlpackage") else None
        found = load(exported / part.file, engine=engine).predict(inputs).probabilities
        np.testing.assert_allclose(found, np.array(part.outputs), atol=1e-5)
    reference = np.array(golden.float_model.outputs)
    assert len(set(reference.argmax(axis=1))) >= 3
    np.testing.assert_allclose(golden.artifacts[0].outputs, reference, atol=1e-5)


def test_every_recipe_has_a_tolerance() -> None:
    assert {recipe.name for recipe in RECIPES} <= TOLERANCES.keys()


def test_a_recipe_that_trains_leaves_what_it_did_in_the_facts(
    separable_keras: Path, garments: Path, tmp_path: Path
) -> None:
    manifest = export(
        separable_keras,
        str(garments / "train.npz"),
        tmp_path,
        recipes=select_recipes("int8-qat,int8-pruned,int8-clustered"),
        described=Described(preprocessing=PIXELS),
        choices=Choices(calibration_count=100, sparsity=0.6, clusters=8),
    )
    qat, pruned, clustered = (artifact.facts for artifact in manifest.artifacts)
    for facts in (qat, pruned, clustered):
        assert facts.input.dtype == facts.output.dtype == "int8"
        assert facts.settings["training_samples"] == "1800"
        assert facts.settings["validation_source"] == "200 of 2000 samples, drawn with seed 0"
        assert "tensorflow-model-optimization" in facts.toolchain
        assert facts.calibration is not None
    assert "Conv" in qat.settings["quantize_configs"]
    assert (pruned.settings["sparsity"], clustered.settings["clusters"]) == ("0.6", "8")
    for facts in (pruned, clustered):
        plain = int(facts.settings["int8_compressed_bytes"])
        assert 0 < int(facts.settings["compressed_bytes"]) < plain
    assert manifest.omitted == {}


def test_what_cannot_be_trained_is_left_out_beside_others(
    save: Any, pixels: str, tmp_path: Path
) -> None:
    bent = save(
        layers.Flatten(),
        layers.Dense(4, activation="elu", name="bent"),
        layers.Dense(3, activation="softmax"),
    )
    settings = {
        "described": Described(preprocessing=PIXELS),
        "choices": Choices(calibration_count=30),
    }
    both = select_recipes("float32,int8-qat")
    out = tmp_path / "both"
    manifest = export(bent, pixels, out, recipes=both, leave_out=True, **settings)
    assert manifest == read_manifest(tmp_path / "both")
    assert [artifact.facts.recipe for artifact in manifest.artifacts] == ["float32", "float32"]
    assert manifest.omitted.keys() == {"int8-qat.tflite"}
    assert "layer bent (Dense)" in manifest.omitted["int8-qat.tflite"]
    with pytest.raises(ExportError, match=r"layer bent \(Dense\): tfmot has no grid"):
        export(bent, pixels, tmp_path / "one", recipes=both, **settings)
    with pytest.raises(ExportError, match=r"layer bent \(Dense\): tfmot has no grid"):
        export(bent, pixels, tmp_path / "one", recipes=both[2:], leave_out=True, **settings)
    assert names(tmp_path / "one") == []


@pytest.mark.parametrize(
    ("recipe", "choice", "message"),
    [
        ("int8-pruned", {"sparsity": 1.5}, "a sparsity must lie between 0 and 1"),
        ("int8-clustered", {"clusters": 1}, "2 clusters or more"),
    ],
)
def test_a_wrong_choice_is_refused(
    classifier: Path,
    pixels: str,
    tmp_path: Path,
    recipe: str,
    choice: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ExportError, match=message):
        export(
            classifier,
            pixels,
            tmp_path / "out",
            recipes=select_recipes(f"int8,{recipe}"),
            described=Described(preprocessing=PIXELS),
            choices=Choices(calibration_count=30, **choice),
        )
    assert names(tmp_path / "out") == []


def test_a_label_that_the_model_lacks_is_refused(classifier: Path, tmp_path: Path) -> None:
    images = np.zeros((30, 8, 8), np.uint8)
    np.savez(tmp_path / "four.npz", images=images, labels=np.arange(30) % 4)
    with pytest.raises(
        DataError, match=r"four.npz has labels 0 to 3, the model has classes 0 to 2"
    ):
        export(
            classifier,
            str(tmp_path / "four.npz"),
            tmp_path / "out",
            recipes=select_recipes("int8-pruned"),
            described=Described(preprocessing=PIXELS),
            choices=Choices(calibration_count=30),
        )


def test_a_model_says_its_own_name_and_classes(
    classifier: Path, pixels: str, tmp_path: Path
) -> None:
    manifest = export_int8(classifier, pixels, tmp_path / "out")
    assert manifest.model.model == "tiny"
    assert manifest.model.labels == ("class 0", "class 1", "class 2")
    assert names(tmp_path / "out") == [
        "golden.json",
        "manifest.json",
        "tiny.float.keras",
        "tiny.int8.onnx",
        "tiny.int8.tflite",
    ]


def test_training_json_is_taken_at_its_word(
    classifier: Path, pixels: str, tmp_path: Path, exported: Path
) -> None:
    known = to_json(read_manifest(exported).model) | {
        "labels": ["a", "b", "c"],
        "output_shape": [3],
        "floor_accuracy": 0.25,
    }
    known["input"]["shape"] = [8, 8, 1]
    (classifier.parent / "training.json").write_text(json.dumps({"facts": known}))
    manifest = export_int8(classifier, pixels, tmp_path / "out", described=None)
    assert manifest.model == from_json(ModelFacts, known, "test")


def test_what_the_user_says_goes_first(classifier: Path, pixels: str, tmp_path: Path) -> None:
    described = Described(labels=("x", "y", "z"), preprocessing=PIXELS, floor_accuracy=0.4)
    manifest = export_int8(classifier, pixels, tmp_path / "out", described=described)
    assert manifest.model.labels == ("x", "y", "z")
    assert manifest.model.floor_accuracy == 0.4


def test_an_export_beside_the_model_keeps_the_model(
    exported: Path, garments: Path, tmp_path: Path
) -> None:
    shutil.copy(exported / "separable.float.keras", tmp_path)
    np.savez(tmp_path / "float_predictions.npz", key=["of the model", "before"], outputs=[0.0])
    before = (tmp_path / "separable.float.keras").stat().st_mtime_ns
    export_int8(tmp_path / "separable.float.keras", str(garments / "train.npz"), tmp_path)
    assert (tmp_path / "separable.float.keras").stat().st_mtime_ns == before
    assert not (tmp_path / "float_predictions.npz").exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"described": None}, DataError, "give --input-mean and --input-std"),
        ({"choices": Choices(calibration_count=31)}, DataError, "calibration with 31 samples"),
        ({"choices": Choices(calibration_count=5)}, DataError, "calibration with 5 samples"),
        (
            {"described": Described(preprocessing=PIXELS, labels=("a", "b"))},
            ExportError,
            "gives \\(3,\\), but is described as .* naming 2 classes",
        ),
        (
            {"described": Described(preprocessing=PIXELS, labels=("a", "a", "b"))},
            ExportError,
            "labels must be two or more, all different",
        ),
    ],
)
def test_a_wrong_request_leaves_nothing_behind(
    classifier: Path,
    pixels: str,
    tmp_path: Path,
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        export_int8(classifier, pixels, tmp_path / "out", **settings)
    assert names(tmp_path / "out") == []


def test_a_failing_recipe_leaves_the_old_export_whole(
    exported: Path, garments: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    before = {name: sha256(out / name) for name in names(out)}

    def fail(*_: Any) -> None:
        raise ExportError("no")

    first, second = select_recipes("float32")
    with pytest.raises(ExportError, match=r"^no; recipes that take this model as .onnx: int8$"):
        export(
            out / "separable.float.keras",
            str(garments / "train.npz"),
            out,
            recipes=[first, dataclasses.replace(second, write=fail)],
            described=Described(preprocessing=PIXELS),
        )
    assert {name: sha256(out / name) for name in names(out)} == before


def test_samples_of_another_shape_are_refused(save: Any, pixels: str, tmp_path: Path) -> None:
    other = save(layers.Flatten(), layers.Dense(3, activation="softmax"), shape=(5, 5, 1))
    with pytest.raises(DataError, match=r"samples are \(8, 8, 1\), the model takes \(5, 5, 1\)"):
        export_int8(other, pixels, tmp_path / "out")


def test_logits_are_refused(save: Any, pixels: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"does not give class probabilities.*softmax"):
        export_int8(save(layers.Flatten(), layers.Dense(3)), pixels, tmp_path / "out")


def test_nan_in_the_calibration_is_refused(classifier: Path, tmp_path: Path) -> None:
    images = np.zeros((30, 8, 8, 1), np.float32)
    images[7, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", images=images, labels=np.zeros(30, np.int64))
    with pytest.raises(DataError, match="image 7 holds NaN"):
        export_int8(classifier, str(tmp_path / "nan.npz"), tmp_path / "out")


def test_an_operator_that_int8_lacks_is_named_with_what_can_take_it(
    save: Any, pixels: str, tmp_path: Path
) -> None:
    elu = layers.Activation("elu", name="odd")
    model = save(layers.Conv2D(2, 3), elu, layers.Flatten(), layers.Dense(3, activation="softmax"))
    message = (
        r"TFLite int8: the converter refuses the model: layer odd: ELU has no integer form; "
        r"recipes that take this model as \.tflite: float32, float16, dynamic$"
    )
    with pytest.raises(ExportError, match=message):
        export_int8(model, pixels, tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_calibration_with_test_samples_leaves_nothing_behind(
    classifier: Path, tmp_path: Path, exported: Path
) -> None:
    known = to_json(read_manifest(exported).model) | {
        "labels": ["a", "b", "c"],
        "output_shape": [3],
        "dataset": {"name": "synthetic", "split_seed": 0},
    }
    known["input"]["shape"] = [28, 28, 1]
    keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")]
    ).save(classifier)
    (classifier.parent / "training.json").write_text(json.dumps({"facts": known}))
    test = resolve_samples("synthetic", None, "test")
    np.savez(tmp_path / "leak.npz", images=test.images[:30, ..., 0], labels=test.labels[:30])
    with pytest.raises(DataError, match=r"30 of the 30 calibration samples, .* of synthetic"):
        export_int8(classifier, str(tmp_path / "leak.npz"), tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_a_damaged_training_json_is_named(classifier: Path, pixels: str, tmp_path: Path) -> None:
    (classifier.parent / "training.json").write_bytes(encode("other/1", Described()))
    with pytest.raises(ManifestError, match=r"training\.json is damaged"):
        export_int8(classifier, pixels, tmp_path / "out")


def test_an_unwritable_folder_is_named(classifier: Path, pixels: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write in .*file/out"):
        export_int8(classifier, pixels, tmp_path / "file" / "out")


def test_a_missing_model_makes_no_folder_content(pixels: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no Keras file"):
        export_int8(tmp_path / "gone.keras", pixels, tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_float_features_and_their_range(save: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(4)
    mlp = save(layers.Dense(8, activation="relu"), layers.Dense(1), shape=(5,))
    features = np.random.default_rng(1).normal(size=(400, 5)).astype(np.float32)
    targets = np.asarray(keras.saving.load_model(mlp)(features))[:, 0] + np.float32(0.1)
    np.savez(tmp_path / "train.npz", images=features[:100])
    np.savez(tmp_path / "test.npz", images=features[100:], targets=targets[100:])
    described = Described(task="regression", input_range=(-6.0, 6.0))
    out = tmp_path / "out"
    manifest = export(
        mlp,
        str(tmp_path / "train.npz"),
        out,
        described=described,
        choices=Choices(calibration_count=100),
    )
    assert (manifest.model.input.minimum, manifest.model.input.maximum) == (-6.0, 6.0)
    assert (manifest.model.output_name, manifest.model.output_shape) == ("values", (1,))
    report = verify(out, str(tmp_path / "test.npz"))
    assert report.float_model.loss == pytest.approx(0.01, rel=1e-3)
    float32 = [a for a in report.artifacts if a.recipe == "float32"]
    assert [a.verdict for a in float32] == ["PASS", "PASS"]
    # Without it, the range is that of the samples seen, which others exceed.
    described = Described(task="regression")
    export_int8(
        mlp,
        str(tmp_path / "train.npz"),
        out,
        described=described,
        choices=Choices(calibration_count=100),
    )
    with pytest.raises(InputError, match="float32 images hold values from"):
        verify(out, str(tmp_path / "test.npz"))


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"task": "ranking"}, "unknown task 'ranking'"),
        ({"task": "regression", "labels": ("a", "b", "c")}, "labels .* are not for the task"),
        ({"task": "tensors", "floor_accuracy": 0.5}, "a floor of accuracy are not for the task"),
        ({"task": "autoencoder"}, r"takes \(8, 8, 1\) and gives \(3,\)"),
        ({"ceiling_loss": 0.5}, "a ceiling of loss .* is for regression and autoencoders"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(
    classifier: Path, pixels: str, tmp_path: Path, described: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export_int8(
            classifier,
            pixels,
            tmp_path / "out",
            described=Described(preprocessing=PIXELS, **described),
        )
    assert names(tmp_path / "out") == []


def test_a_classifier_gives_one_row_of_classes(save: Any, pixels: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"gives \(6, 6, 3\) .*: choose another --task"):
        export_int8(save(layers.Conv2D(3, 3)), pixels, tmp_path / "out")


def test_what_the_reference_evaluation_does_not_know_is_exported_without_golden_vectors(
    save: Any, pixels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemline.engines.coreml.sys", SimpleNamespace(platform="linux"))
    monkeypatch.delitem(COMPUTATIONS, "tanh")
    model, out = save(layers.Conv2D(2, 3, activation="tanh")), tmp_path / "out"
    described = Described(task="tensors", preprocessing=PIXELS)
    manifest = export(
        model,
        pixels,
        out,
        recipes=[r for r in select_recipes("float16") if r.engine == "coreml"],
        described=described,
        choices=Choices(calibration_count=30),
    )
    assert read_golden(out, manifest).artifacts == ()
    (result,) = selftest(out).artifacts
    assert result.verdict == "NOT_RUN"
    assert "does not know the operation 'tanh'" in result.reason

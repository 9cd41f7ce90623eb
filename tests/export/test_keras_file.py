import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras.src.backend.common import global_state

import hemline
from hemline.cli import main
from hemline.errors import ModelFileError
from hemline_export import keras_file
from hemline_export.backend import keras
from hemline_export.keras_engine import KerasEngine
from hemline_export.keras_file import ALLOW_LAMBDA, load_keras

layers = keras.layers


def test_a_classifier_loads(save: Any) -> None:
    model = load_keras(save(layers.Flatten(), layers.Dense(3, activation="softmax")))
    assert model.inputs[0].shape == (None, 8, 8, 1)
    assert model.outputs[0].shape == (None, 3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"there is no Keras file .*gone\.keras"):
        load_keras(tmp_path / "gone.keras")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.keras"
    path.write_text("not a model")
    with pytest.raises(ModelFileError, match="not a Keras 3 file"):
        load_keras(path)


def test_an_archive_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zip.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ModelFileError, match="Keras cannot load"):
        load_keras(path)


def test_a_lambda_layer_is_refused(save: Any) -> None:
    path = save(layers.Flatten(), layers.Lambda(lambda x: x * 2), layers.Dense(3))
    for opened in (load_keras, hemline.load, lambda path: KerasEngine(path, threads=1)):
        with pytest.raises(
            ModelFileError,
            match=r"m\.keras has Lambda layers, whose code runs when it is loaded; .* hemline "
            r"export --allow-lambda, or HEMLINE_ALLOW_LAMBDA=1 in the environment",
        ):
            opened(path)


def test_a_lambda_layer_within_a_model_within_a_model(tmp_path: Path) -> None:
    inner = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x * 2)])
    path = tmp_path / "outer.keras"
    keras.Sequential([keras.Input((4,)), inner, layers.Dense(2)]).save(path)
    with pytest.raises(ModelFileError, match="has Lambda layers"):
        load_keras(path)


def test_a_lambda_layer_that_went_unnoticed_is_refused_by_keras(
    save: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(layers.Flatten(), layers.Lambda(lambda x: x * 2))
    monkeypatch.setattr(keras_file, "_class_names", lambda _: ())
    with pytest.raises(ModelFileError, match="Keras cannot load"):
        load_keras(path)


def test_a_lambda_layer_that_is_allowed(
    save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(
        layers.Flatten(), layers.Lambda(lambda x: x * 2), layers.Dense(3, activation="softmax")
    )
    samples = tmp_path / "samples.npz"
    np.savez(samples, images=np.random.default_rng(0).random((500, 8, 8, 1), np.float32))
    command = ["export", str(path), "--calibration", str(samples), "--recipes", "float32"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    # Undone at the end, as this process goes on.
    monkeypatch.setenv(ALLOW_LAMBDA, "0")
    try:
        assert main([*command, "--out", str(tmp_path / "out"), "--allow-lambda"]) == 0
        # The artifact has no such layer any more, and the float model's file needs leave again.
        assert hemline.load(tmp_path / "out/m.float32.tflite").facts is not None
        images = np.zeros((1, 8, 8, 1), np.float32)
        assert hemline.load(tmp_path / "out/m.float.keras").outputs(images).shape == (1, 3)
        monkeypatch.setenv(ALLOW_LAMBDA, "0")
        with pytest.raises(ModelFileError, match="has Lambda layers"):
            hemline.load(tmp_path / "out/m.float.keras")
    finally:
        global_state.set_global_attribute("safe_mode_saving", None)


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "assets/../../outside.txt"])
def test_an_archive_with_members_outside_it(save: Any, name: str) -> None:
    path = save(layers.Flatten(), layers.Dense(3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "outside")
    with pytest.raises(ModelFileError, match=r"has a member .*outside\.txt', outside its own"):
        load_keras(path)


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    one, two = keras.Input((4,)), keras.Input((4,))
    path = tmp_path / "two.keras"
    keras.Model([one, two], layers.Dense(2)(layers.Add()([one, two]))).save(path)
    with pytest.raises(ModelFileError, match="2 inputs and 1 outputs"):
        load_keras(path)


def test_an_output_of_any_fixed_shape_loads(save: Any) -> None:
    assert load_keras(save(layers.Conv2D(3, 3))).outputs[0].shape == (None, 6, 6, 3)


def test_a_free_image_size_is_refused(save: Any) -> None:
    path = save(layers.GlobalAveragePooling2D(), layers.Dense(2), shape=(None, None, 1))
    with pytest.raises(ModelFileError, match="fixed sizes"):
        load_keras(path)

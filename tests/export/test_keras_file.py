import zipfile
from pathlib import Path
from typing import Any

import pytest

from hemline.errors import ModelFileError
from hemline_export.backend import keras
from hemline_export.keras_file import load_keras

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
    with pytest.raises(ModelFileError, match="Keras cannot load"):
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

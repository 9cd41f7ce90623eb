import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras.src.saving.serialization_lib import in_safe_mode

import hemline
from hemline.cli import main
from hemline.errors import ModelFileError
from hemline.files import sha256
from hemline.ownership import is_recorded
from hemline_export import keras_file
from hemline_export.backend import keras
from hemline_export.keras_engine import KerasEngine
from hemline_export.keras_file import ALLOW_LAMBDA, lambda_layers, load_keras, open_keras

layers = keras.layers


def test_a_classifier_loads(save: Any) -> None:
    model = load_keras(save(layers.Flatten(), layers.Dense(3, activation="softmax")))
    assert model.inputs[0].shape == (None, 8, 8, 1)
    assert model.outputs[0].shape == (None, 3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"cannot read .*gone\.keras: No such"):
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
    before = dict(os.environ), in_safe_mode()
    assert main([*command, "--out", str(tmp_path / "out"), "--allow-lambda"]) == 0
    # The permission does not outlive its use.
    assert (dict(os.environ), in_safe_mode()) == before
    # The artifact has no such layer any more, and the float model's file needs leave again.
    assert hemline.load(tmp_path / "out/m.float32.tflite").facts is not None
    with pytest.raises(ModelFileError, match="has Lambda layers"):
        hemline.load(tmp_path / "out/m.float.keras")
    with pytest.raises(ValueError, match=r"(?s)[Ll]ambda"):
        keras.saving.load_model(path)
    monkeypatch.setenv(ALLOW_LAMBDA, "1")
    images = np.zeros((1, 8, 8, 1), np.float32)
    assert hemline.load(tmp_path / "out/m.float.keras").outputs(images).shape == (1, 3)
    assert in_safe_mode() == before[1]
    with pytest.raises(ValueError, match=r"(?s)[Ll]ambda"):
        keras.saving.load_model(path)


def test_the_scope_of_a_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (None, "0", "1"):
        if before is None:
            monkeypatch.delenv(ALLOW_LAMBDA, raising=False)
        else:
            monkeypatch.setenv(ALLOW_LAMBDA, before)
        with pytest.raises(ZeroDivisionError), lambda_layers(True):  # noqa: PT012
            assert (os.environ[ALLOW_LAMBDA], in_safe_mode()) == ("1", False)
            with lambda_layers(False):
                assert (os.environ[ALLOW_LAMBDA], in_safe_mode()) == ("0", True)
            assert (os.environ[ALLOW_LAMBDA], in_safe_mode()) == ("1", False)
            raise ZeroDivisionError
        assert (os.environ.get(ALLOW_LAMBDA), in_safe_mode()) == (before, None)
        with lambda_layers():
            assert in_safe_mode() == (before != "1")


def bomb(path: Path, member: str, size: int) -> Path:
    """A Keras file with a member that is unpacked to far more than it takes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "{}")
        with archive.open(member, "w", force_zip64=True) as file:
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
    return path


def test_a_config_that_is_unpacked_to_gigabytes(tmp_path: Path, capsys: Any) -> None:
    path = bomb(tmp_path / "bomb.keras", "config.json", 40 << 20)
    assert path.stat().st_size < 1 << 20
    message = r"bomb\.keras: its config\.json has 41,943,040 bytes unpacked; at most 33,554,432"
    for opened in (load_keras, hemline.load, open_keras):
        with pytest.raises(ModelFileError, match=message):
            opened(path)
    np.savez(tmp_path / "samples.npz", images=np.zeros((500, 8, 8, 1), np.float32))
    assert main(["export", str(path), "--calibration", str(tmp_path / "samples.npz")]) == 2
    assert re.search(rf"^hemline: .*{message}", capsys.readouterr().err)


def test_an_archive_of_too_much(save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_file, "KERAS_BYTES", 1 << 20)
    with pytest.raises(ModelFileError, match="bytes unpacked; at most 1,048,576 are read"):
        load_keras(bomb(tmp_path / "bomb.keras", "assets/zeros", 4 << 20))
    path = save(layers.Flatten(), layers.Dense(3))
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(1_000):
            archive.writestr(f"assets/{i}", "")
    with pytest.raises(ModelFileError, match="has 1,003 members; at most 1,000 are read"):
        load_keras(path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_a_model_that_wants_all_memory_takes_its_child_alone(
    save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(keras_file, "is_recorded", is_recorded)
    path = save(layers.Flatten(), layers.Dense(3, activation="softmax"))
    rewritten = tmp_path / "wide.keras"
    # A dense layer of 2 to the 40 weights, by its config.
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(rewritten, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name == "config.json":
                content = content.replace(b'"units": 3', b'"units": 17179869184')
            after.writestr(name, content)
    np.savez(tmp_path / "samples.npz", images=np.zeros((500, 8, 8, 1), np.float32))
    assert main(["export", str(rewritten), "--calibration", str(tmp_path / "samples.npz")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("hemline: ")
    assert "wide.keras" in err


def test_a_keras_file_is_tried_in_a_child_unless_it_is_known(
    save: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_file, "is_recorded", is_recorded)
    path = save(layers.Flatten(), layers.Dense(3, activation="softmax"))
    tried: list[Path] = []

    def try_file(path: Path) -> str:
        tried.append(path)
        return sha256(path)

    monkeypatch.setattr(keras_file.guard, "try_file", try_file)
    open_keras(path)
    assert tried == [path]
    open_keras(path, trust=True)
    training = {"keras_file": path.name, "keras_sha256": sha256(path)}
    (path.parent / "training.json").write_text(json.dumps(training))
    open_keras(path)
    assert len(tried) == 1
    # Exchanged after its trial.
    (path.parent / "training.json").unlink()
    monkeypatch.setattr(keras_file.guard, "try_file", lambda _: "ab" * 32)
    with pytest.raises(ModelFileError, match="was changed while it was being opened"):
        open_keras(path)


@pytest.mark.slow
def test_a_keras_file_in_a_real_child(save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_file, "is_recorded", is_recorded)
    path = save(layers.Flatten(), layers.Dense(3, activation="softmax"))
    model, snapshot = open_keras(path)
    assert model.outputs[0].shape == (None, 3)
    assert snapshot.sha256 == sha256(path)


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

import shutil
from pathlib import Path

import pytest

import hemline
from hemline import bundled
from hemline.bundled import bundled_model, bundled_models
from hemline.errors import ModelFileError

RELEASED = Path(__file__).parents[2] / "artifacts" / "fashion_mnist"


def test_in_a_checkout_they_are_the_released_artifacts() -> None:
    assert bundled_models() == {name: RELEASED / name for name in ("cnn", "gru")}
    assert bundled_model() == RELEASED / "cnn"
    for folder in bundled_models().values():
        info = hemline.load(folder).info
        assert (info.engine, info.inputs[0].dtype) == ("litert", "int8")


def test_in_a_wheel_they_lie_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "hemline" / "models" / "gru"
    folder.mkdir(parents=True)
    for name in ("manifest.json", "gru.int8.tflite"):
        shutil.copy(RELEASED / "gru" / name, folder)
    monkeypatch.setattr(bundled, "__file__", str(tmp_path / "hemline" / "bundled.py"))
    assert bundled_models() == {"gru": folder}
    assert hemline.load(bundled_model("gru")).path == folder / "gru.int8.tflite"
    with pytest.raises(ModelFileError, match="no model 'cnn' comes with Hemline; known: gru"):
        bundled_model("cnn")


def test_there_may_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "__file__", str(tmp_path / "a" / "b" / "bundled.py"))
    with pytest.raises(ModelFileError, match="no model '' comes with Hemline; known: none"):
        bundled_model()

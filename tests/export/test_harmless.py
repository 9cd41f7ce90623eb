"""An export beside other work: what is not Hemline's stays, and is said to be in the way."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemline.cli import main
from hemline.errors import OutputError
from hemline.files import sha256
from hemline.manifest import read_manifest
from hemline_export.backend import keras
from hemline_export.export import export
from hemline_export.recipes import select_recipes

layers = keras.layers


@pytest.fixture
def model(save: Any, tmp_path: Path) -> tuple[Path, str]:
    """A Keras file, and samples to calibrate with."""
    np.savez(
        tmp_path / "train.npz", images=np.random.default_rng(0).random((500, 8, 8, 1), np.float32)
    )
    keras_file = save(layers.Flatten(), layers.Dense(3, activation="softmax"))
    return keras_file, str(tmp_path / "train.npz")


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "name",
    [
        "m.float16.mlpackage/thesis.txt",
        "m.float32.tflite",
        "m.float.keras",
        "manifest.json",
        "golden.json",
    ],
)
def test_what_is_in_the_way(model: tuple[Path, str], tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("years of work")
    before = contents(out)
    recipes = select_recipes("float32,float16")
    told: list[str] = []
    taken = out / name.partition("/")[0]
    with pytest.raises(OutputError, match=f"{taken} is there already, and is nothing that Hemline"):
        export(*model, out, recipes=recipes, progress=told.append)
    # Before anything was made.
    assert told == ["load m.keras"]
    assert contents(out) == before


def test_an_export_over_an_older_one(model: tuple[Path, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipes = select_recipes("float32,float16")
    for seed in (0, 1):
        (out / "notes.txt").parent.mkdir(exist_ok=True)
        (out / "notes.txt").write_text("mine")
        keras_file, samples = model
        if seed:
            loaded = keras.saving.load_model(keras_file)
            loaded.set_weights([weight + 1 for weight in loaded.get_weights()])
            loaded.save(keras_file)
        export(keras_file, samples, out, recipes=recipes)
        assert read_manifest(out).float_model.sha256 == sha256(keras_file)
    assert (out / "notes.txt").read_text() == "mine"
    # One that was changed by hand is the user's by now.
    shutil.copyfile(model[1], out / "m.float.keras")
    with pytest.raises(OutputError, match=r"m\.float\.keras is there already"):
        export(*model, out, recipes=recipes)


def test_the_command(
    model: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "m.float16.mlpackage").mkdir(parents=True)
    words = ["export", str(model[0]), "--calibration", model[1], "--out", str(tmp_path / "out")]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("hemline: ")
    assert "m.float16.mlpackage is there already" in err
    assert err.count("\n") == 1

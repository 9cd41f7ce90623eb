import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hemline.errors import HemlineError
from hemline_train import command
from hemline_train.command import add_command
from hemline_train.dataset import Dataset
from hemline_train.models import REFERENCE_MODELS, ReferenceModel


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_command(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["train", *words])
    code: int = arguments.run(arguments)
    return code


@pytest.fixture
def small_cnn(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_dataset: Dataset,
    small_reference: ReferenceModel,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "load_dataset", lambda *_: small_dataset)
    monkeypatch.setitem(REFERENCE_MODELS, "cnn", small_reference)


@pytest.mark.usefixtures("small_cnn")
def test_a_quick_run_prints_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cnn", "--preset", "quick") == 0
    out, err = capsys.readouterr()
    assert out.startswith("small on synthetic, quick, seed 0: 5 epochs, weights of epoch ")
    assert f"file           {Path('build/quick/cnn/cnn.float.keras')}\n" in out
    assert err.count("epoch ") == 5
    assert (tmp_path / "build/quick/cnn/training.json").is_file()


@pytest.mark.usefixtures("small_cnn")
def test_options_reach_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "cnn",
        "--epochs",
        "1",
        "--seed",
        "7",
        "--learning-rate",
        "0.02",
        "--decay-rate",
        "0.3",
        "--json",
    ]
    assert run(*words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "hemline.training/1"
    assert document["settings"] == {
        "epochs": 1,
        "batch_size": 128,
        "learning_rate": 0.02,
        "constant_epochs": 8,
        "decay_rate": 0.3,
        "patience": 2,
        "seed": 7,
        "split_seed": 0,
        "validation_fraction": 0.2,
    }
    assert document["facts"]["dataset"] == {"name": "synthetic", "split_seed": 0}
    assert (tmp_path / "build/synthetic/cnn/cnn.float.keras").is_file()


@pytest.mark.usefixtures("small_cnn")
@pytest.mark.parametrize("option", ["--epochs=0", "--learning-rate=-1", "--seed=-1"])
def test_impossible_options_are_a_clear_error(option: str) -> None:
    with pytest.raises(HemlineError, match="cannot train so: "):
        run("cnn", option)


def test_a_missing_data_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(HemlineError, match=r"train-images-idx3-ubyte\.gz is missing"):
        run("cnn", "--data", str(tmp_path / "none"))


def test_neither_command_nor_data_sets_import_tensorflow() -> None:
    code = """
import sys
import hemline_train.command, hemline_train.dataset
hemline_train.dataset.load_synthetic(split="test", folder=None, split_seed=0)
print(sorted({"tensorflow", "keras", "pooch", "rich"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_keras_is_silent() -> None:
    code = "from hemline_train.backend import keras; print(keras.backend.backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("tensorflow\n", "")

"""What the stress tests share: a tiny model's old and new files, and figures to print."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hemline
from hemline.commit import newest
from hemline.documents import read_document
from hemline.files import sha256
from hemline.golden import read_golden
from hemline.manifest import check_files, read_manifest
from hemline_train.garments import draw_garments
from hemline_train.models import REFERENCE_MODELS
from hemline_train.report import SCHEMA, TrainingReport

OLD, NEW = 0, 1
FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(params=["export", "train"])
def stage(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(stage: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the stage in this process, which has TensorFlow already: `run(folder, version)`."""
    spec = importlib.util.spec_from_file_location("victim", Path(__file__).parent / "victim.py")
    assert spec is not None
    assert spec.loader is not None
    victim = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(victim)
    monkeypatch.setitem(REFERENCE_MODELS, "small", victim.SMALL)
    return victim.RUNS[stage]


@pytest.fixture
def old(stage: str, run: Any, tmp_path: Path) -> Path:
    """The folder of a first run, and beside it what runs start from."""
    images, labels = draw_garments(200, 1)
    np.savez(tmp_path / "train.npz", images=images, labels=labels)
    folder = tmp_path / "old"
    folder.mkdir()
    if stage == "export":
        REFERENCE_MODELS["small"].build().save(folder / "small.float.keras")
    run(folder, OLD)
    if stage == "export":
        np.savez(folder / "float_predictions.npz", key=["of the", "old model"], outputs=[0.0])
    return folder


def version_of_export(folder: Path) -> int:
    """Returns which export a folder holds; fails unless all its files are of that one."""
    manifest = read_manifest(folder)
    read_golden(folder, manifest)
    check_files(folder, manifest)
    image = np.zeros((28, 28), np.uint8)
    for artifact in manifest.artifacts:
        if artifact.file.endswith(".tflite"):
            assert hemline.load(folder / artifact.file).predict(image).labels
    (calibration,) = {a.facts.calibration for a in manifest.artifacts if a.facts.calibration}
    # What is of the old model goes with it.
    assert (folder / "float_predictions.npz").exists() == (calibration.seed == OLD)
    return calibration.seed


def version_of_training(folder: Path) -> int:
    """Returns which training a folder holds; fails unless both files are of that one."""
    report = read_document(newest(folder / "training.json"), SCHEMA, TrainingReport)
    assert sha256(folder / report.keras_file) == report.keras_sha256
    return report.settings.seed


@pytest.fixture
def version_of(stage: str) -> Callable[[Path], int]:
    """Tells which run a folder holds, OLD or NEW; fails if it is neither as a whole."""
    return version_of_export if stage == "export" else version_of_training


@pytest.fixture(scope="session")
def print_at_end(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Puts a line among those that pytest prints after the last test."""
    return pytestconfig.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
    config: pytest.Config,
) -> None:
    """Prints those lines."""
    lines = config.stash.get(FIGURES, [])
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.line(line)

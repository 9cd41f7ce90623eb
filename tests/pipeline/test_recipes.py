"""Every recipe that needs no training, on a model that is neither reference model."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hemline.attribution import ENGINE
from hemline.cli import main
from hemline.facts import Preprocessing
from hemline.golden import selftest
from hemline.paired import Verdict
from hemline.parity import ParityReport, verify
from hemline_export.export import Described, export


@pytest.fixture(scope="module")
def folder(separable_keras: Path, garments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recipes")
    described = Described(preprocessing=Preprocessing(mean=0.0, std=255.0))
    export(separable_keras, str(garments / "train.npz"), out, described=described)
    return out


@pytest.fixture(scope="module")
def parity(folder: Path, garments: Path, tmp_path_factory: pytest.TempPathFactory) -> ParityReport:
    path = tmp_path_factory.mktemp("few") / "few.npz"
    with np.load(garments / "test.npz") as data:
        np.savez(path, images=data["images"][:500], labels=data["labels"][:500])
    return verify(folder, str(path))


def recipes(parity: ParityReport) -> Iterator[tuple[str, float]]:
    for artifact in parity.artifacts:
        assert artifact.agreement is not None, artifact.reason
        yield artifact.file.removeprefix("separable."), artifact.agreement


def test_every_file_runs_and_hardly_changes_a_class(parity: ParityReport) -> None:
    agreements = dict(recipes(parity))
    assert {"float16.tflite", "dynamic.tflite", "int16x8.tflite"} <= agreements.keys()
    assert {"int8w.mlpackage", "pal4.mlpackage"} <= agreements.keys()
    # A model of 500 weights has none to spare for a palette of 16.
    least = {"pal4.mlpackage": 0.6, "int8.tflite": 0.9}
    for file, agreement in agreements.items():
        assert agreement >= least.get(file, 0.98), file


def test_int16_files_have_no_second_engine(parity: ParityReport) -> None:
    steps = {a.recipe: [step.name for step in a.steps] for a in parity.artifacts}
    assert ENGINE not in steps["int16x8"]
    assert steps["dynamic"][-1] == ENGINE


def test_all_answer_their_golden_vectors(folder: Path) -> None:
    assert set(selftest(folder).verdicts()) == {Verdict.PASS}


@pytest.mark.parametrize(
    ("file", "compression"),
    [
        ("float16.tflite", "weights only, arithmetic in float32"),
        ("int8w.mlpackage", "weights only, arithmetic in float16"),
        ("pal4.mlpackage", "weights only, arithmetic in float16"),
    ],
)
def test_weight_compression_is_called_that(
    folder: Path, file: str, compression: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / f"separable.{file}"
    assert main(["inspect", str(path)]) == 0
    assert f"compression {compression}" in capsys.readouterr().out
    assert main(["inspect", str(path), "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)["facts"]["artifact"]["settings"]
    assert settings["compression"] == compression

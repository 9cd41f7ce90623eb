import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemline.documents import to_json
from hemline.facts import InputFacts, ModelFacts, Task
from hemline.parity.paired import compare_paired
from hemline_export import calibration_study
from hemline_export.backend import keras
from hemline_export.calibration import Ranges
from hemline_export.calibration_study import Cell, Study, describe_study, main, study_calibration
from hemline_export.export import TRAINING

layers = keras.layers


@pytest.fixture(scope="module")
def values(garments: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """600 garments as float32 values: 540 to calibrate with, and 60 to judge on."""
    path = tmp_path_factory.mktemp("values") / "values.npz"
    with np.load(garments / "train.npz") as data:
        images = data["images"][:600] / np.float32(255)
        np.savez(path, images=images, labels=data["labels"][:600])
    return str(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CNN of which every histogram is small, and whose guesses int8 changes."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(2, 3, strides=7),
            layers.Flatten(),
            layers.Dense(10, "softmax"),
        ]
    )
    path = tmp_path_factory.mktemp("small") / "small.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def observed(small: Path, values: str) -> tuple[Study, list[Any]]:
    """A study, and for each file that it made: samples, seed and method."""
    made = []
    make_artifact = calibration_study.make_artifact

    def make(*arguments: Any) -> Any:
        artifact = make_artifact(*arguments)
        record = artifact.facts.calibration
        assert record is not None
        made.append((record.count, record.seed, artifact.facts.settings.get("ranges")))
        return artifact

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_study, "make_artifact", make)
        study = study_calibration(small, values, counts=(10, 500, 541), seeds=(0, 1))
    return study, made


@pytest.fixture(scope="module")
def study(observed: tuple[Study, list[Any]]) -> Study:
    return observed[0]


def test_every_method_of_each_converter_is_tried_with_every_count_and_draw(study: Study) -> None:
    assert [(cell.recipe, cell.method, cell.count) for cell in study.cells] == [
        ("int8.tflite", "minmax", 10),
        ("int8.tflite", "minmax", 500),
        ("int8.onnx", "minmax", 10),
        ("int8.onnx", "minmax", 500),
        ("int8.onnx", "percentile", 10),
        ("int8.onnx", "percentile", 500),
        ("int8.onnx", "entropy", 10),
        ("int8.onnx", "entropy", 500),
    ]
    assert all(list(cell.draws) == [0, 1] for cell in study.cells)
    assert all(paired.n == 60 for cell in study.cells for paired in cell.draws.values())


def test_what_is_held_out_is_not_calibrated_with(study: Study) -> None:
    assert study.validation.startswith("60 of 600 samples")
    assert study.left_out == (
        "541 samples: there are 540 to calibrate with",
        "int8.tflite: its converter has no method but minmax",
    )


def test_each_file_is_made_with_its_own_method_count_and_draw(
    observed: tuple[Study, list[Any]],
) -> None:
    # The first of each engine, with the defaults, is to see whether it takes ranges.
    draws = [(10, 0), (10, 1), (500, 0), (500, 1)]
    assert observed[1] == [
        (500, 0, None),
        *((*draw, None) for draw in draws),
        (500, 0, "minmax"),
        *((*draw, method) for method in Ranges for draw in draws),
    ]


def test_the_table_has_means_and_ranges_and_the_defaults_interval() -> None:
    counts = {0: (36, 33), 1: (40, 45), 2: (20, 23)}
    draws = {
        seed: compare_paired(n=12_000, b=b, c=c, margin_pt=0.3) for seed, (b, c) in counts.items()
    }
    cells = tuple(
        Cell(recipe="int8.onnx", method=method, count=count, draws=draws)
        for method, count in ((Ranges.MINMAX, 500), (Ranges.MINMAX, 2000), (Ranges.ENTROPY, 500))
    )
    study = Study(
        model="m",
        validation="a split",
        count=12_000,
        float_accuracy=0.9,
        cells=cells,
        left_out=("int8.tflite: not made: a reason",),
    )
    # Deltas of −3, 5 and 3 samples in 12,000.
    assert describe_study(study).splitlines() == [
        "m on 12,000 validation samples (a split), float accuracy 0.9000; mean and range of "
        "3 draws",
        "| model |    recipe |  method | samples | accuracy | delta pt | least … greatest |",
        "| ----- | --------: | ------: | ------: | -------: | -------: | ---------------: |",
        "| m     | int8.onnx |  minmax |     500 |   0.9001 |   +0.014 |  -0.025 … +0.042 |",
        "| m     | int8.onnx |  minmax |   2,000 |   0.9001 |   +0.014 |  -0.025 … +0.042 |",
        "| m     | int8.onnx | entropy |     500 |   0.9001 |   +0.014 |  -0.025 … +0.042 |",
        "default, m int8.onnx (minmax, 500 samples, seed 0): delta -0.025 points, 95 % interval "
        "-0.165 … +0.114",
        "left out, m int8.tflite: not made: a reason",
    ]


def test_a_file_without_ranges_is_named(save: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = save(layers.GRU(4), layers.Dense(3, "softmax"), shape=(5, 4))
    random = np.random.default_rng(0)
    images, labels = random.random((600, 5, 4), np.float32), random.integers(0, 3, 600)
    np.savez(tmp_path / "steps.npz", images=images, labels=labels)
    study = study_calibration(model, str(tmp_path / "steps.npz"), counts=(10,), seeds=(0,))
    assert [cell.recipe for cell in study.cells] == ["int8.tflite"]
    assert study.left_out[-1] == "int8.onnx: it stores weights as integers and takes no ranges"


def test_a_recipe_that_refuses_the_model_is_named_with_the_reason(save: Any, values: str) -> None:
    # Neither engine has an integer form of ELU.
    model = save(
        layers.Conv2D(2, 3),
        layers.ELU(),
        layers.Flatten(),
        layers.Dense(10, "softmax"),
        shape=(28, 28, 1),
    )
    study = study_calibration(model, values, counts=(10,), seeds=(0,))
    assert study.cells == ()
    assert [reason.partition(": not made: ")[0] for reason in study.left_out] == [
        "int8.tflite",
        "int8.onnx",
    ]
    assert all("ELU" in reason.upper() for reason in study.left_out)
    assert len(describe_study(study).splitlines()) == 3


@pytest.mark.parametrize(
    ("count", "message"), [(500, "calibration with 500 samples"), (5, "calibration with 500")]
)
def test_too_few_samples_are_one_line_and_status_2(
    small: Path,
    values: str,
    tmp_path: Path,
    count: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with np.load(values) as data:
        np.savez(tmp_path / "few.npz", images=data["images"][:count], labels=data["labels"][:count])
    status = main([str(small), "--data", str(tmp_path / "few.npz")])
    output = capsys.readouterr()
    assert (status, output.out) == (2, "")
    assert output.err.startswith(f"calibration_study: {message}")
    assert output.err.count("\n") == 1


def test_a_model_of_another_task_is_refused(
    small: Path, values: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(small, tmp_path)
    facts = ModelFacts(
        model="small",
        task=Task.TENSORS,
        labels=(),
        input=InputFacts(
            name="image", shape=(28, 28, 1), minimum=0.0, maximum=1.0, preprocessing=None
        ),
        output_name="values",
        output_shape=(10,),
        dataset=None,
        floor_accuracy=None,
        ceiling_loss=None,
    )
    (tmp_path / TRAINING).write_text(json.dumps({"facts": to_json(facts)}))
    assert main([str(tmp_path / small.name), "--data", values]) == 2
    assert "for the task tensors: give a classifier" in capsys.readouterr().err

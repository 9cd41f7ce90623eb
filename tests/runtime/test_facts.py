from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hemline.artifact_facts import ArtifactFacts, EmbeddedFacts
from hemline.facts import ModelFacts, Preprocessing, QuantParams


def test_the_pixel_table_is_the_specified_division_to_the_bit() -> None:
    table = Preprocessing(mean=0.0, std=255.0).table()
    assert table.dtype == np.float32
    assert table.shape == (256,)
    expected = [np.float32(x) / np.float32(255) for x in range(256)]
    assert table.tobytes() == np.array(expected, np.float32).tobytes()


def test_the_pixel_table_subtracts_the_mean_first() -> None:
    table = Preprocessing(mean=127.5, std=127.5).table()
    assert (table[0], table[255]) == (-1.0, 1.0)
    assert Preprocessing(mean=10.0, std=2.0).table()[:3].tolist() == [-5.0, -4.5, -4.0]


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (0.0, 0.0),
        (0.0, -1.0),
        (float("nan"), 1.0),
        (0.0, float("nan")),
        (0.0, float("inf")),
        (float("-inf"), 1.0),
    ],
)
def test_impossible_preprocessing(mean: float, std: float) -> None:
    with pytest.raises(ValueError, match="finite mean and a std above 0"):
        Preprocessing(mean=mean, std=std)


@pytest.mark.parametrize("scale", [0.0, -0.5, float("nan"), float("inf")])
def test_impossible_scales(scale: float) -> None:
    with pytest.raises(ValueError, match="a scale must be finite and above 0"):
        QuantParams(scale=scale, zero_point=0)


@pytest.mark.parametrize("maximum", [0.0, -1.0, float("nan")])
def test_an_empty_value_range(model_facts: ModelFacts, maximum: float) -> None:
    with pytest.raises(ValueError, match=r"empty value range: 0\.0 to"):
        replace(model_facts.input, maximum=maximum)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "ranking"}, "unknown task 'ranking'; known: classification, regression, auto"),
        ({"output_shape": (4,)}, r"3 labels for an output of shape \(4,\)"),
        ({"output_shape": ()}, "an output's shape has one size or more"),
        ({"task": "regression"}, "labels and a floor of accuracy are not for the task regression"),
        ({"task": "tensors", "labels": ()}, "a floor of accuracy are not for the task tensors"),
        (
            {"task": "autoencoder", "labels": (), "floor_accuracy": None},
            r"takes \(2, 2, 1\) and gives \(3,\)",
        ),
        ({"ceiling_loss": 0.5}, "a ceiling of loss .* is for regression and autoencoders"),
        (
            {"task": "regression", "labels": (), "floor_accuracy": None, "ceiling_loss": 0.0},
            "a ceiling of loss must be above 0",
        ),
        (
            {"task": "tensors", "labels": (), "floor_accuracy": None, "ceiling_loss": 1.0},
            "a ceiling of loss must be above 0",
        ),
        (
            {
                "task": "regression",
                "labels": (),
                "floor_accuracy": None,
                "ceiling_loss": float("inf"),
            },
            "a ceiling of loss must be above 0 and finite",
        ),
        ({"floor_accuracy": float("nan")}, "a floor of accuracy lies from 0 to 1"),
        ({"floor_accuracy": 1.5}, "a floor of accuracy lies from 0 to 1"),
        ({"labels": ("cat",)}, "labels must be two or more, all different"),
        ({"labels": ("cat", "dog", "cat")}, "labels must be two or more, all different"),
    ],
)
def test_impossible_models(model_facts: ModelFacts, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(model_facts, **changes)


@pytest.mark.parametrize("margin_pt", [0.0, -0.1, 100.0, float("nan")])
def test_impossible_margins(artifact_facts: ArtifactFacts, margin_pt: float) -> None:
    with pytest.raises(ValueError, match="a margin must lie between 0 and 100 points"):
        replace(artifact_facts, margin_pt=margin_pt)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin_loss_percent": 0.0}, "a margin of loss must be above 0 percent"),
        ({"margin_loss_percent": float("inf")}, "a margin of loss must be above 0 percent"),
        ({"least_sqnr_db": float("nan")}, "a bound of SQNR must be finite"),
        ({"least_cosine": 1.0}, "a bound of cosine must lie between 0 and 1"),
    ],
)
def test_impossible_bounds(
    artifact_facts: ArtifactFacts, changes: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(artifact_facts, **changes)


def test_an_artifact_has_the_bounds_of_its_task_and_no_others(
    model_facts: ModelFacts, artifact_facts: ArtifactFacts
) -> None:
    artifact_facts.require_bounds("classification")
    for wrong, message in (
        ({"margin_pt": None}, "held to margin_pt, but the facts set none"),
        ({"least_cosine": 0.9}, "held to margin_pt, but the facts set least_cosine and margin_pt"),
    ):
        with pytest.raises(ValueError, match=message):
            EmbeddedFacts(model=model_facts, artifact=replace(artifact_facts, **wrong))
    tensors = replace(artifact_facts, margin_pt=None, least_sqnr_db=15.0)
    with pytest.raises(ValueError, match="held to least_sqnr_db and least_cosine"):
        tensors.require_bounds("tensors")
    replace(tensors, least_cosine=0.98).require_bounds("tensors")

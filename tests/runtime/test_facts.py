from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hemline.facts import ArtifactFacts, ModelFacts, Preprocessing, QuantParams


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
        ({"task": "regression"}, "unknown task 'regression'; known: 'classification'"),
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

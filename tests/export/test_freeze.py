from typing import Any

import numpy as np
import pytest

from hemline_export.backend import keras
from hemline_export.freeze import freeze

layers = keras.layers


@pytest.fixture
def model() -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Flatten(), layers.Dropout(0.5), layers.Dense(3)]
    )


def test_the_frozen_function_is_the_model_without_variables(model: Any) -> None:
    frozen = freeze(model, input_name="image", output_name="probabilities")
    sample = np.random.default_rng(0).random((1, 4, 4, 1), np.float32)
    outputs = frozen.named()(sample)
    assert list(outputs) == ["probabilities"]
    np.testing.assert_array_equal(outputs["probabilities"], model(sample, training=False))
    assert not frozen.function.variables
    assert {op.type for op in frozen.function.graph.get_operations()}.isdisjoint(
        {"ReadVariableOp", "VarHandleOp"}
    )


def test_the_batch_is_one_and_the_names_are_kept(model: Any) -> None:
    frozen = freeze(model, input_name="image", output_name="probabilities")
    (specification,) = frozen.named().input_signature
    assert (specification.name, tuple(specification.shape)) == ("image", (1, 4, 4, 1))

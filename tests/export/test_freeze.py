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
    # TensorFlow may fuse the operators of the one and not of the other.
    expected = np.asarray(model(sample, training=False))
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)
    assert not frozen.function.variables
    assert {op.type for op in frozen.function.graph.get_operations()}.isdisjoint(
        {"ReadVariableOp", "VarHandleOp"}
    )


def test_the_batch_is_one_and_the_names_are_kept(model: Any) -> None:
    frozen = freeze(model, input_name="image", output_name="probabilities")
    (specification,) = frozen.named().input_signature
    assert (specification.name, tuple(specification.shape)) == ("image", (1, 4, 4, 1))


def test_a_node_is_known_by_its_layer() -> None:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")], name="inner")
    stack = [inner, layers.Dense(3, name="dense_1"), layers.Dense(3, name="last")]
    frozen = freeze(keras.Sequential([keras.Input((4,)), *stack]), input_name="x", output_name="y")
    nodes = [node.name for node in frozen.function.graph.as_graph_def().node if node.op == "MatMul"]
    assert [frozen.layer_of(node) for node in nodes] == ["dense", "dense_1", "last"]
    assert frozen.layer_of("a/last_1/MatMul;b/dense/Add") == "last"
    assert frozen.layer_of("PartitionedCall:0") is None

from typing import Any

import numpy as np
import pytest

from hemline_export.backend import keras, tensorflow
from hemline_export.freeze import Frozen, freeze
from hemline_export.reorder import pool_before_activation
from hemline_export.tflite import tflite_from_frozen

layers = keras.layers


def frozen(*stack: Any, shape: tuple[int, ...] = (9, 10, 3)) -> Frozen:
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input(shape), *stack])
    return freeze(model, input_name="image", output_name="values")


def order(model: Frozen) -> list[str]:
    """The activations and pools, as the output depends on them."""
    nodes = {node.name: node for node in model.function.graph.as_graph_def().node}
    node, found = nodes[model.function.outputs[0].op.name], []
    while node.input:
        if node.op in ("LeakyRelu", "MaxPool", "Relu", "Tanh"):
            found.append(node.op)
        node = nodes[node.input[0].partition(":")[0]]
    return found[::-1]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("size", "strides"), [(2, 2), (3, 1), (2, 3)])
def test_not_a_bit_of_the_output_changes(padding: str, size: int, strides: int) -> None:
    before = frozen(
        layers.Conv2D(4, 3),
        layers.LeakyReLU(0.1),
        layers.MaxPooling2D(size, strides, padding),
        layers.Dropout(0.5),
        layers.Conv2D(5, 2, padding="same"),
        layers.LeakyReLU(0.3),
        layers.MaxPooling2D(size, strides, padding),
    )
    after = pool_before_activation(before)
    assert order(before) == ["LeakyRelu", "MaxPool"] * 2
    assert order(after) == ["MaxPool", "LeakyRelu"] * 2
    images = np.random.default_rng(5).normal(size=(20, 1, 9, 10, 3)).astype(np.float32)
    for image in images:
        expected, found = (
            f.function(tensorflow.constant(image))[0].numpy() for f in (before, after)
        )
        np.testing.assert_array_equal(found, expected)
    tflite_from_frozen(after)


@pytest.mark.parametrize("activation", ["relu", "tanh", lambda x: keras.ops.leaky_relu(x, -0.5)])
def test_other_activations_stay(activation: Any) -> None:
    before = frozen(layers.Conv2D(4, 3), layers.Activation(activation), layers.MaxPooling2D(2))
    assert pool_before_activation(before) is before


def test_an_activation_that_something_else_reads_stays() -> None:
    image = keras.Input((8, 8, 2))
    value = layers.LeakyReLU(0.1)(layers.Conv2D(2, 1)(image))
    both = layers.Add()([layers.MaxPooling2D(8)(value), layers.AveragePooling2D(8)(value)])
    before = freeze(keras.Model(image, both), input_name="image", output_name="values")
    assert pool_before_activation(before) is before

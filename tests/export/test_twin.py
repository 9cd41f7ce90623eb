from typing import Any

import numpy as np
import pytest

from hemline.errors import ExportError
from hemline_export import twin as twin_module
from hemline_export.backend import keras
from hemline_export.twin import build_twin

layers = keras.layers


def stack(*parts: Any, shape: tuple[int, ...] = (8, 8, 3)) -> Any:
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input(shape, name="image"), *parts])
    random = np.random.default_rng(3)
    # Fresh biases and batch statistics are zeros and ones, and a mistake in them would not show.
    for variable in model.variables:
        if variable.path.endswith(("bias", "mean", "variance", "beta", "gamma")):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return model


def largest_difference(one: Any, other: Any) -> float:
    values = np.random.default_rng(9).normal(size=(5, *one.inputs[0].shape[1:])).astype("float32")
    expected = np.asarray(one(values, training=False))
    return float(np.abs(expected - np.asarray(other(values, training=False))).max())


@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        ([layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")], (8, 8, 3)),
        ([layers.Conv2D(4, 3, dilation_rate=2, use_bias=False)], (8, 8, 3)),
        ([layers.DepthwiseConv2D(3, depth_multiplier=2)], (8, 8, 3)),
        ([layers.SeparableConv2D(4, 3)], (8, 8, 3)),
        ([layers.Conv2DTranspose(4, 3, strides=2)], (8, 8, 3)),
        ([layers.LeakyReLU(negative_slope=0.1)], (8, 8, 3)),
        ([layers.ReLU(6.0, negative_slope=0.2, threshold=0.1)], (8, 8, 3)),
        ([layers.Activation("silu")], (8, 8, 3)),
        ([layers.ZeroPadding2D(1), layers.MaxPooling2D(2, padding="same")], (8, 8, 3)),
        ([layers.AveragePooling2D(2), layers.GlobalAveragePooling2D()], (8, 8, 3)),
        ([layers.Flatten(), layers.Dropout(0.5), layers.Dense(3, "softmax")], (8, 8, 3)),
        ([layers.Conv1D(4, 3, padding="causal")], (9, 5)),
        ([layers.GRU(6), layers.Dense(3)], (9, 5)),
        ([layers.GRU(6, reset_after=False, return_sequences=True, go_backwards=True)], (9, 5)),
        ([layers.LSTM(6, unit_forget_bias=False)], (9, 5)),
    ],
)
def test_a_twin_answers_bit_for_bit_alike(parts: list[Any], shape: tuple[int, ...]) -> None:
    model = stack(*parts, shape=shape)
    assert largest_difference(model, build_twin(model)) == 0


def test_batch_normalization_is_alike_to_rounding() -> None:
    model = stack(layers.BatchNormalization(epsilon=0.01))
    assert largest_difference(model, build_twin(model)) < 1e-6


def test_a_branching_model_and_a_shared_layer_have_twins() -> None:
    image = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 3, padding="same")
    joined = layers.Concatenate()([shared(image), shared(shared(image)), image])
    model = keras.Model(image, layers.Add()([joined, layers.Conv2D(9, 1)(image)]))
    twin = build_twin(model)
    assert largest_difference(model, twin) == 0
    assert len(twin.weights) == len(model.weights)


def test_dropout_of_a_twin_drops_in_training() -> None:
    twin = build_twin(stack(layers.Dropout(0.5), shape=(1000,)))
    ones = np.ones((1, 1000), np.float32)
    assert np.asarray(twin(ones, training=True)).min() == 0
    assert np.asarray(twin(ones)).min() == 1


class Doubled(layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        return 2 * inputs


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Doubled(name="mine"), r"layer mine \(Doubled\) has no twin"),
        (
            keras.Sequential([keras.Input((8, 8, 3)), layers.ReLU()], name="inner"),
            r"layer inner \(Sequential\) has no twin",
        ),
        (layers.RMSNormalization(name="norm"), r"layer norm \(RMSNormalization\) has no twin"),
        (
            layers.Activation("hard_shrink", name="shrink"),
            r"layer shrink \(Activation\) has settings that tf_keras refuses: .*hard_shrink",
        ),
    ],
)
def test_a_layer_without_twin_is_named(layer: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        build_twin(stack(layer))


def test_a_setting_that_changes_the_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    # By this name tf_keras means a steeper function.
    with pytest.raises(ExportError, match="the tf_keras twin answers otherwise"):
        build_twin(stack(layers.Activation("hard_sigmoid")))
    monkeypatch.setattr(twin_module, "_DROPPED", (*twin_module._DROPPED, "epsilon"))
    with pytest.raises(ExportError, match="outputs differ by"):
        build_twin(stack(layers.BatchNormalization(epsilon=0.5)))

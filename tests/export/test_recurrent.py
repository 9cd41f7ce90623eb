from typing import Any

import numpy as np
import pytest

from hemline.errors import ExportError
from hemline_export.backend import keras, tensorflow
from hemline_export.recurrent import restore_gru_loop, unroll_gru

layers = keras.layers


def build(time: int | None, features: int, *stack: Any) -> Any:
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((time, features)), *stack])
    # Fresh biases are all zero, and a mistake in them would not show.
    random = np.random.default_rng(3)
    for layer in model.layers:
        if isinstance(layer, layers.GRU) and layer.use_bias:
            layer.cell.bias.assign(random.normal(0, 0.3, layer.cell.bias.shape))
    return model


def largest_difference(one: Any, other: Any, batch: int) -> float:
    shape = (batch, *one.inputs[0].shape[1:])
    sequences = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    return float(np.abs(np.asarray(one(sequences)) - np.asarray(other(sequences))).max())


@pytest.mark.parametrize("rewrite", [unroll_gru, restore_gru_loop])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reset_after": False},
        {"return_sequences": True},
        {"go_backwards": True},
        {"go_backwards": True, "return_sequences": True, "reset_after": False},
        {"use_bias": False},
        {"use_bias": False, "reset_after": False},
        {"recurrent_activation": "hard_sigmoid", "activation": "relu"},
    ],
)
def test_a_rewritten_gru_is_the_keras_gru(
    rewrite: Any, batch: int, settings: dict[str, Any]
) -> None:
    model = build(9, 5, layers.GRU(6, **settings))
    rewritten = rewrite(model)
    assert type(rewritten.layers[-1]).__name__ != "GRU"
    assert rewritten.outputs[0].shape == model.outputs[0].shape
    assert largest_difference(model, rewritten, batch) < 1e-6


@pytest.mark.parametrize(("units", "time"), [(1, 1), (1, 7), (17, 2), (128, 28)])
def test_any_size_unrolls(units: int, time: int) -> None:
    model = build(time, 4, layers.GRU(units))
    assert largest_difference(model, unroll_gru(model), 2) < 1e-6


@pytest.mark.parametrize("rewrite", [unroll_gru, restore_gru_loop])
def test_stacked_and_nested_grus_are_all_rewritten(rewrite: Any) -> None:
    inner = keras.Sequential([keras.Input((6, 4)), layers.GRU(4, return_sequences=True)])
    sequence = keras.Input((6, 4))
    hidden = layers.Add()([inner(sequence), layers.GRU(4, return_sequences=True)(sequence)])
    model = keras.Model(sequence, layers.GRU(3)(hidden))
    rewritten = rewrite(model)
    kinds = {type(layer).__name__ for layer in rewritten._flatten_layers(include_self=False)}
    assert "GRU" not in kinds
    assert largest_difference(model, rewritten, 2) < 1e-6


@pytest.mark.parametrize("rewrite", [unroll_gru, restore_gru_loop])
def test_a_model_without_gru_is_left_alone(rewrite: Any) -> None:
    model = build(3, 2, layers.Flatten(), layers.Dense(2))
    assert rewrite(model) is model


def test_the_model_itself_is_not_changed() -> None:
    model = build(3, 2, layers.GRU(2))
    before = [weight.copy() for weight in model.get_weights()]
    unroll_gru(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        ([layers.LSTM(2, name="memory")], r"other than GRU .*: memory \(LSTM\)"),
        ([layers.Bidirectional(layers.GRU(2), name="both")], r"both \(Bidirectional\)"),
        ([layers.GRU(2, recurrent_activation="softmax", name="odd")], "layer odd: gates by soft"),
    ],
)
def test_what_cannot_be_unrolled_is_named(stack: list[Any], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        unroll_gru(build(3, 2, *stack))


def test_a_stateful_gru_is_named() -> None:
    sequence = keras.Input(batch_shape=(1, 3, 2))
    model = keras.Model(sequence, layers.GRU(2, stateful=True, name="keeps")(sequence))
    with pytest.raises(ExportError, match="layer keeps keeps or returns its state"):
        unroll_gru(model)


def test_a_sequence_of_free_length_is_named() -> None:
    unrolled = unroll_gru(build(None, 2, layers.GRU(2, name="free")))
    with pytest.raises(ExportError, match="layer free: its sequence has no fixed length"):
        tensorflow.function(unrolled).get_concrete_function(
            tensorflow.TensorSpec((1, None, 2), tensorflow.float32)
        )


@pytest.mark.parametrize("rewrite", [unroll_gru, restore_gru_loop])
def test_a_masked_sequence_is_refused(rewrite: Any) -> None:
    rewritten = rewrite(build(3, 2, layers.Masking(), layers.GRU(2, name="masked")))
    with pytest.raises(ExportError, match="layer masked takes a mask"):
        rewritten(np.zeros((1, 3, 2), np.float32))

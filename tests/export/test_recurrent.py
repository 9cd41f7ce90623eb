from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemline.errors import ExportError
from hemline_export.backend import keras, tensorflow
from hemline_export.freeze import freeze
from hemline_export.recurrent import restore_recurrent_loop, unroll_recurrent
from hemline_export.tflite import int8_tflite_from_frozen, int16x8_tflite_from_frozen

layers = keras.layers


def build(time: int | None, features: int, *stack: Any) -> Any:
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((time, features)), *stack])
    # Fresh biases are all zero, and a mistake in them would not show.
    random = np.random.default_rng(3)
    for weight in model.weights:
        if weight.name == "bias":
            weight.assign(random.normal(0, 0.3, weight.shape))
    return model


def largest_difference(one: Any, other: Any, batch: int) -> float:
    shape = (batch, *one.inputs[0].shape[1:])
    sequences = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    return float(np.abs(np.asarray(one(sequences)) - np.asarray(other(sequences))).max())


SETTINGS = st.fixed_dictionaries(
    {
        "units": st.integers(1, 20),
        "use_bias": st.booleans(),
        "return_sequences": st.booleans(),
        "go_backwards": st.booleans(),
    }
)
FORMS = st.one_of(
    st.tuples(st.just(layers.GRU), st.fixed_dictionaries({"reset_after": st.booleans()})),
    st.tuples(st.just(layers.LSTM), st.fixed_dictionaries({"unit_forget_bias": st.booleans()})),
)


@pytest.mark.parametrize("rewrite", [unroll_recurrent, restore_recurrent_loop])
@hypothesis.settings(max_examples=25, deadline=None)
@given(
    form=FORMS,
    settings=SETTINGS,
    time=st.integers(1, 12),
    features=st.integers(1, 9),
    batch=st.integers(1, 4),
)
def test_a_rewritten_layer_is_the_keras_layer(
    rewrite: Any, form: Any, settings: dict[str, Any], time: int, features: int, batch: int
) -> None:
    kind, own = form
    model = build(time, features, kind(**settings, **own))
    rewritten = rewrite(model)
    assert type(rewritten.layers[-1]).__name__ not in ("GRU", "LSTM")
    assert rewritten.outputs[0].shape == model.outputs[0].shape
    assert largest_difference(model, rewritten, batch) < 1e-6


@pytest.mark.parametrize("rewrite", [unroll_recurrent, restore_recurrent_loop])
@pytest.mark.parametrize("kind", [layers.GRU, layers.LSTM])
def test_other_activations_are_kept(rewrite: Any, kind: Any) -> None:
    layer = kind(6, recurrent_activation="hard_sigmoid", activation="relu")
    model = build(9, 5, layer)
    assert largest_difference(model, rewrite(model), 2) < 1e-6


@pytest.mark.parametrize("kind", [layers.GRU, layers.LSTM])
def test_the_size_of_the_reference_model_unrolls(kind: Any) -> None:
    model = build(28, 28, kind(128))
    assert largest_difference(model, unroll_recurrent(model), 2) < 1e-6


@pytest.mark.parametrize("rewrite", [unroll_recurrent, restore_recurrent_loop])
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "ave", "mul"])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_both_ways(rewrite: Any, merge_mode: str, return_sequences: bool) -> None:
    layer = layers.LSTM(4, return_sequences=return_sequences)
    model = build(5, 3, layers.Bidirectional(layer, merge_mode=merge_mode))
    rewritten = rewrite(model)
    assert rewritten.outputs[0].shape == model.outputs[0].shape
    assert largest_difference(model, rewritten, 2) < 1e-6


def test_two_different_ways() -> None:
    backward = layers.GRU(3, go_backwards=True, return_sequences=True)
    both = layers.Bidirectional(layers.LSTM(3, return_sequences=True), backward_layer=backward)
    model = build(5, 3, both)
    assert largest_difference(model, unroll_recurrent(model), 2) < 1e-6


@pytest.mark.parametrize("rewrite", [unroll_recurrent, restore_recurrent_loop])
def test_stacked_and_nested_grus_are_all_rewritten(rewrite: Any) -> None:
    inner = keras.Sequential([keras.Input((6, 4)), layers.GRU(4, return_sequences=True)])
    sequence = keras.Input((6, 4))
    hidden = layers.Add()([inner(sequence), layers.GRU(4, return_sequences=True)(sequence)])
    model = keras.Model(sequence, layers.GRU(3)(hidden))
    rewritten = rewrite(model)
    kinds = {type(layer).__name__ for layer in rewritten._flatten_layers(include_self=False)}
    assert "GRU" not in kinds
    assert largest_difference(model, rewritten, 2) < 1e-6


@pytest.mark.parametrize("rewrite", [unroll_recurrent, restore_recurrent_loop])
def test_a_model_without_gru_is_left_alone(rewrite: Any) -> None:
    model = build(3, 2, layers.Flatten(), layers.Dense(2))
    assert rewrite(model) is model


def test_the_model_itself_is_not_changed() -> None:
    model = build(3, 2, layers.GRU(2))
    before = [weight.copy() for weight in model.get_weights()]
    unroll_recurrent(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        ([layers.SimpleRNN(2, name="plain")], r"other than GRU and LSTM .*: plain \(SimpleRNN\)"),
        ([layers.Bidirectional(layers.SimpleRNN(2))], r"forward_simple_rnn\w* \(SimpleRNN\)"),
        ([layers.GRU(2, recurrent_activation="softmax", name="odd")], "layer odd: gates by soft"),
        ([layers.LSTM(2, recurrent_activation="tanh", name="odd")], "layer odd: gates by tanh"),
    ],
)
def test_what_cannot_be_unrolled_is_named(stack: list[Any], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        unroll_recurrent(build(3, 2, *stack))


def test_both_ways_unmerged_are_named() -> None:
    sequence = keras.Input((3, 2))
    both = layers.Bidirectional(layers.GRU(2), merge_mode=None, name="both")
    model = keras.Model(sequence, both(sequence))
    with pytest.raises(ExportError, match="layer both: an exported model has one output"):
        unroll_recurrent(model)


def test_a_stateful_gru_is_named() -> None:
    sequence = keras.Input(batch_shape=(1, 3, 2))
    model = keras.Model(sequence, layers.GRU(2, stateful=True, name="keeps")(sequence))
    with pytest.raises(ExportError, match="layer keeps keeps or returns its state"):
        unroll_recurrent(model)


def test_a_sequence_of_free_length_is_named() -> None:
    unrolled = unroll_recurrent(build(None, 2, layers.GRU(2, name="free")))
    with pytest.raises(ExportError, match="layer free: its sequence has no fixed length"):
        tensorflow.function(unrolled).get_concrete_function(
            tensorflow.TensorSpec((1, None, 2), tensorflow.float32)
        )


@pytest.mark.parametrize("rewrite", [unroll_recurrent, restore_recurrent_loop])
def test_a_masked_sequence_is_refused(rewrite: Any) -> None:
    rewritten = rewrite(build(3, 2, layers.Masking(), layers.GRU(2, name="masked")))
    with pytest.raises(ExportError, match="layer masked takes a mask"):
        rewritten(np.zeros((1, 3, 2), np.float32))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.GRU(5),
        lambda: layers.GRU(5, reset_after=False, return_sequences=True),
        lambda: layers.GRU(5, use_bias=False, go_backwards=True),
        lambda: layers.LSTM(5),
        lambda: layers.LSTM(5, return_sequences=True, go_backwards=True),
        lambda: layers.LSTM(5, use_bias=False),
        lambda: layers.Bidirectional(layers.LSTM(5, return_sequences=True)),
    ],
)
@pytest.mark.parametrize("convert", [int8_tflite_from_frozen, int16x8_tflite_from_frozen])
def test_no_operator_stays_in_floating_point(layer: Any, convert: Any) -> None:
    model = build(4, 6, layer(), layers.Flatten(), layers.Dense(3, activation="softmax"))
    rewritten = unroll_recurrent(model)
    # Which draw the converter stumbles over is its own affair.
    for seed in range(2):
        calibration = np.random.default_rng(seed).random((20, 4, 6), np.float32)
        # Raises if a tensor is no integer.
        convert(freeze(rewritten, input_name="rows", output_name="probabilities"), calibration)

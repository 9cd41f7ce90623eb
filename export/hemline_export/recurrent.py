"""Rewrites of recurrent layers, since no converter takes Keras 3's as they are.

TFLite and Core ML need the loop unrolled: `unroll_gru`. ONNX has an operator for the whole
layer, which tf2onnx finds only in tf_keras's form of the loop: `restore_gru_loop`. Both keep
the layer's arithmetic: the rewritten float model equals the Keras model to rounding.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from hemline.errors import ExportError
from hemline_export.backend import keras, tf_keras
from hemline_export.backend import tensorflow as tf


def unroll_gru(model: Any) -> Any:
    """Returns the model with each GRU layer unrolled over its time steps, or itself if it has none.

    Raises:
        ExportError: a layer's sequence has no fixed length, or it keeps or returns its state, or
            the model has a recurrent layer of another kind.
    """
    return _replace_gru(model, UnrolledGRU)


def restore_gru_loop(model: Any) -> Any:
    """Returns the model with each GRU layer as tf_keras's loop, or itself if it has none.

    A layer in which tf2onnx would not find the operator is unrolled instead. Left as an ONNX
    Loop, OpenVINO could not read it; and as an operator with other activations than the default
    ones, onnx's reference evaluator would compute those all the same.

    Raises:
        ExportError: as `unroll_gru`.
    """
    return _replace_gru(
        model, lambda layer: LoopGRU(layer) if _has_operator(layer) else UnrolledGRU(layer)
    )


# Those for which gate(−x) = 1 − gate(x).
_SYMMETRIC_GATES = (keras.activations.sigmoid, keras.activations.hard_sigmoid)


class UnrolledGRU(keras.layers.Layer):  # type: ignore[misc]
    """A GRU layer as straight-line code.

    The products of the input with its kernels do not depend on the state, so they are taken for
    all time steps at once, ahead of the recurrence. The update and reset gates share one
    product, one addition and one sigmoid. Their recurrent bias joins the input bias.

    What the update gate lets in, 1 − update, is computed as the sigmoid of the negated sum. On
    TFLite's int8 grid a sigmoid reaches 0 exactly, but 1 only to 1/256: a gate that says "keep
    the state" then keeps it, where the textbook form would leak 0.4 % of it at each step.

    Equations: Cho et al., arXiv:1406.1078, and the `reset_after` form of cuDNN.

    Args:
        layer: the built GRU layer to take weights and settings from.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(name=layer.name)
        self.supports_masking = True
        _require_supported(layer)
        if layer.recurrent_activation not in _SYMMETRIC_GATES:
            raise ExportError(
                f"layer {layer.name}: gates by {layer.recurrent_activation.__name__} cannot be "
                "unrolled; known: sigmoid, hard_sigmoid"
            )
        self._units, self._reset_after = layer.units, layer.reset_after
        self._return_sequences, self._backwards = layer.return_sequences, layer.go_backwards
        self._activation, self._gate = layer.activation, layer.recurrent_activation
        kernel, recurrent, *bias = [np.array(weight) for weight in layer.get_weights()]
        gates = 2 * layer.units
        self._kernels = kernel[:, :gates], kernel[:, gates:]
        self._recurrent = recurrent[:, :gates], recurrent[:, gates:]
        # With reset_after Keras keeps one bias for the input products and one for the recurrent.
        rows = np.zeros((2, 3 * layer.units), np.float32)
        if bias:
            rows[: bias[0].ndim] = bias[0]
        self._gate_bias = rows[:, :gates].sum(axis=0)
        # The update gate comes first in Keras's order.
        for weights in (self._kernels[0], self._recurrent[0], self._gate_bias):
            weights[..., : layer.units] *= -1
        self._candidate_bias, self._recurrent_bias = rows[0, gates:], rows[1, gates:]

    def call(self, sequence: Any, mask: Any = None) -> Any:
        """Maps (batch, time, features) to (batch, units), or (batch, time, units)."""
        _require_no_mask(self.name, mask)
        if sequence.shape[1] is None:
            raise ExportError(f"layer {self.name}: its sequence has no fixed length to unroll")
        gate_inputs = tf.unstack(sequence @ self._kernels[0] + self._gate_bias, axis=1)
        inputs = tf.unstack(sequence @ self._kernels[1] + self._candidate_bias, axis=1)
        if self._backwards:
            gate_inputs.reverse()
            inputs.reverse()
        state = tf.zeros_like(inputs[0])
        states = []
        for gate_input, value in zip(gate_inputs, inputs, strict=True):
            gates = self._gate(gate_input + state @ self._recurrent[0])
            admit, reset = tf.split(gates, 2, axis=-1)
            if self._reset_after:
                recalled = reset * (state @ self._recurrent[1] + self._recurrent_bias)
            else:
                recalled = (reset * state) @ self._recurrent[1]
            candidate = self._activation(value + recalled)
            # The same as update · state + (1 − update) · candidate, with one product less.
            state = state + admit * (candidate - state)
            states.append(state)
        return tf.stack(states, axis=1) if self._return_sequences else state

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape that `call` gives."""
        batch, time, _ = input_shape
        return (batch, time, self._units) if self._return_sequences else (batch, self._units)


class LoopGRU(keras.layers.Layer):  # type: ignore[misc]
    """A GRU layer computed by tf_keras, whose loop tf2onnx knows as an ONNX GRU.

    Args:
        layer: the built GRU layer to take weights and settings from, of `reset_after` form and
            with Keras's default activations.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(name=layer.name)
        self.supports_masking = True
        _require_supported(layer)
        twin = tf_keras.layers.GRU(
            layer.units,
            return_sequences=layer.return_sequences,
            go_backwards=layer.go_backwards,
        )
        kernel, recurrent, *bias = layer.get_weights()
        twin.build((None, None, len(kernel)))
        # tf2onnx knows the loop by its bias.
        twin.set_weights(
            [kernel, recurrent, *(bias or [np.zeros((2, 3 * layer.units), np.float32)])]
        )
        # In a list, Keras 3 does not try to track the layer of another Keras.
        self._twin, self._shape = [twin], layer.compute_output_shape

    def call(self, sequence: Any, mask: Any = None) -> Any:
        """Maps (batch, time, features) to (batch, units), or (batch, time, units)."""
        _require_no_mask(self.name, mask)
        return self._twin[0](sequence)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        """Returns the shape that `call` gives."""
        return self._shape(input_shape)


def _replace_gru(model: Any, replace: Callable[[Any], Any]) -> Any:
    layers = list(model._flatten_layers(include_self=False))
    strangers = [
        layer
        for layer in layers
        if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional)
        and not isinstance(layer, keras.layers.GRU)
    ]
    if strangers:
        names = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in strangers)
        raise ExportError(f"recurrent layers other than GRU cannot be exported yet: {names}")
    if not any(isinstance(layer, keras.layers.GRU) for layer in layers):
        return model
    return keras.models.clone_model(
        model,
        clone_function=lambda layer: (
            replace(layer) if isinstance(layer, keras.layers.GRU) else layer
        ),
        recursive=True,
    )


def _require_supported(layer: Any) -> None:
    if layer.stateful or layer.return_state:
        raise ExportError(
            f"layer {layer.name} keeps or returns its state; an exported model has one input, one "
            "output and no memory: set stateful and return_state to False"
        )


def _has_operator(layer: Any) -> bool:
    activations = (layer.activation, layer.recurrent_activation)
    default = (keras.activations.tanh, keras.activations.sigmoid)
    return bool(layer.reset_after) and activations == default


def _require_no_mask(name: str, mask: Any) -> None:
    if mask is not None:
        raise ExportError(
            f"layer {name} takes a mask, which an exported model of one input has not: leave out "
            "Masking and mask_zero"
        )

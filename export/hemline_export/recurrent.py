"""Rewrites of recurrent layers, since no converter takes Keras 3's as they are.

TFLite and Core ML need the loop unrolled: `unroll_recurrent`. ONNX has an operator for the whole
layer, which tf2onnx finds only in tf_keras's form of the loop: `restore_recurrent_loop`. Both keep
the layer's arithmetic: the rewritten float model equals the Keras model to rounding.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from hemline.errors import ExportError
from hemline_export.backend import keras, tf_keras
from hemline_export.backend import tensorflow as tf


def unroll_recurrent(model: Any) -> Any:
    """Returns the model with each GRU and LSTM layer unrolled, or itself if it has none.

    Raises:
        ExportError: a layer's sequence has no fixed length, or it keeps or returns its state, or
            the model has a recurrent layer of another kind.
    """
    return _replace(model, _unroll)


def restore_recurrent_loop(model: Any) -> Any:
    """Returns the model with each GRU and LSTM layer as tf_keras's loop, or itself.

    A layer in which tf2onnx would not find the operator is unrolled instead. Left as an ONNX
    Loop, OpenVINO could not read it; and as an operator with other activations than the default
    ones, onnx's reference evaluator would compute those all the same.

    Raises:
        ExportError: as `unroll_recurrent`.
    """
    return _replace(model, lambda layer: (Loop if _has_operator(layer) else _unroll)(layer))


class _Unrolled(keras.layers.Layer):  # type: ignore[misc]
    """A recurrent layer as straight-line code.

    Products of the input with its kernels do not depend on the state, so they are taken for all
    time steps at once, ahead of the recurrence.

    Args:
        layer: the built layer to take weights and settings from.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(name=layer.name)
        self.supports_masking = True
        _require_supported(layer)
        self._activation, self._gate = layer.activation, layer.recurrent_activation
        if self._gate not in _GATES:
            raise ExportError(
                f"layer {layer.name}: gates by {self._gate.__name__} cannot be "
                "unrolled; known: sigmoid, hard_sigmoid"
            )
        self._units = layer.units
        self._return_sequences, self._backwards = layer.return_sequences, layer.go_backwards

    def call(self, sequence: Any, mask: Any = None) -> Any:
        """Maps (batch, time, features) to (batch, units), or (batch, time, units)."""
        _require_no_mask(self.name, mask)
        if sequence.shape[1] is None:
            raise ExportError(f"layer {self.name}: its sequence has no fixed length to unroll")
        steps = list(zip(*(tf.unstack(x, axis=1) for x in self._project(sequence)), strict=True))
        if self._backwards:
            steps.reverse()
        state = memory = None
        states = []
        for i, inputs in enumerate(steps):
            state, memory = self._step(inputs, state, memory) if i else self._start(inputs)
            states.append(state)
        return tf.stack(states, axis=1) if self._return_sequences else state

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape that `call` gives."""
        batch, time, _ = input_shape
        return (batch, time, self._units) if self._return_sequences else (batch, self._units)

    @abstractmethod
    def _project(self, sequence: Any) -> tuple[Any, ...]:
        """Returns the products of the whole sequence, each (batch, time, …)."""

    @abstractmethod
    def _start(self, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        """Returns the state and memory after the first time step of `_project`, from nothing.

        A gate on nothing is not computed: a result that nobody reads has no range, and TFLite's
        converter then leaves what makes it in floating point.
        """

    @abstractmethod
    def _step(self, inputs: tuple[Any, ...], state: Any, memory: Any) -> tuple[Any, Any]:
        """Returns the state and memory after another time step."""


# They take each value by itself, so that gates can share one, and gate(−x) = 1 − gate(x).
_GATES = (keras.activations.sigmoid, keras.activations.hard_sigmoid)


class UnrolledGRU(_Unrolled):
    """A GRU layer as straight-line code.

    The update and reset gates share one product, one addition and one sigmoid. Their recurrent
    bias joins the input bias.

    What the update gate lets in, 1 − update, is computed as the sigmoid of the negated sum. On
    TFLite's int8 grid a sigmoid reaches 0 exactly, but 1 only to 1/256: a gate that says "keep
    the state" then keeps it, where the textbook form would leak 0.4 % of it at each step.

    Equations: Cho et al., arXiv:1406.1078, and the `reset_after` form of cuDNN.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self._reset_after = layer.reset_after
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

    def _project(self, sequence: Any) -> tuple[Any, ...]:
        return (
            sequence @ self._kernels[0] + self._gate_bias,
            sequence @ self._kernels[1] + self._candidate_bias,
        )

    def _start(self, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        gate_input, value = inputs
        if not self._recurrent_bias.any():
            admit = self._gate(gate_input[:, : self._units])
            return admit * self._activation(value), None
        admit, reset = tf.split(self._gate(gate_input), 2, axis=-1)
        candidate = self._activation(value + reset * self._recurrent_bias)
        return admit * candidate, None

    def _step(self, inputs: tuple[Any, ...], state: Any, memory: Any) -> tuple[Any, Any]:
        gate_input, value = inputs
        gates = self._gate(gate_input + state @ self._recurrent[0])
        admit, reset = tf.split(gates, 2, axis=-1)
        if self._reset_after:
            recalled = reset * (state @ self._recurrent[1] + self._recurrent_bias)
        else:
            recalled = (reset * state) @ self._recurrent[1]
        candidate = self._activation(value + recalled)
        # The same as update · state + (1 − update) · candidate, with one product less.
        return state + admit * (candidate - state), memory


class UnrolledLSTM(_Unrolled):
    """An LSTM layer as straight-line code.

    The three gates share one product, one addition and one sigmoid. The candidate has its own:
    joined to theirs, the sum would need one int8 grid for all four, be split before the
    activations, and take three sigmoids, which makes as many operations.

    The forget gate stays as it is, unlike the GRU's update gate. A cell has no fixed range, so
    that a step of its int8 grid outweighs what a gate that never reaches 1 leaks, and each further
    operation on the cell rounds it once more.

    Equations: Hochreiter and Schmidhuber, Neural Computation 9(8), 1997, with the forget gate of
    Gers et al., Neural Computation 12(10), 2000.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        kernel, recurrent, *bias = [np.array(weight) for weight in layer.get_weights()]
        bias = bias or [np.zeros(4 * layer.units, np.float32)]
        # Keras's order is input, forget, candidate, output.
        admit, keep, candidate, give = np.split(np.arange(4 * layer.units), 4)
        gates = np.concatenate([admit, give, keep])
        self._kernels = kernel[:, gates], kernel[:, candidate]
        self._recurrent = recurrent[:, gates], recurrent[:, candidate]
        self._biases = bias[0][gates], bias[0][candidate]

    def _project(self, sequence: Any) -> tuple[Any, ...]:
        return tuple(sequence @ k + b for k, b in zip(self._kernels, self._biases, strict=True))

    def _start(self, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
        admit, give = tf.split(self._gate(inputs[0][:, : 2 * self._units]), 2, axis=-1)
        memory = admit * self._activation(inputs[1])
        return give * self._activation(memory), memory

    def _step(self, inputs: tuple[Any, ...], state: Any, memory: Any) -> tuple[Any, Any]:
        gates = self._gate(inputs[0] + state @ self._recurrent[0])
        admit, give, keep = tf.split(gates, 3, axis=-1)
        candidate = self._activation(inputs[1] + state @ self._recurrent[1])
        memory = keep * memory + admit * candidate
        return give * self._activation(memory), memory


class Loop(keras.layers.Layer):  # type: ignore[misc]
    """A GRU or LSTM layer computed by tf_keras, whose loop tf2onnx knows as an ONNX operator.

    Args:
        layer: the built layer to take weights and settings from, with Keras's default activations
            and, if it is a GRU, of `reset_after` form.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(name=layer.name)
        self.supports_masking = True
        _require_supported(layer)
        kind = "GRU" if _kind(layer) is keras.layers.GRU else "LSTM"
        twin = getattr(tf_keras.layers, kind)(
            layer.units,
            return_sequences=layer.return_sequences,
            go_backwards=layer.go_backwards,
        )
        kernel, recurrent, *bias = layer.get_weights()
        twin.build((None, None, len(kernel)))
        # tf2onnx knows the loop by its bias.
        twin.set_weights([kernel, recurrent, *(bias or [np.zeros_like(twin.get_weights()[2])])])
        # In a list, Keras 3 does not try to track the layer of another Keras.
        self._twin, self._shape = [twin], layer.compute_output_shape

    def call(self, sequence: Any, mask: Any = None) -> Any:
        """Maps (batch, time, features) to (batch, units), or (batch, time, units)."""
        _require_no_mask(self.name, mask)
        return self._twin[0](sequence)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        """Returns the shape that `call` gives."""
        return self._shape(input_shape)


class BothWays(keras.layers.Layer):  # type: ignore[misc]
    """A Bidirectional layer of two rewritten layers.

    Args:
        layer: the built Bidirectional layer.
        replace: rewrites the layer of each way.
    """

    def __init__(self, layer: Any, replace: Callable[[Any], Any]) -> None:
        super().__init__(name=layer.name)
        self.supports_masking = True
        if layer.merge_mode not in _MERGES:
            raise ExportError(
                f"layer {layer.name}: an exported model has one output, merge_mode=None gives two"
            )
        self._ways = replace(layer.forward_layer), replace(layer.backward_layer)
        self._merge, self._shape = _MERGES[layer.merge_mode], layer.compute_output_shape

    def call(self, sequence: Any, mask: Any = None) -> Any:
        """Maps (batch, time, features) to what the layer gives."""
        _require_no_mask(self.name, mask)
        forward, backward = (way(sequence) for way in self._ways)
        if len(backward.shape) == 3:
            backward = tf.stack(tf.unstack(backward, axis=1)[::-1], axis=1)
        return self._merge(forward, backward)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        """Returns the shape that `call` gives."""
        return self._shape(input_shape)


_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "concat": lambda forward, backward: tf.concat([forward, backward], axis=-1),
    "sum": lambda forward, backward: forward + backward,
    "ave": lambda forward, backward: (forward + backward) / 2,
    "mul": lambda forward, backward: forward * backward,
}


def _kind(layer: Any) -> Any:
    """Returns GRU or LSTM, or None for any other layer."""
    kinds = (keras.layers.GRU, keras.layers.LSTM)
    return next((kind for kind in kinds if isinstance(layer, kind)), None)


def _replace(model: Any, replace: Callable[[Any], Any]) -> Any:
    layers = list(model._flatten_layers(include_self=False))
    strangers = [
        layer for layer in layers if isinstance(layer, keras.layers.RNN) and _kind(layer) is None
    ]
    if strangers:
        names = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in strangers)
        raise ExportError(
            f"recurrent layers other than GRU and LSTM cannot be exported yet: {names}"
        )

    def clone(layer: Any) -> Any:
        if isinstance(layer, keras.layers.Bidirectional):
            return BothWays(layer, replace)
        return replace(layer) if _kind(layer) else layer

    if not any(_kind(layer) for layer in layers):
        return model
    return keras.models.clone_model(model, clone_function=clone, recursive=True)


def _require_supported(layer: Any) -> None:
    if layer.stateful or layer.return_state:
        raise ExportError(
            f"layer {layer.name} keeps or returns its state; an exported model has one input, one "
            "output and no memory: set stateful and return_state to False"
        )


def _unroll(layer: Any) -> Any:
    return (UnrolledGRU if _kind(layer) is keras.layers.GRU else UnrolledLSTM)(layer)


def _has_operator(layer: Any) -> bool:
    activations = (layer.activation, layer.recurrent_activation)
    default = (keras.activations.tanh, keras.activations.sigmoid)
    return bool(getattr(layer, "reset_after", True)) and activations == default


def _require_no_mask(name: str, mask: Any) -> None:
    if mask is not None:
        raise ExportError(
            f"layer {name} takes a mask, which an exported model of one input has not: leave out "
            "Masking and mask_zero"
        )

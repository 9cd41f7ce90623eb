"""A GRU layer that trains on TFLite's integer grid, which tensorflow-model-optimization lacks."""

from typing import Any

import numpy as np

from hemline.errors import ExportError
from hemline_export.backend import load_tfmot, tf_keras
from hemline_export.backend import tensorflow as tf

quantization = load_tfmot().quantization.keras
_QuantizeConfig: Any = quantization.QuantizeConfig

_VALUES = (
    "gate_inputs",
    "inputs",
    "gate_products",
    "gate_sums",
    "products",
    "recalled",
    "sums",
    "changes",
    "admitted",
    "outset",
)
_KERNELS = ("gate_kernel", "kernel", "gate_recurrent", "recurrent")

# TFLite fixes what a sigmoid and a tanh give: steps of 1/256 above 0, of 1/128 around 0. The
# state lies between the tanh values that it is mixed of.
# https://ai.google.dev/edge/litert/models/quantization_spec
_SIGMOID = (0.0, 255 / 256)
_TANH = (-1.0, 127 / 128)


class QuantizedGRU(tf_keras.layers.GRU):  # type: ignore[misc]
    """`hemline_export.recurrent.UnrolledGRU`, with fake quantization wherever TFLite quantizes.

    All time steps share their grids, and so the converter's constants. Kernels are quantized per
    tensor: the converter has no way to transpose a matrix that was trained per channel.
    """

    def build(self, shape: Any) -> None:
        """Adds the ranges to a GRU's own weights."""
        super().build(shape)
        self._value = quantization.quantizers.AllValuesQuantizer(
            num_bits=8, per_axis=False, symmetric=False, narrow_range=False
        )
        self._kernel = quantization.quantizers.LastValueQuantizer(
            num_bits=8, per_axis=False, symmetric=True, narrow_range=True
        )
        self._ranges = {name: self._value.build(None, name, self) for name in _VALUES} | {
            name: self._kernel.build(None, name, self) for name in _KERNELS
        }

    def call(self, sequence: Any, mask: Any = None, training: Any = None) -> Any:  # noqa: ARG002
        """Maps (batch, time, features) to (batch, units), or (batch, time, units)."""

        def value(name: str, tensor: Any) -> Any:
            return self._value(tensor, bool(training), weights=self._ranges[name])

        def kernel(name: str, tensor: Any) -> Any:
            return self._kernel(tensor, bool(training), weights=self._ranges[name])

        fixed = tf.quantization.fake_quant_with_min_max_args
        gates = 2 * self.units
        # The update gate comes first in Keras's order.
        sign = np.repeat(np.array([-1, 1], np.float32), self.units)
        gate_kernel = kernel("gate_kernel", self.cell.kernel[:, :gates] * sign)
        input_kernel = kernel("kernel", self.cell.kernel[:, gates:])
        gate_recurrent = kernel("gate_recurrent", self.cell.recurrent_kernel[:, :gates] * sign)
        recurrent = kernel("recurrent", self.cell.recurrent_kernel[:, gates:])
        bias, recurrent_bias = tf.unstack(self.cell.bias)
        gate_bias = (bias + recurrent_bias)[:gates] * sign
        gate_inputs = value("gate_inputs", sequence @ gate_kernel + gate_bias)
        inputs = value("inputs", sequence @ input_kernel + bias[gates:])
        state = None
        states = []
        for gate_sum, value_input in zip(
            tf.unstack(gate_inputs, axis=1), tf.unstack(inputs, axis=1), strict=True
        ):
            if state is None:
                product = value("outset", recurrent_bias[gates:])
            else:
                gate_product = value("gate_products", state @ gate_recurrent)
                gate_sum = value("gate_sums", gate_sum + gate_product)
                product = value("products", state @ recurrent + recurrent_bias[gates:])
            admit, reset = tf.split(fixed(tf.sigmoid(gate_sum), *_SIGMOID), 2, axis=-1)
            recalled = value("recalled", reset * product)
            candidate = fixed(tf.tanh(value("sums", value_input + recalled)), *_TANH)
            if state is None:
                state = fixed(admit * candidate, *_TANH)
            else:
                change = value("changes", candidate - state)
                state = fixed(state + value("admitted", admit * change), *_TANH)
            states.append(state)
        return tf.stack(states, axis=1) if self.return_sequences else state


class OwnGrids(_QuantizeConfig):  # type: ignore[misc]
    """The quantize config of a layer that does it all itself."""

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:  # noqa: ARG002, D102
        return []

    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:  # noqa: ARG002, D102
        return []

    def get_output_quantizers(self, layer: Any) -> list[Any]:  # noqa: ARG002, D102
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        """Does nothing."""

    def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
        """Does nothing."""

    def get_config(self) -> dict[str, Any]:
        """Returns nothing to remember."""
        return {}


def annotate_gru(layer: Any) -> Any:
    """Returns a new, annotated QuantizedGRU with the settings of a tf_keras GRU layer.

    Raises:
        ExportError: the layer is not as Keras makes it by default.
    """
    config = layer.get_config()
    expected = {
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "reset_after": True,
        "go_backwards": False,
        "stateful": False,
        "return_state": False,
    }
    others = [f"{key}={config[key]!r}" for key, value in expected.items() if config[key] != value]
    if others:
        raise ExportError(
            f"layer {layer.name} (GRU) cannot be trained on integer grids with "
            f"{', '.join(others)}; choose recipes that do not train"
        )
    return quantization.quantize_annotate_layer(QuantizedGRU.from_config(config), OwnGrids())

"""One traced, constant-folded function of a Keras model, from which every converter starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemline_export.backend import convert_variables_to_constants_v2
from hemline_export.backend import tensorflow as tf

SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A model as one function of constants, traced for one sample.

    Attributes:
        function: TensorFlow's ConcreteFunction, float32 (1, *shape) → float32 (1, …).
        input_name: the input's name in every artifact.
        output_name: the output's.
        shape: of one sample.
    """

    function: Any
    input_name: str
    output_name: str
    shape: tuple[int, ...]

    def named(self) -> Any:
        """Returns a `tf.function` with the names at its border."""
        function, output_name = self.function, self.output_name
        return tf.function(
            lambda tensor: {output_name: function(tensor)[0]},
            input_signature=[tf.TensorSpec((1, *self.shape), tf.float32, name=self.input_name)],
        )

    def save(self, folder: Path) -> None:
        """Writes a SavedModel whose `serving_default` signature has the names."""
        tf.saved_model.save(tf.Module(), str(folder), signatures={SIGNATURE: self.named()})


def freeze(model: Any, *, input_name: str, output_name: str) -> Frozen:
    """Traces a Keras model for one sample and turns its variables into constants.

    The batch is fixed to 1: a free batch adds shape arithmetic to TFLite files, and in a
    recurrent model operators that microcontrollers lack. Loops stay functional, in which form
    converters can tell a recurrent layer.
    """
    shape = tuple(model.inputs[0].shape[1:])
    traced = tf.function(lambda tensor: model(tensor, training=False)).get_concrete_function(
        tf.TensorSpec((1, *shape), tf.float32, name=input_name)
    )
    return Frozen(
        function=convert_variables_to_constants_v2(traced, lower_control_flow=False),
        input_name=input_name,
        output_name=output_name,
        shape=shape,
    )

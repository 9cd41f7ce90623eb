"""The tf_keras twin of a Keras 3 model: what tensorflow-model-optimization can train."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hemline.errors import ExportError
from hemline_export.backend import keras, tf_keras

# What says how to begin or restrain a training that is over, and what tf_keras does not know.
_DROPPED = ("dtype", "quantization_config", "seed", "synchronized")
_DROPPED_ENDINGS = ("_initializer", "_regularizer", "_constraint")
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}

# Most layers run the same TensorFlow kernels and are bit for bit alike; tests/export/test_twin.py
# holds them to that. tf_keras's batch normalization is one fused kernel, Keras 3's is several.
_LARGEST_DIFFERENCE = 1e-6


def build_twin(model: Any) -> Any:
    """Returns a functional tf_keras model of the same layers, names and weights.

    Args:
        model: a built Keras 3 model, Sequential or functional, of layers of Keras itself.

    Raises:
        ExportError: a layer has no twin, or the twin's outputs are not those of the model.
    """
    twins: dict[str, Any] = {}

    def twin_of(layer: Any) -> Callable[..., Any]:
        if layer.name not in twins:
            twins[layer.name] = _build_layer(layer)

        def call(*args: Any, training: Any = None, **kwargs: Any) -> Any:  # noqa: ARG001
            # A `training` that the graph has recorded would hold in training as well.
            return twins[layer.name](*args, **kwargs)

        return call

    (source,) = model.inputs
    taken = tf_keras.Input(tuple(source.shape[1:]), name=source.name)
    graph = getattr(model, "_functional", model)
    given = graph._run_through_graph([taken], operation_fn=twin_of)
    twin = tf_keras.Model(taken, given, name=model.name)
    copy_weights(model, twin)
    _require_equal(model, twin)
    return twin


def copy_weights(source: Any, target: Any) -> None:
    """Sets the weights of each layer of one model to those of its namesake in another."""
    by_name = {layer.name: layer for layer in target.layers}
    for layer in source.layers:
        if layer.weights:
            by_name[layer.name].set_weights(layer.get_weights())


def _build_layer(layer: Any) -> Any:
    name = type(layer).__name__
    twin_class = getattr(tf_keras.layers, name, None)
    if getattr(keras.layers, name, None) is not type(layer) or twin_class is None:
        raise ExportError(
            f"layer {layer.name} ({name}) has no twin in tf_keras, with which models are trained "
            "for quantization; choose recipes that do not train"
        )
    renamed = _RENAMED.get(name, {})
    config = {
        renamed.get(key, key): value
        for key, value in layer.get_config().items()
        if key not in _DROPPED and not key.endswith(_DROPPED_ENDINGS)
    }
    try:
        return twin_class.from_config(config)
    # tf_keras raises whatever its layer's constructor runs into.
    except Exception as error:
        raise ExportError(
            f"layer {layer.name} ({name}) has settings that tf_keras refuses: {error}; "
            "choose recipes that do not train"
        ) from error


def _require_equal(model: Any, twin: Any) -> None:
    values = np.random.default_rng(0).random((4, *model.inputs[0].shape[1:]), np.float32)
    expected = np.asarray(model(values, training=False))
    found = np.asarray(twin(values, training=False))
    difference = float(np.abs(found - expected).max())
    if not difference <= _LARGEST_DIFFERENCE:
        raise ExportError(
            f"the tf_keras twin answers otherwise than the Keras model: outputs differ by "
            f"{difference:.2g}, expected at most {_LARGEST_DIFFERENCE:g}; choose recipes that do "
            "not train"
        )

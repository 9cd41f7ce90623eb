"""Quantization-aware training: the weights learn the integer grid before they are put on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.errors import ExportError
from hemline_export.backend import load_tfmot, tf_keras
from hemline_export.quantized_gru import OwnGrids, QuantizedGRU, annotate_gru
from hemline_export.tuning import TuningSamples, tune
from hemline_export.twin import build_twin

quantization = load_tfmot().quantization.keras

EPOCHS = 2
LEARNING_RATE = 1e-5

# Those that are one operator in TFLite, or none.
_ACTIVATIONS = ("linear", "relu", "softmax", "sigmoid", "tanh")


def train_quantized(
    model: Any, calibration: NDArray[np.float32], samples: TuningSamples
) -> tuple[Any, dict[str, str]]:
    """Fine-tunes a Keras model with fake quantization at every tensor that TFLite quantizes.

    Before each epoch all grids are laid on the ranges that the calibration samples span, as the
    converter lays them without training. They stay during the epoch, and the converter takes
    them as they are.

    Args:
        model: a Keras 3 classifier.
        calibration: float32 (n, *shape), preprocessed.
        samples: to fine-tune on.

    Returns:
        The tf_keras model with its grids, and the settings for the manifest.

    Raises:
        ExportError: a layer has no twin in tf_keras, or no grid; or the training failed.
    """
    quantized = quantize(build_twin(model))
    settings = tune(
        quantized,
        samples,
        learning_rate=LEARNING_RATE,
        epochs=EPOCHS,
        prepare=lambda: lay_grids(quantized, calibration),
    )
    return quantized, settings | {"quantize_configs": _list_configs(quantized)}


def quantize(twin: Any) -> Any:
    """Returns a tf_keras model with fake quantization, whose grids are yet to be laid.

    Raises:
        ExportError: neither tfmot nor Hemline has a grid for a layer.
    """
    with quantization.quantize_scope({"QuantizedGRU": QuantizedGRU, "OwnGrids": OwnGrids}):
        annotated = tf_keras.models.clone_model(twin, clone_function=_annotate)
        for wrapper in annotated.layers:
            if wrapper.weights:
                # After the layer's own weights come the ranges of its grids.
                weights = twin.get_layer(wrapper.layer.name).get_weights()
                wrapper.layer.set_weights(weights + wrapper.layer.get_weights()[len(weights) :])
        try:
            return quantization.quantize_apply(annotated)
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"quantization-aware training: {str(error).partition(' You can')[0]}; "
                "choose recipes that do not train"
            ) from error


def lay_grids(model: Any, calibration: NDArray[np.float32]) -> None:
    """Lays each grid of activations on the range that the calibration samples span.

    Grids of weights are laid on what the weights span by now.
    """
    for variable in model.non_trainable_variables:
        if variable.shape.rank == 0 and variable.name.endswith(("_min:0", "_max:0")):
            variable.assign(0)
    with _spanning_all_values():
        for start in range(0, len(calibration), 100):
            model(calibration[start : start + 100], training=True)


def _annotate(layer: Any) -> Any:
    if isinstance(layer, tf_keras.layers.GRU):
        return annotate_gru(layer)
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    if activation not in _ACTIVATIONS:
        raise ExportError(
            f"layer {layer.name} ({type(layer).__name__}): tfmot has no grid for the activation "
            f"{activation}; choose recipes that do not train"
        )
    copy = type(layer).from_config(layer.get_config())
    # Grids are laid in training mode, which shall neither shift statistics nor drop anything.
    if isinstance(layer, tf_keras.layers.BatchNormalization):
        copy.trainable = False
    if isinstance(layer, tf_keras.layers.Dropout):
        copy.rate = 0
    return quantization.quantize_annotate_layer(copy)


@contextmanager
def _spanning_all_values() -> Iterator[None]:
    """Lets ranges span all values seen, where tfmot has moving averages.

    Those begin at ±6 and move by a thousandth at each step: after two epochs of 48,000 samples
    they would have gone half of the way.
    """
    moving = quantization.quantizers.MovingAverageQuantizer
    kept = moving.__call__
    moving.__call__ = quantization.quantizers.AllValuesQuantizer.__call__
    try:
        yield
    finally:
        moving.__call__ = kept


def _list_configs(model: Any) -> str:
    layers: dict[str, list[str]] = {}
    for wrapper in model.layers:
        if hasattr(wrapper, "quantize_config"):
            name = type(wrapper.quantize_config).__name__
            layers.setdefault(name, []).append(wrapper.layer.name)
    return "; ".join(f"{name}: {', '.join(names)}" for name, names in layers.items())

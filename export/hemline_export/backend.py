"""Keras on TensorFlow, and the converters, imported without their chatter."""

import warnings
from typing import Any

from hemline.quiet import quiet

# TensorFlow logs while it loads, and coremltools reports each of Apple's libraries as missing.
with quiet():
    import coremltools
    import keras
    import tensorflow
    import tf2onnx
    import tf_keras

    # Its public counterpart, `enable_unsafe_deserialization`, has no way back.
    from keras.src.saving.serialization_lib import SafeModeScope
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # Makes TensorFlow look for devices now, and report in here that there is no GPU.
    tensorflow.config.list_logical_devices()

__all__ = [
    "SafeModeScope",
    "convert_variables_to_constants_v2",
    "coremltools",
    "keras",
    "load_tfmot",
    "tensorflow",
    "tf2onnx",
    "tf_keras",
]


def load_tfmot() -> Any:
    """Imports tensorflow-model-optimization, which only training needs.

    It turns `tf.keras` into tf_keras, which nothing here uses by that name.
    """
    with quiet(), warnings.catch_warnings():
        # It compares versions by means of distutils.
        warnings.simplefilter("ignore", DeprecationWarning)
        import tensorflow_model_optimization as tfmot
    return tfmot

"""Keras on TensorFlow, and the converters, imported without their chatter."""

from hemline.quiet import quiet

# TensorFlow logs while it loads, and coremltools reports each of Apple's libraries as missing.
with quiet():
    import coremltools
    import keras
    import tensorflow
    import tf2onnx
    import tf_keras
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # Makes TensorFlow look for devices now, and report in here that there is no GPU.
    tensorflow.config.list_logical_devices()

__all__ = [
    "convert_variables_to_constants_v2",
    "coremltools",
    "keras",
    "tensorflow",
    "tf2onnx",
    "tf_keras",
]

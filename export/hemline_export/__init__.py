"""From a float Keras model to TFLite, ONNX and Core ML artifacts with a manifest."""

import os

# Read when Keras, TensorFlow and tqdm are imported, which any module of this package may cause.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TQDM_DISABLE", "1")

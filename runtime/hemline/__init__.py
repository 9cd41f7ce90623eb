"""Hemline's on-device runtime: run an exported model with NumPy and one engine.

import hemline

model = hemline.load("cnn.int8.tflite")
prediction = model.predict(images)
"""

from hemline.bundled import bundled_model
from hemline.errors import (
    ChecksumError,
    DataError,
    EngineUnavailableError,
    ExportError,
    HemlineError,
    IncomparableError,
    InputError,
    ManifestError,
    ModelFileError,
    OutputError,
    UnknownOperationError,
)
from hemline.model import Model, ModelInfo, Prediction, load

__version__ = "0.1.0"

__all__ = [
    "ChecksumError",
    "DataError",
    "EngineUnavailableError",
    "ExportError",
    "HemlineError",
    "IncomparableError",
    "InputError",
    "ManifestError",
    "Model",
    "ModelFileError",
    "ModelInfo",
    "OutputError",
    "Prediction",
    "UnknownOperationError",
    "bundled_model",
    "load",
]

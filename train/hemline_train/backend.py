"""Keras on TensorFlow, set up before its first import."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hemline.errors import EngineUnavailableError

__all__ = ["keras", "tensorflow"]


@contextmanager
def _native_log_dropped() -> Iterator[None]:
    # TensorFlow 2.21 logs to file descriptor 2 while it loads, whatever TF_CPP_MIN_LOG_LEVEL says.
    # A failed import raises, so nothing that matters is lost.
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
try:
    with _native_log_dropped():
        import keras
        import tensorflow
except ImportError as error:
    raise EngineUnavailableError(
        f"training needs TensorFlow and Keras ({error}); install them: pip install 'hemline[train]'"
    ) from error

if keras.backend.backend() != "tensorflow":
    raise EngineUnavailableError(
        f"Keras runs on {keras.backend.backend()!r}, expected 'tensorflow'; "
        "set KERAS_BACKEND=tensorflow before Keras is imported"
    )

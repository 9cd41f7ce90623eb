"""The float Keras model as an engine, so that `verify` has something to compare with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hemline.engines.base import Engine
from hemline.engines.structure import Arithmetic, FileStructure, Operation
from hemline.facts import TensorSpec
from hemline_export.backend import keras, tensorflow
from hemline_export.keras_file import load_keras


class KerasEngine(Engine):
    """A float .keras file in Keras, any batch. Threads are TensorFlow's own affair."""

    name: ClassVar[str] = "keras"
    # TensorFlow alone takes five seconds to start.
    trial_limit_s: ClassVar[float] = 120.0

    def __init__(self, path: Path, threads: int) -> None:  # noqa: ARG002
        model = self._model = load_keras(path)
        self._call = tensorflow.function(lambda tensor: model(tensor, training=False))
        self.inputs, self.outputs = (_spec(model.inputs[0]),), (_spec(model.outputs[0]),)

    def run_all(self, tensors: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return [self._call(np.ascontiguousarray(tensors[0])).numpy()]

    def peer_calls(self) -> dict[str, Callable[[NDArray[Any]], object]]:
        return {
            "keras predict": lambda tensor: self._model.predict(tensor, verbose=0),
            "keras call": lambda tensor: self._model(tensor, training=False).numpy(),
        }

    def embedded_facts(self) -> bytes | None:
        return None

    @classmethod
    def structure(cls, path: Path, content: bytes | None = None) -> FileStructure:  # noqa: ARG003
        model = load_keras(path)
        return FileStructure(
            inputs=(_spec(model.inputs[0]),),
            outputs=(_spec(model.outputs[0]),),
            operations=tuple(_operation(layer) for layer in model.layers),
            embedded_facts=None,
        )

    @classmethod
    def version(cls) -> str:
        version: str = keras.__version__
        return version


def _operation(layer: Any) -> Operation:
    return Operation(
        kind=type(layer).__name__,
        name=layer.name,
        arithmetic=Arithmetic.FLOAT,
        # What a layer costs, Keras does not say; the files made of it do.
        macs=0,
        reads=(),
        writes=(layer.name,),
    )


def _spec(tensor: Any) -> TensorSpec:
    return TensorSpec(name=tensor.name, shape=tuple(tensor.shape), dtype=str(tensor.dtype))

"""LiteRT, which runs .tflite files on phones, boards and desktops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hemline.engines.base import Engine
from hemline.errors import EngineUnavailableError, ModelFileError
from hemline.facts import EMBEDDED_KEY, QuantParams, TensorSpec
from hemline.files import read_regular
from hemline.limits import MODEL_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hemline.engines.structure import FileStructure

try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
except ImportError as error:
    raise EngineUnavailableError(
        "running .tflite files needs LiteRT, which is not installed: pip install 'hemline[litert]'"
    ) from error


class LiteRTEngine(Engine):
    """A .tflite file in LiteRT's interpreter, with its default XNNPACK kernels."""

    name: ClassVar[str] = "litert"
    takes_bytes: ClassVar[bool] = True
    _kernels: ClassVar[OpResolverType] = OpResolverType.AUTO

    def __init__(self, path: Path, threads: int, *, content: bytes | None = None) -> None:
        try:
            self._content = read_regular(path, MODEL_BYTES) if content is None else content
            self._interpreter = Interpreter(
                model_content=self._content,
                num_threads=threads,
                experimental_op_resolver_type=self._kernels,
            )
            self._interpreter.allocate_tensors()
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
            names = _border_names(self._interpreter)
        # ValueError includes names that are not UTF-8.
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelFileError(f"LiteRT refuses {path}: {_first_line(error)}") from error
        self._path = path
        self.inputs = tuple(_spec(details, names) for details in inputs)
        self.outputs = tuple(_spec(details, names) for details in outputs)
        self._input_indices = [details["index"] for details in inputs]
        self._output_indices = [details["index"] for details in outputs]
        # Those that `run` is for.
        self._input_index = next(iter(self._input_indices), -1)
        self._output_index = next(iter(self._output_indices), -1)
        self._is_fixed = all(size is not None for spec in self.inputs for size in spec.shape)
        # Looked up once, since a lookup costs as much as what it finds.
        self._set, self._get = self._interpreter.set_tensor, self._interpreter.get_tensor
        self._invoke = self._interpreter.invoke

    def run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        if not self._is_fixed:
            return self.run_all([tensor])[0]
        try:
            self._set(self._input_index, tensor)
            self._invoke()
            output: NDArray[Any] = self._get(self._output_index)
        except (ValueError, RuntimeError) as error:
            raise self._failure(error) from error
        return output

    def run_all(self, tensors: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            if not self._is_fixed:
                self._resize(tensors)
            for index, tensor in zip(self._input_indices, tensors, strict=True):
                self._set(index, tensor)
            self._invoke()
            return [self._get(index) for index in self._output_indices]
        except (ValueError, RuntimeError) as error:
            raise self._failure(error) from error

    def _resize(self, tensors: Sequence[NDArray[Any]]) -> None:
        """Makes room for tensors of these shapes, if the last ones had others."""
        details = self._interpreter.get_input_details()
        if any(
            tuple(one["shape"]) != tensor.shape
            for one, tensor in zip(details, tensors, strict=True)
        ):
            for index, tensor in zip(self._input_indices, tensors, strict=True):
                self._interpreter.resize_tensor_input(index, tensor.shape, strict=True)
            self._interpreter.allocate_tensors()

    def _failure(self, error: Exception) -> ModelFileError:
        return ModelFileError(f"{self.name} cannot run {self._path}: {_first_line(error)}")

    def embedded_facts(self) -> bytes | None:
        # Generated from TFLite's schema and large: imported only by what reads the structure.
        from ai_edge_litert import schema_py_generated as schema

        model = schema.Model.GetRootAs(self._content, 0)
        for position in range(model.MetadataLength()):
            entry = model.Metadata(position)
            if entry.Name() == EMBEDDED_KEY.encode():
                return bytes(model.Buffers(entry.Buffer()).DataAsNumpy())
        return None

    def describe(self) -> FileStructure:
        """Returns the file's structure."""
        from hemline.engines.structure import FileStructure
        from hemline.engines.tflite_operations import read_operations

        return FileStructure(
            inputs=self.inputs,
            outputs=self.outputs,
            operations=read_operations(self._content),
            embedded_facts=self.embedded_facts(),
        )

    @classmethod
    def structure(cls, path: Path, content: bytes | None = None) -> FileStructure:
        return cls(path, threads=1, content=content).describe()

    @classmethod
    def version(cls) -> str:
        from importlib.metadata import version

        return version("ai-edge-litert")


class LiteRTBuiltinEngine(LiteRTEngine):
    """A .tflite file in LiteRT's own kernels, without XNNPACK: a second opinion on a file."""

    name: ClassVar[str] = "litert-builtin"
    _kernels: ClassVar[OpResolverType] = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def _border_names(interpreter: Any) -> dict[int, str]:
    """Returns the names that a file's signature gives its inputs and outputs, by tensor index.

    A file without a signature, or with several, has the names of the tensors themselves only.
    """
    if len(interpreter.get_signature_list()) != 1:
        return {}
    signature = interpreter.get_signature_runner()
    return {
        details["index"]: name
        for border in (signature.get_input_details(), signature.get_output_details())
        for name, details in border.items()
    }


def _spec(details: dict[str, Any], names: Mapping[int, str]) -> TensorSpec:
    grid = details["quantization_parameters"]
    return TensorSpec(
        name=names.get(details["index"], details["name"]),
        # The signature has −1 where any size will do; it is empty in files of old converters.
        shape=tuple(
            None if any_size == -1 else int(size)
            for size, any_size in zip_longest(details["shape"], details["shape_signature"])
        ),
        dtype=np.dtype(details["dtype"]).name,
        quantization=QuantParams(
            scale=float(grid["scales"][0]), zero_point=int(grid["zero_points"][0])
        )
        if len(grid["scales"]) == 1
        else None,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

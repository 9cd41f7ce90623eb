"""LiteRT, which runs .tflite files on phones, boards and desktops."""

from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hemline.engines.base import Engine, FileStructure, require_one
from hemline.errors import EngineUnavailableError, ModelFileError
from hemline.facts import EMBEDDED_KEY, QuantParams, TensorSpec

try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
except ImportError as error:
    raise EngineUnavailableError(
        "running .tflite files needs LiteRT, which is not installed: pip install 'hemline[litert]'"
    ) from error


class LiteRTEngine(Engine):
    """A .tflite file in LiteRT's interpreter, with its default XNNPACK kernels."""

    name: ClassVar[str] = "litert"
    _kernels: ClassVar[OpResolverType] = OpResolverType.AUTO

    def __init__(self, path: Path, threads: int) -> None:
        try:
            self._content = path.read_bytes()
            self._interpreter = Interpreter(
                model_content=self._content,
                num_threads=threads,
                experimental_op_resolver_type=self._kernels,
            )
            self._interpreter.allocate_tensors()
            all_inputs = self._interpreter.get_input_details()
            all_outputs = self._interpreter.get_output_details()
            signatures = list(self._interpreter.get_signature_list().values())
        # ValueError includes names that are not UTF-8.
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelFileError(f"LiteRT refuses {path}: {_first_line(error)}") from error
        inputs = require_one(path, "input", all_inputs)
        outputs = require_one(path, "output", all_outputs)
        names = (
            (signatures[0]["inputs"][0], signatures[0]["outputs"][0])
            if signatures
            else (inputs["name"], outputs["name"])
        )
        self.input, self.output = _spec(names[0], inputs), _spec(names[1], outputs)
        self._input_index, self._output_index = inputs["index"], outputs["index"]

    def run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        interpreter = self._interpreter
        interpreter.set_tensor(self._input_index, tensor)
        interpreter.invoke()
        output: NDArray[Any] = interpreter.get_tensor(self._output_index)
        return output

    def embedded_facts(self) -> bytes | None:
        # Generated from TFLite's schema and large: imported only by what reads the structure.
        from ai_edge_litert import schema_py_generated as schema

        model = schema.Model.GetRootAs(self._content, 0)
        for position in range(model.MetadataLength()):
            entry = model.Metadata(position)
            if entry.Name() == EMBEDDED_KEY.encode():
                return bytes(model.Buffers(entry.Buffer()).DataAsNumpy())
        return None

    @classmethod
    def structure(cls, path: Path) -> FileStructure:
        from hemline.engines.tflite_operations import read_operations

        engine = cls(path, threads=1)
        return FileStructure(
            input=engine.input,
            output=engine.output,
            operations=read_operations(engine._content),
            embedded_facts=engine.embedded_facts(),
        )

    @classmethod
    def version(cls) -> str:
        return version("ai-edge-litert")


class LiteRTBuiltinEngine(LiteRTEngine):
    """A .tflite file in LiteRT's own kernels, without XNNPACK: a second opinion on a file."""

    name: ClassVar[str] = "litert-builtin"
    _kernels: ClassVar[OpResolverType] = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def _spec(name: str, details: dict[str, Any]) -> TensorSpec:
    grid = details["quantization_parameters"]
    return TensorSpec(
        name=name,
        shape=tuple(int(size) for size in details["shape"]),
        dtype=np.dtype(details["dtype"]).name,
        quantization=QuantParams(
            scale=float(grid["scales"][0]), zero_point=int(grid["zero_points"][0])
        )
        if len(grid["scales"]) == 1
        else None,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

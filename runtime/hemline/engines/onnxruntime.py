"""ONNX Runtime, which runs .onnx files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hemline.engines.base import Engine
from hemline.errors import EngineUnavailableError, HemlineError, ModelFileError
from hemline.facts import EMBEDDED_KEY, TensorSpec
from hemline.files import read_regular
from hemline.limits import MODEL_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hemline.engines.structure import FileStructure

try:
    import onnxruntime
except ImportError as error:
    raise EngineUnavailableError(
        "running .onnx files needs ONNX Runtime, which is not installed: "
        "pip install 'hemline[onnx]'"
    ) from error

# The types of ONNX that NumPy has as well.
_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    **{
        f"tensor({sign}int{bits})": f"{sign}int{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}

# x86 processors without VNNI add two products of 8 bits in 16, which large weights overflow: seen
# to change the class of every third sample. This asks for 32 bits on those, and nothing elsewhere:
# onnxruntime_session_options_config_keys.h. It takes longer there.
EXACT_INTEGERS = ("session.x64quantprecision", "1")


class ONNXRuntimeEngine(Engine):
    """An .onnx file in an ONNX Runtime session on the CPU."""

    name: ClassVar[str] = "onnxruntime"
    takes_bytes: ClassVar[bool] = True

    def __init__(self, path: Path, threads: int, *, content: bytes | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry(*EXACT_INTEGERS)
        try:
            self._session = onnxruntime.InferenceSession(
                # Given bytes, it reads no other file that the model may name.
                read_regular(path, MODEL_BYTES) if content is None else content,
                options,
                providers=["CPUExecutionProvider"],
                # The fallback is to the same provider, and announced on stdout.
                enable_fallback=False,
            )
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
            self._metadata = self._session.get_modelmeta().custom_metadata_map
        # ONNX Runtime's exceptions share no base class below Exception.
        except HemlineError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelFileError(f"ONNX Runtime refuses {path}: {reason}") from error
        self.inputs = tuple(_spec(path, value) for value in inputs)
        self.outputs = tuple(_spec(path, value) for value in outputs)
        self._names = [spec.name for spec in self.inputs]

    def run_all(self, tensors: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        found: list[NDArray[Any]] = self._session.run(
            None, dict(zip(self._names, tensors, strict=True))
        )
        return found

    def embedded_facts(self) -> bytes | None:
        text = self._metadata.get(EMBEDDED_KEY)
        return None if text is None else text.encode()

    @classmethod
    def structure(cls, path: Path, content: bytes | None = None) -> FileStructure:
        from hemline.engines.onnx_operations import read_operations
        from hemline.engines.structure import FileStructure

        try:
            import onnx
        except ImportError as error:
            raise EngineUnavailableError(
                "reading an .onnx file's operators needs onnx: pip install onnx"
            ) from error
        content = read_regular(path, MODEL_BYTES) if content is None else content
        engine = cls(path, threads=1, content=content)
        return FileStructure(
            inputs=engine.inputs,
            outputs=engine.outputs,
            operations=read_operations(
                onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
            ),
            embedded_facts=engine.embedded_facts(),
        )

    @classmethod
    def version(cls) -> str:
        from importlib.metadata import version

        return version("onnxruntime")


def _spec(path: Path, value: Any) -> TensorSpec:
    try:
        name = value.name
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path} holds a name that is not UTF-8: {error}") from error
    if value.type not in _DTYPES:
        raise ModelFileError(f"{path}: {name} is {value.type}, expected {sorted(_DTYPES)}")
    return TensorSpec(
        name=name,
        shape=tuple(size if isinstance(size, int) else None for size in value.shape),
        dtype=_DTYPES[value.type],
    )

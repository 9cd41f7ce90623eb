"""Core ML, which runs .mlpackage folders on Apple's machines, its Neural Engine included."""

import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hemline.engines.base import Engine, FileStructure, require_one
from hemline.errors import EngineUnavailableError, ModelFileError
from hemline.facts import EMBEDDED_KEY, TensorSpec
from hemline.quiet import quiet

# What coremltools.ComputeUnit names. The GPU is not among the default, since the choice of ALL
# aborts the process on some Macs: https://github.com/ultralytics/ultralytics/pull/24885
COMPUTE_UNITS = ("CPU_AND_NE", "ALL", "CPU_ONLY", "CPU_AND_GPU")
DEFAULT_COMPUTE_UNITS = COMPUTE_UNITS[0]


class CoreMLEngine(Engine):
    """A Core ML classifier, by default on the CPU and, where Core ML chooses it, the Neural Engine.

    A file's structure can be read on any system; it runs on macOS only. The number of threads
    is Core ML's own affair.
    """

    name: ClassVar[str] = "coreml"
    compute_units: ClassVar[tuple[str, ...]] = COMPUTE_UNITS

    def __init__(
        self,
        path: Path,
        threads: int,  # noqa: ARG002
        compute_units: str | None = None,
    ) -> None:
        if not runs_here():
            raise EngineUnavailableError(
                f"Core ML runs on macOS only, and this is {sys.platform}: {path.name} cannot run "
                "here; use the model's .tflite or .onnx file, or engine='coreml-reference' "
                "(Python) to evaluate it without Apple hardware, which says nothing of its speed"
            )
        self._model: Any = open_package(path, load=True, compute_units=compute_units)
        spec = self._model.get_spec()
        self.input, self.output = describe_tensors(path, spec)
        self._labels: tuple[str, ...] = _class_labels(path, spec)

    def run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        by_label = self._model.predict({self.input.name: tensor})[self.output.name]
        return np.array([[by_label[label] for label in self._labels]], dtype=np.float32)

    def embedded_facts(self) -> bytes | None:
        return _embedded_facts(self._model)

    def compiled_path(self) -> str:
        """Returns the folder of the compiled model, which lasts as long as the engine."""
        path: str = self._model.get_compiled_model_path()
        return path

    @classmethod
    def structure(cls, path: Path) -> FileStructure:
        model = open_package(path, load=False)
        spec = model.get_spec()
        tensors = describe_tensors(path, spec)
        return FileStructure(
            input=tensors[0],
            output=tensors[1],
            operators=Counter(op.type for op in list_operations(spec) if op.type != "const"),
            embedded_facts=_embedded_facts(model),
        )

    @classmethod
    def version(cls) -> str:
        return version("coremltools")


def runs_here() -> bool:
    """Tells whether this system has Core ML."""
    return sys.platform == "darwin"


def read_spec(path: Path) -> Any:
    """Reads a package's specification, a protobuf message of coremltools, on any system.

    Raises:
        EngineUnavailableError: coremltools is not installed.
        ModelFileError: it is no Core ML package.
    """
    return open_package(path, load=False).get_spec()


def open_package(path: Path, *, load: bool, compute_units: str | None = None) -> Any:
    """Opens a package as a `coremltools.models.MLModel`, loaded into Core ML or only read.

    Raises:
        EngineUnavailableError: coremltools is not installed.
        ModelFileError: it is no Core ML package.
    """
    try:
        # Off macOS coremltools reports each of Apple's libraries as missing.
        with quiet():
            import coremltools
    except ImportError as error:
        raise EngineUnavailableError(
            f"{path.name} needs coremltools, which is not installed: pip install coremltools"
        ) from error
    try:
        return coremltools.models.MLModel(
            str(path),
            compute_units=coremltools.ComputeUnit[compute_units or DEFAULT_COMPUTE_UNITS],
            skip_model_load=not load,
        )
    # coremltools passes on Core ML's and protobuf's failures as exceptions of many kinds.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(f"{path} is no valid Core ML package: {reason}") from error


def describe_tensors(path: Path, spec: Any) -> tuple[TensorSpec, TensorSpec]:
    """Returns a classifier's input, and its probabilities as a tensor of one sample.

    Raises:
        ModelFileError: it is no classifier with one input.
    """
    feature = require_one(path, "input", list(spec.description.input))
    array = feature.type.multiArrayType
    kind = type(array).ArrayDataType.Name(array.dataType).lower()
    probabilities = spec.description.predictedProbabilitiesName
    return (
        TensorSpec(name=feature.name, shape=tuple(array.shape), dtype=kind),
        TensorSpec(name=probabilities, shape=(1, len(_class_labels(path, spec))), dtype="float32"),
    )


def _class_labels(path: Path, spec: Any) -> tuple[str, ...]:
    """Returns a classifier's labels in the order of its output tensor."""
    for operation in list_operations(spec):
        if operation.type == "classify":
            classes = operation.inputs["classes"].arguments[0].value.immediateValue.list.values
            return tuple(value.immediateValue.tensor.strings.values[0] for value in classes)
    raise ModelFileError(f"{path} is no Core ML classifier: it has no `classify` operation")


def list_operations(spec: Any) -> list[Any]:
    """Returns the operations of a package's program, in order."""
    main = spec.mlProgram.functions["main"]
    return list(main.block_specializations[main.opset].operations)


def _embedded_facts(model: Any) -> bytes | None:
    text = model.user_defined_metadata.get(EMBEDDED_KEY)
    return None if text is None else text.encode()

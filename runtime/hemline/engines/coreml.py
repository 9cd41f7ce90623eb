"""Core ML, which runs .mlpackage folders on Apple's machines, its Neural Engine included."""

import json
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hemline.engines.base import Engine
from hemline.engines.structure import FileStructure
from hemline.errors import EngineUnavailableError, ModelFileError
from hemline.facts import EMBEDDED_KEY, TensorSpec
from hemline.files import read_regular
from hemline.limits import DOCUMENT_BYTES, MODEL_BYTES
from hemline.paths import require_inside
from hemline.quiet import quiet

# What coremltools.ComputeUnit names. The GPU is not among the default, since the choice of ALL
# aborts the process on some Macs: https://github.com/ultralytics/ultralytics/pull/24885
COMPUTE_UNITS = ("CPU_AND_NE", "ALL", "CPU_ONLY", "CPU_AND_GPU")
DEFAULT_COMPUTE_UNITS = COMPUTE_UNITS[0]

# Field numbers of Core ML's Model.proto: Model.description, ModelDescription.metadata and
# Metadata.userDefined, which is a map.
_USER_DEFINED_METADATA = (2, 100, 100)
_MAP_KEY, _MAP_VALUE = 1, 2


class CoreMLEngine(Engine):
    """A Core ML program, by default on the CPU and, where Core ML chooses it, the Neural Engine.

    A file's structure can be read on any system; it runs on macOS only. The number of threads
    is Core ML's own affair.
    """

    name: ClassVar[str] = "coreml"
    compute_units: ClassVar[tuple[str, ...]] = COMPUTE_UNITS
    # Compiling a large model for the Neural Engine took 140 s in coremltools' issue 2758.
    trial_limit_s: ClassVar[float] = 300.0

    def __init__(
        self,
        path: Path,
        threads: int,  # noqa: ARG002
        compute_units: str | None = None,
    ) -> None:
        if not runs_here():
            raise EngineUnavailableError(
                f"{_macos_only()}: {path.name} cannot run here; use the model's .tflite or .onnx "
                "file, or the engine coreml-reference to evaluate it without Apple hardware, "
                "which says nothing of its speed"
            )
        self._model: Any = open_package(path, load=True, compute_units=compute_units)
        spec = self._model.get_spec()
        self.inputs, self.outputs = describe_tensors(path, spec)
        self._labels = _class_labels(spec)

    def run_all(self, tensors: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        given = {
            spec.name: _image(tensor) if spec.dtype == "uint8" else tensor
            for spec, tensor in zip(self.inputs, tensors, strict=True)
        }
        found: Any = self._model.predict(given)
        if not self._labels:
            return [np.asarray(found[spec.name]) for spec in self.outputs]
        # A classifier gives a dictionary.
        probabilities = found[self.outputs[0].name]
        return [np.array([[probabilities[label] for label in self._labels]], dtype=np.float32)]

    def embedded_facts(self) -> bytes | None:
        return _embedded_facts(self._model)

    def compiled_path(self) -> str:
        """Returns the folder of the compiled model, which lasts as long as the engine."""
        path: str = self._model.get_compiled_model_path()
        return path

    @classmethod
    def read_facts(cls, path: Path, content: bytes | None = None) -> bytes | None:  # noqa: ARG003
        # Without coremltools, which Linux boards do not have and which imports TensorFlow where
        # that is installed, so that facts can be checked on any machine in milliseconds.
        require_inside(path)
        try:
            package = json.loads(read_regular(path / "Manifest.json", DOCUMENT_BYTES))
            item = package["itemInfoEntries"][package["rootModelIdentifier"]]
            spec = read_regular(path / "Data" / item["path"], MODEL_BYTES)
            for entry in _fields(spec, *_USER_DEFINED_METADATA):
                if list(_fields(entry, _MAP_KEY)) == [EMBEDDED_KEY.encode()]:
                    return next(_fields(entry, _MAP_VALUE))
        except (
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            RecursionError,
            StopIteration,
        ) as error:
            raise ModelFileError(f"{path} is no valid Core ML package: {error!r}") from error
        return None

    @classmethod
    def structure(cls, path: Path, content: bytes | None = None) -> FileStructure:  # noqa: ARG003
        from hemline.engines.coreml_operations import read_operations

        model = open_package(path, load=False)
        spec = model.get_spec()
        inputs, outputs = describe_tensors(path, spec)
        return FileStructure(
            inputs=inputs,
            outputs=outputs,
            operations=read_operations(spec),
            embedded_facts=_embedded_facts(model),
        )

    @classmethod
    def why_unavailable(cls) -> str | None:
        return why_no_coremltools() if runs_here() else _macos_only()

    @classmethod
    def version(cls) -> str:
        return version("coremltools")


def _fields(message: bytes, number: int, *inner: int) -> Iterator[bytes]:
    """Yields what stands in one length-delimited field of a protobuf message, or further in."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        # Wire types: a varint, 8 bytes, a length and as many bytes, 4 bytes.
        match tag & 7:
            case 0:
                length, (_, position) = 0, _varint(message, position)
            case 1:
                length = 8
            case 2:
                length, position = _varint(message, position)
            case 5:
                length = 4
            case other:
                raise ValueError(f"wire type {other}")
        content = message[position : position + length]
        if len(content) < length:
            raise ValueError("the message is cut off")
        if tag >> 3 == number and tag & 7 == 2:
            if inner:
                yield from _fields(content, *inner)
            else:
                yield content
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while message[position] & 0x80:
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
        value |= (message[position] & 0x7F) << shift
        position, shift = position + 1, shift + 7
    return value | message[position] << shift, position + 1


def runs_here() -> bool:
    """Tells whether this system has Core ML."""
    return sys.platform == "darwin"


def _macos_only() -> str:
    return f"Core ML runs on macOS only, and this is {sys.platform}"


def why_no_coremltools() -> str | None:
    """Looks for coremltools without importing it, which may take seconds."""
    found = find_spec("coremltools") is not None
    return None if found else "needs coremltools: pip install 'hemline[coreml]'"


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
    require_inside(path)
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


def describe_tensors(
    path: Path, spec: Any
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Returns a program's inputs and outputs; of a classifier's outputs its probabilities.

    Raises:
        ModelFileError: one of them is neither an array nor an image, or it is no ML program.
    """
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise ModelFileError(f"{path} is of Core ML's type {kind}, expected an mlProgram")
    inputs = tuple(_describe(path, feature) for feature in spec.description.input)
    labels = _class_labels(spec)
    if labels:
        name = spec.description.predictedProbabilitiesName
        return inputs, (TensorSpec(name=name, shape=(1, len(labels)), dtype="float32"),)
    return inputs, tuple(_describe(path, feature) for feature in spec.description.output)


def _describe(path: Path, feature: Any) -> TensorSpec:
    kind = feature.type.WhichOneof("Type")
    if kind == "imageType":
        image = feature.type.imageType
        color = type(image).ColorSpace.Name(image.colorSpace)
        shape = (image.height, image.width, *(() if color.startswith("GRAYSCALE") else (3,)))
        return TensorSpec(name=feature.name, shape=shape, dtype="uint8")
    if kind != "multiArrayType":
        raise ModelFileError(
            f"{path}: {feature.name} is of Core ML's type {kind}, expected multiArrayType or "
            "imageType"
        )
    array = feature.type.multiArrayType
    dtype = type(array).ArrayDataType.Name(array.dataType).lower()
    return TensorSpec(name=feature.name, shape=tuple(array.shape), dtype=dtype)


def _image(pixels: NDArray[np.uint8]) -> Any:
    """Returns pixels, grey or RGB, as coremltools takes images: as Pillow's.

    https://apple.github.io/coremltools/docs-guides/source/image-inputs.html
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise EngineUnavailableError(
            "the image inputs of a Core ML model need Pillow, which is not installed: "
            "pip install 'hemline[images]'"
        ) from error
    return Image.fromarray(pixels)


def _class_labels(spec: Any) -> tuple[str, ...]:
    """Returns a classifier's labels in the order of its output tensor; none for other programs."""
    for operation in list_operations(spec):
        if operation.type == "classify":
            classes = operation.inputs["classes"].arguments[0].value.immediateValue.list.values
            return tuple(value.immediateValue.tensor.strings.values[0] for value in classes)
    return ()


def list_operations(spec: Any) -> list[Any]:
    """Returns the operations of a package's program, in order."""
    main = spec.mlProgram.functions["main"]
    return list(main.block_specializations[main.opset].operations)


def _embedded_facts(model: Any) -> bytes | None:
    text = model.user_defined_metadata.get(EMBEDDED_KEY)
    return None if text is None else text.encode()

"""TFLite files from a frozen function."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from hemline.errors import ExportError
from hemline.facts import EMBEDDED_KEY
from hemline.quiet import quiet
from hemline_export.backend import tensorflow as tf
from hemline_export.freeze import Frozen

_FILE_IDENTIFIER = b"TFL3"
_BUFFER_ALIGNMENT = 16
_INTEGER_TYPES = {
    schema.TensorType.INT8,
    schema.TensorType.INT16,
    schema.TensorType.INT32,
    schema.TensorType.INT64,
    schema.TensorType.BOOL,
}


def tflite_from_frozen(frozen: Frozen) -> bytes:
    """Converts to float32, with built-in operators only.

    Raises:
        ExportError: the converter refuses the model.
    """
    return _convert(frozen, None)


def int8_tflite_from_frozen(frozen: Frozen, calibration: NDArray[np.float32]) -> bytes:
    """Converts to full-integer int8: input, output, weights and every operator between.

    Weights are per channel, activations per tensor, with ranges from `calibration`.

    Args:
        frozen: the float model.
        calibration: float32 (n, *shape), preprocessed samples of the training split.

    Raises:
        ExportError: the converter refuses the model, or leaves a tensor that is no integer.
    """
    return _require_integers(_convert(frozen, calibration))


def int8_tflite_from_quantized(frozen: Frozen) -> bytes:
    """Converts to full-integer int8 what training has laid on integer grids.

    Args:
        frozen: a model with fake quantization at every tensor.

    Raises:
        ExportError: the converter refuses the model, or leaves a tensor that is no integer.
    """
    return _require_integers(_convert(frozen, None, quantized=True))


def embed_facts(content: bytes, facts: bytes) -> bytes:
    """Returns a .tflite file with a facts document in its metadata, instead of one already there.

    A tensor fused of several keeps the name of the first only: the converter strings them all
    together, which in an unrolled GRU is a fifth of the file.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.name = tensor.name.split(b";")[0]
    # The generated packer aligns constants to one byte; kernels that read them in place, as on
    # a microcontroller, need what the schema asks for.
    model.buffers = [_AlignedBuffer(buffer.data) for buffer in model.buffers]
    model.metadata = model.metadata or []
    for entry in model.metadata:
        if entry.name == EMBEDDED_KEY.encode():
            break
    else:
        entry = schema.MetadataT()
        entry.name, entry.buffer = EMBEDDED_KEY, len(model.buffers)
        model.metadata.append(entry)
        model.buffers.append(None)
    model.buffers[entry.buffer] = _AlignedBuffer(np.frombuffer(facts, np.uint8))
    builder = flatbuffers.Builder(len(content) + len(facts) + 1024)
    builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    def __init__(self, data: NDArray[np.uint8] | None) -> None:
        super().__init__()
        self.data = data

    def Pack(self, builder: Any) -> Any:  # noqa: N802
        vector = None
        if self.data is not None:
            size = len(self.data)
            builder.StartVector(1, size, _BUFFER_ALIGNMENT)
            builder.head -= size
            builder.Bytes[builder.head : builder.head + size] = np.asarray(self.data).tobytes()
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def _convert(
    frozen: Frozen, calibration: NDArray[np.float32] | None, *, quantized: bool = False
) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        with quiet():
            frozen.save(Path(folder))
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if calibration is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
            converter.representative_dataset = lambda: _feeds(frozen.input_name, calibration)
        if quantized:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        try:
            with quiet():
                content: bytes = converter.convert()
        # The converter raises its own ConverterError, and ValueError from the calibrator.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            kind = "float32" if calibration is None and not quantized else "int8"
            raise ExportError(
                f"TFLite {kind}: the converter refuses the model: {reason}"
            ) from error
    return content


def _feeds(name: str, samples: NDArray[np.float32]) -> Iterator[dict[str, NDArray[np.float32]]]:
    for sample in samples:
        yield {name: sample[np.newaxis]}


def _require_integers(content: bytes) -> bytes:
    floats = _float_tensors(content)
    if floats:
        raise ExportError(
            f"int8: {len(floats)} tensors are not integers, the first is {floats[0]}; "
            "the float32 recipe can take this model"
        )
    return content


def _float_tensors(content: bytes) -> list[str]:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    return [
        tensor.name.decode()
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type not in _INTEGER_TYPES
    ]

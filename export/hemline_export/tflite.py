"""TFLite files from a frozen function."""

import csv
import io
import math
import re
import tempfile
from collections.abc import Callable, Iterator
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
_WITH_BIAS = {
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    schema.BuiltinOperator.FULLY_CONNECTED,
}
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
    return _convert(frozen, "float32", lambda _: None)


def float16_tflite_from_frozen(frozen: Frozen) -> bytes:
    """Converts to float16 weights, which the engine widens to float32 when it loads the file.

    Raises:
        ExportError: the converter refuses the model.
    """

    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]

    return _convert(frozen, "float16", configure)


def dynamic_tflite_from_frozen(frozen: Frozen) -> bytes:
    """Converts to int8 weights and float32 activations.

    The products with those weights are taken in integers: the engine puts each activation tensor
    on a grid of its own as it comes. Weights of less than 1,024 elements stay float32 (TFLite's
    quantize_weights.cc).

    Raises:
        ExportError: the converter refuses the model.
    """

    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]

    return _convert(frozen, "dynamic", configure)


def int8_tflite_from_frozen(frozen: Frozen, calibration: NDArray[np.float32]) -> bytes:
    """Converts to full-integer int8: input, output, weights and every operator between.

    Weights are per channel, activations per tensor, with ranges from `calibration`.

    Args:
        frozen: the float model.
        calibration: float32 (n, *shape), preprocessed samples of the training split.

    Raises:
        ExportError: the converter refuses the model, or leaves a tensor that is no integer.
    """
    operators = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
    return _convert_to_integers(frozen, "int8", calibration, operators, tf.int8)


def int16x8_tflite_from_frozen(frozen: Frozen, calibration: NDArray[np.float32]) -> bytes:
    """Converts to int8 weights and int16 activations, the file's input and output among them.

    As with int8, its ends are integers, so that it runs where there is no floating point.
    Activations are symmetric: their zero point is 0.

    Args:
        frozen: the float model.
        calibration: as for `int8_tflite_from_frozen`.

    Raises:
        ExportError: as `int8_tflite_from_frozen`.
    """
    operators = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return _convert_to_integers(frozen, "int16x8", calibration, operators, tf.int16)


def int8_tflite_from_quantized(frozen: Frozen) -> bytes:
    """Converts to full-integer int8 what training has laid on integer grids.

    Args:
        frozen: a model with fake quantization at every tensor.

    Raises:
        ExportError: as `int8_tflite_from_frozen`.
    """

    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = tf.int8

    return _require_integers(frozen, "int8", _convert(frozen, "int8", configure))


def selective_tflite_from_frozen(
    frozen: Frozen, calibration: NDArray[np.float32], count: int
) -> tuple[bytes, tuple[str, ...]]:
    """Converts to int8, but for the operators that quantization costs most.

    The cost of an operator is the root of its mean squared error in steps of its output's grid,
    with the float operator's inputs: what TFLite's quantization debugger measures. An ideal grid
    costs 0.29 (a uniform error of one step).

    Args:
        frozen: the float model.
        calibration: as for `int8_tflite_from_frozen`.
        count: how many operators stay in floating point, between a DEQUANTIZE and a QUANTIZE.

    Returns:
        The file, and the names of the operators in floating point, the costliest first.

    Raises:
        ExportError: the converter refuses the model.
    """
    debugging = tf.lite.experimental
    with tempfile.TemporaryDirectory() as folder:

        def debugger(options: Any) -> Any:
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: _feeds(frozen.input_name, calibration)
            converter.inference_input_type = converter.inference_output_type = tf.int8
            return debugging.QuantizationDebugger(
                converter=converter,
                debug_dataset=lambda: ([sample[np.newaxis]] for sample in calibration),
                debug_options=options,
            )

        try:
            with quiet():
                frozen.save(Path(folder))
                whole = debugger(debugging.QuantizationDebugOptions())
                whole.run()
                table = io.StringIO()
                whole.layer_statistics_dump(table)
                rows = list(csv.DictReader(io.StringIO(table.getvalue())))
                if count >= len(rows):
                    raise ExportError(
                        f"the model has {len(rows)} operators: with {count} of them in floating "
                        "point none is left to quantize"
                    )
                rows.sort(key=_cost, reverse=True)
                kept = [row["tensor_name"] for row in rows[:count]]
                options = debugging.QuantizationDebugOptions(denylisted_nodes=kept)
                content: bytes = debugger(options).get_nondebug_quantized_model()
        # As `_convert`.
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            raise _refusal(frozen, "int8-selective", *_read_refusal(frozen, text)) from error
    return content, tuple(name.partition(";")[0] for name in kept)


def _cost(row: dict[str, str]) -> float:
    scale = float(row["scale"])
    return math.sqrt(float(row["mean_squared_error"])) / scale if scale else 0.0


def embed_facts(content: bytes, facts: bytes) -> bytes:
    """Returns a .tflite file with a facts document in its metadata, instead of one already there.

    A tensor fused of several keeps the name of the first only: the converter strings them all
    together, which in an unrolled GRU is a fifth of the file.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.name = tensor.name.split(b";")[0]
    _drop_empty_buffers(model)
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


def _drop_empty_buffers(model: Any) -> None:
    """Points every tensor without content at buffer 0, which is empty by TFLite's convention."""
    kept = [0, *(i for i, b in enumerate(model.buffers) if i and b.data is not None)]
    moved = {old: new for new, old in enumerate(kept)}
    for owner in (*(t for g in model.subgraphs for t in g.tensors), *(model.metadata or [])):
        owner.buffer = moved.get(owner.buffer, 0)
    model.buffers = [model.buffers[i] for i in kept]


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


def _convert_to_integers(
    frozen: Frozen, recipe: str, calibration: NDArray[np.float32], operators: Any, ends: Any
) -> bytes:
    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [operators]
        converter.inference_input_type = converter.inference_output_type = ends
        converter.representative_dataset = lambda: _feeds(frozen.input_name, calibration)

    return _require_integers(frozen, recipe, _convert(frozen, recipe, configure))


def _require_integers(frozen: Frozen, recipe: str, content: bytes) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    if any(t.type not in _INTEGER_TYPES for graph in model.subgraphs for t in graph.tensors):
        # A float operator stands between a DEQUANTIZE and a QUANTIZE.
        casts = ("DEQUANTIZE", "QUANTIZE")
        kind, node = next(
            (kind, tensor.name.decode())
            for kind, tensor in _list_results(model)
            if kind not in casts and tensor.type not in _INTEGER_TYPES
        )
        raise _refusal(frozen, recipe, f"{kind} has no integer form", node)
    _require_bias_grids(frozen, recipe, model)
    return content


def _require_bias_grids(frozen: Frozen, recipe: str, model: Any) -> None:
    """Refuses a file whose kernels would add a bias on another grid than the sums they add it to.

    Kernels take a bias's scale to be its input's times its weights' (TFLite's quantization
    specification), whatever the file says. The converter has been seen to write others.
    """
    for graph in model.subgraphs:
        for operator in graph.operators:
            tensors = [graph.tensors[i] for i in operator.inputs if i >= 0]
            code = model.operatorCodes[operator.opcodeIndex]
            kind = max(code.builtinCode, code.deprecatedBuiltinCode)
            if kind not in _WITH_BIAS or len(tensors) < 3:
                continue
            source, weights, bias = (np.asarray(t.quantization.scale) for t in tensors[:3])
            if not np.allclose(bias, source * weights, rtol=1e-3):
                name = graph.tensors[operator.outputs[0]].name.decode()
                reason = "the converter put a bias on another grid than its input's times its"
                raise _refusal(frozen, recipe, f"{reason} weights'", name)


def _convert(frozen: Frozen, recipe: str, configure: Callable[[Any], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        with quiet():
            frozen.save(Path(folder))
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        configure(converter)
        try:
            with quiet():
                content: bytes = converter.convert()
        # ConverterError of its own, RuntimeError and ValueError from quantizer and calibrator.
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            raise _refusal(frozen, recipe, *_read_refusal(frozen, text)) from error
    return content


def _read_refusal(frozen: Frozen, text: str) -> tuple[str, str | None]:
    """Returns the converter's reason, and the node that it is about, if it can be told."""
    without_integers = re.search(r"not yet supported for op: '(\w+)'", text)
    if without_integers:
        # It names an operator, and the float file has the node.
        model = schema.ModelT.InitFromPackedBuf(tflite_from_frozen(frozen), 0)
        kind = without_integers[1]
        nodes = [tensor.name.decode() for found, tensor in _list_results(model) if found == kind]
        return f"{kind} has no integer form", nodes[0] if nodes else None
    reason = text.splitlines()[0]
    outside = re.search(r"'tf\.(\w+)' op is neither", text)
    where = re.search(r'"([^"]+)@__inference', text)
    if outside and where:
        return f"{outside[1]} is none of TFLite's built-in operators", where[1]
    return reason, None


def _refusal(frozen: Frozen, recipe: str, reason: str, node: str | None) -> ExportError:
    layer = frozen.layer_of(node) if node else None
    place = f"layer {layer}: " if layer else f"{node}: " if node else ""
    return ExportError(f"TFLite {recipe}: the converter refuses the model: {place}{reason}")


def _list_results(model: Any) -> Iterator[tuple[str, Any]]:
    """Yields the name of each operator with each tensor that it makes."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            # Codes below 127 stand in the older one-byte field; the larger of the two is right.
            kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            yield from ((kind, graph.tensors[i]) for i in operator.outputs)


def _feeds(name: str, samples: NDArray[np.float32]) -> Iterator[dict[str, NDArray[np.float32]]]:
    for sample in samples:
        yield {name: sample[np.newaxis]}

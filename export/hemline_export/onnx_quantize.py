"""int8 ONNX files from float ones, in the form that ONNX Runtime gains most by.

A model without recurrent layers computes in int8 from its first operator to its logits. For a GRU
ONNX Runtime has no integer operator, and unrolled into those it has the layer is several times
slower than the float node. Such a model stores its weights as int8 and computes in float.
"""

import contextlib
import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.numpy_helper import from_array, to_array
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
from onnxruntime.quantization.shape_inference import quant_pre_process

from hemline.errors import ExportError
from hemline.quiet import quiet
from hemline_export.calibration import Ranges

_RECURRENT = {"GRU", "LSTM", "RNN"}
# The first in which onnx's own reference evaluator knows DequantizeLinear.
_OPSET = 19
# They compute nothing, and ahead of the first operator that does there is no grid yet.
_MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"}

_CALIBRATORS: dict[Ranges, tuple[CalibrationMethod, dict[str, Any]]] = {
    Ranges.MINMAX: (CalibrationMethod.MinMax, {}),
    Ranges.PERCENTILE: (CalibrationMethod.Percentile, {"percentile": 99.99, "symmetric": False}),
    # By default it has as many bins as steps, and so only one threshold to choose from.
    Ranges.ENTROPY: (CalibrationMethod.Entropy, {"num_bins": 1024, "num_quantized_bins": 255}),
}


def int8_onnx_from_float(
    content: bytes, calibration: NDArray[np.float32], ranges: Ranges = Ranges.MINMAX
) -> tuple[bytes, dict[str, str]]:
    """Quantizes a float ONNX file; its input and output stay float32.

    Args:
        content: the float file, of batch 1.
        calibration: float32 (n, *shape), preprocessed samples of the training split.
        ranges: how to take ranges from them, where activations are quantized.

    Returns:
        The int8 file, and the settings for its facts: the form, and where ranges come from.

    Raises:
        ExportError: an operator has no integer form.
    """
    model = onnx.load_from_string(content)
    if is_recurrent(model):
        return quantize_weights(model), {"form": "int8 weights, float arithmetic", "ranges": "none"}
    quantized = quantize_all(model, calibration, ranges)
    return quantized, {"form": "int8 weights and arithmetic", "ranges": ranges.value}


def is_recurrent(model: Any) -> bool:
    """Tells whether a model has a recurrent operator, or one unrolled: its steps share weights."""
    readers = Counter(
        node.input[1] for node in model.graph.node if node.op_type in ("Gemm", "MatMul")
    )
    constants = {tensor.name for tensor in model.graph.initializer}
    return any(node.op_type in _RECURRENT for node in model.graph.node) or any(
        count > 1 and name in constants for name, count in readers.items()
    )


def quantize_weights(model: Any) -> bytes:
    """Stores weights as int8, per output channel, to be multiplied by their scales at loading.

    Cast and Mul of constants are folded when ONNX Runtime opens the file, and the operators then
    see float constants that it packs as usual. It does not fold a DequantizeLinear, which would
    run at every inference.

    Args:
        model: a float ModelProto, which is changed.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weights = {
        name: axis
        for node in graph.node
        for name, axis in _weights(node).items()
        if name in constants
    }
    decompression = []
    for name, axis in weights.items():
        values, scales = quantize_symmetric(to_array(constants[name]), axis)
        graph.initializer.remove(constants[name])
        graph.initializer.extend(
            [from_array(values, f"{name}_int8"), from_array(scales, f"{name}_scale")]
        )
        decompression += [
            onnx.helper.make_node(
                "Cast", [f"{name}_int8"], [f"{name}_cast"], to=onnx.TensorProto.FLOAT
            ),
            onnx.helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name]),
        ]
    operators = [*decompression, *graph.node]
    del graph.node[:]
    graph.node.extend(operators)
    return _checked(model)


def quantize_symmetric(
    weights: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Returns int8 values in −127…127 and the float32 scales that they are to be multiplied by.

    Args:
        weights: of any shape.
        axis: that of the channels: each has a scale. The scales keep the other axes, of length 1.
    """
    inner = tuple(i for i in range(weights.ndim) if i != axis % weights.ndim)
    peak = np.abs(weights).max(axis=inner, keepdims=True)
    scales = np.where(peak > 0, peak / 127, 1).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales


def quantize_all(model: Any, calibration: NDArray[np.float32], ranges: Ranges) -> bytes:
    """Quantizes weights per channel and activations per tensor with ONNX Runtime's quantizer.

    The softmax that ends a classifier stays in float: on a grid of 256 steps its probabilities
    would not sum to 1.

    x86 processors without VNNI add two products of 8 bits in 16, which large weights overflow; see
    "reduce_range" in ONNX Runtime's "Quantize ONNX models". Weights of 7 bits would avoid that, but
    cost precision everywhere else.

    Args:
        model: a float ModelProto of batch 1.
        calibration: float32 (n, *shape).
        ranges: how to take ranges from them.

    Raises:
        ExportError: an operator has no integer form.
    """
    # The histograms of the calibrators are announced with print.
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        given, prepared, augmented, found, quantized = (
            Path(folder) / name for name in ("given", "prepared", "augmented", "found", "quantized")
        )
        # Of a ModelProto it would move the constants out, and then fail to find them.
        onnx.save(onnx.version_converter.convert_version(model, _OPSET), given)
        # All shapes are fixed, so there is nothing to infer symbolically.
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        pool_instead_of_mean(model)
        onnx.save(model, prepared)
        last = _producer(model.graph, model.graph.output[0].name)
        method, options = _CALIBRATORS[ranges]
        calibrator = create_calibrator(
            prepared,
            augmented_model_path=str(augmented),
            calibrate_method=method,
            extra_options=options,
        )
        calibrator.collect_data(_Feeds(model.graph.input[0].name, calibration))
        save_tensors_data(calibrator.compute_data(), found)
        quantize_static(
            prepared,
            quantized,
            nodes_to_exclude=[last.name] if last.op_type == "Softmax" else [],
            per_channel=True,
            calibrate_method=method,
            calibration_cache_path=found,
        )
        model = onnx.load(quantized)
    free_result(model)
    content = _checked(model)
    floats = float_operators(content)
    if floats:
        raise ExportError(
            f"ONNX int8: ONNX Runtime has no integer form of {', '.join(floats)}; the float32 "
            "recipe can take this model"
        )
    return content


def pool_instead_of_mean(model: Any) -> None:
    """Writes a mean over rows and columns as global average pooling, which has an integer form.

    Args:
        model: a float ModelProto of convolutions, (batch, channels, rows, columns), which is
            changed.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for i, node in enumerate(model.graph.node):
        axes = constants.get(node.input[1]) if node.op_type == "ReduceMean" else None
        if axes is None or to_array(axes).tolist() != [2, 3]:
            continue
        source, target, name = node.input[0], node.output[0], node.name
        keeps = any(entry.name == "keepdims" and entry.i for entry in node.attribute)
        pooled = target if keeps else f"{target}_pooled"
        node.CopyFrom(onnx.helper.make_node("GlobalAveragePool", [source], [pooled], name=name))
        if not keeps:
            model.graph.node.insert(
                i + 1, onnx.helper.make_node("Flatten", [pooled], [target], name=f"{name}_flatten")
            )


def free_result(model: Any) -> None:
    """Takes the grid from what a last Gemm gives: the result, or the logits of a last softmax.

    ONNX Runtime's integer Gemm can give floats, which spares them a rounding to 8 bits.

    Args:
        model: a quantized ModelProto, which is changed.
    """
    graph = model.graph
    last = _producer(graph, graph.output[0].name)
    dequantize = _producer(graph, last.input[0]) if last.op_type == "Softmax" else last
    quantize = _producer(graph, dequantize.input[0]) if dequantize else None
    gemm = _producer(graph, quantize.input[0]) if quantize else None
    if gemm and gemm.op_type == "Gemm":
        gemm.output[0] = dequantize.output[0]
        graph.node.remove(dequantize)
        graph.node.remove(quantize)


def float_operators(content: bytes) -> list[str]:
    """Names the operators that ONNX Runtime computes in float, but for the last: type and place.

    What the file says does not decide that: ONNX Runtime turns an operator between grids into an
    integer one when it opens the file, if it has one.
    """
    options = onnxruntime.SessionOptions()
    with tempfile.TemporaryDirectory() as folder, quiet():
        opened = Path(folder) / "opened.onnx"
        options.optimized_model_filepath = str(opened)
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(opened).graph
    floats, found = {graph.input[0].name}, []
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            continue
        reads = floats.intersection(node.input)
        if reads or node.op_type == "DequantizeLinear":
            floats.update(node.output)
        if reads and node.op_type not in _MOVES and graph.output[0].name not in node.output:
            found.append(f"{node.op_type} ({node.name})")
    return found


class _Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, samples: NDArray[np.float32]) -> None:
        self._feeds: Iterator[dict[str, Any]] = ({name: sample[np.newaxis]} for sample in samples)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def _producer(graph: Any, name: str) -> Any:
    """Returns the node that a tensor comes from, or None."""
    return next((node for node in graph.node if name in node.output), None)


def _weights(node: Any) -> dict[str, int]:
    """Returns the inputs of a node that are its weights, each with the axis of its channels."""
    if node.op_type in _RECURRENT:
        return dict.fromkeys(node.input[1:3], -2)
    if node.op_type == "Conv":
        return {node.input[1]: 0}
    if node.op_type in ("Gemm", "MatMul"):
        transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
        return {node.input[1]: -2 if transposed else -1}
    return {}


def _checked(model: Any) -> bytes:
    # What the quantizer notes for itself; shapes can be inferred again.
    del model.graph.value_info[:]
    del model.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content

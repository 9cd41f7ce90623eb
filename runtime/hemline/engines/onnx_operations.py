"""An .onnx file's operators: what they compute in, and how much.

A quantized ONNX file states float operators between DequantizeLinear and QuantizeLinear, and
engines compute such a unit in integers; so an operator counts as integer if all it takes comes
from a DequantizeLinear and all it makes goes into a QuantizeLinear. Source: ONNX Runtime, Quantize
ONNX models (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
"""

import math
from typing import Any

from hemline.engines.structure import Arithmetic, Operation

_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"}
_INTEGERS = {"MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul"}
_PACKED = {"MatMulNBits"}
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def read_operations(model: Any) -> tuple[Operation, ...]:
    """Returns the operators of an .onnx file.

    Args:
        model: its onnx.ModelProto, with the shapes of all values.
    """
    graph = _Graph(model.graph)
    return tuple(graph.describe(node) for node in model.graph.node if node.op_type != "Constant")


class _Graph:
    def __init__(self, graph: Any) -> None:
        self._constants = {tensor.name for tensor in graph.initializer} | {
            name for node in graph.node if node.op_type == "Constant" for name in node.output
        }
        self._shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            self._shapes[value.name] = [dim.dim_value or 1 for dim in dims]
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        # Weights that a DequantizeLinear unpacks.
        self._unpacked = {
            node.output[0]
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in self._constants
        }

    def describe(self, node: Any) -> Operation:
        taken = [name for name in node.input if name]
        return Operation(
            kind=node.op_type,
            name=node.output[0],
            arithmetic=self._arithmetic(node, taken),
            macs=self._count_macs(node),
            reads=tuple(
                name for name in taken if name not in self._constants and name not in self._unpacked
            ),
            writes=tuple(node.output),
        )

    def _arithmetic(self, node: Any, taken: list[str]) -> Arithmetic:
        if node.op_type in _CONVERSIONS:
            return Arithmetic.CONVERSION
        if node.op_type in _INTEGERS or node.op_type.startswith("QLinear"):
            return Arithmetic.INTEGER
        values = [name for name in taken if name not in self._constants]
        from_integers = all(self._made_by(name) == "DequantizeLinear" for name in values)
        readers = [reader for name in node.output for reader in self._readers.get(name, [])]
        to_integers = bool(readers) and all(r.op_type == "QuantizeLinear" for r in readers)
        # ONNX Runtime's integer Gemm can give floats, as a result may be.
        if values and from_integers and (to_integers or node.op_type == "Gemm"):
            return Arithmetic.INTEGER
        if node.op_type in _PACKED or any(name in self._unpacked for name in taken):
            return Arithmetic.MIXED
        return Arithmetic.FLOAT

    def _made_by(self, name: str) -> str | None:
        maker = self._makers.get(name)
        return None if maker is None else maker.op_type

    def _count_macs(self, node: Any) -> int:
        def shape(name: str) -> list[int]:
            return self._shapes.get(name, [])

        out = math.prod(shape(node.output[0]))
        match node.op_type:
            case "Conv" | "ConvInteger":
                return out * math.prod(shape(node.input[1])[1:])
            case "QLinearConv":
                return out * math.prod(shape(node.input[3])[1:])
            case "ConvTranspose":
                return math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])
            case "MatMul" | "MatMulInteger" | "QLinearMatMul":
                return out * shape(node.input[0])[-1] if shape(node.input[0]) else 0
            case "MatMulNBits":
                return out * int(next(a.i for a in node.attribute if a.name == "K"))
            case "Gemm":
                # A is (rows, inner), or the other way round if it is transposed.
                transposed = any(a.name == "transA" and a.i for a in node.attribute)
                return out * shape(node.input[0])[0 if transposed else -1]
            case "RNN" | "GRU" | "LSTM":
                # Source: the operators' specification. X is (time, batch, features); W and R are
                # (directions, gates · units, features) and (directions, gates · units, units).
                steps, batch, _ = shape(node.input[0])
                return steps * batch * sum(math.prod(shape(name)) for name in node.input[1:3])
            case _:
                return 0

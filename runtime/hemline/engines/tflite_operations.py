"""A .tflite file's operators: what they compute in, and how much.

Source of types, operators and operand order: TFLite's schema.fbs and the kernels' documentation.
"""

import math
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from hemline.engines.structure import Arithmetic, Operation

_KINDS = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
_FLOATS = {schema.TensorType.FLOAT32, schema.TensorType.FLOAT16, schema.TensorType.FLOAT64}
_WEIGHTS = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.INT4}


def read_operations(content: bytes) -> tuple[Operation, ...]:
    """Returns the operators of a .tflite file, those of all its subgraphs."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    # Codes below 127 stand in the older one-byte field; the larger of the two is right.
    kinds = [
        _KINDS[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes
    ]
    constant = [buffer.data is not None for buffer in model.buffers]
    return tuple(
        _describe(kinds[operator.opcodeIndex], operator, f"{number}", graph.tensors, constant)
        for number, graph in enumerate(model.subgraphs)
        for operator in graph.operators
    )


def _describe(
    kind: str, operator: Any, graph: str, tensors: list[Any], constant: list[bool]
) -> Operation:
    def name(index: int) -> str:
        return f"{graph}/{index}"

    read = [i for i in operator.inputs if i >= 0 and not constant[tensors[i].buffer]]
    kept = [i for i in operator.inputs if i >= 0 and constant[tensors[i].buffer]]
    written = list(operator.outputs)
    floats = any(tensors[i].type in _FLOATS for i in (*read, *written))
    if kind == "DEQUANTIZE" or (kind == "QUANTIZE" and floats):
        arithmetic = Arithmetic.CONVERSION
    elif not floats:
        arithmetic = Arithmetic.INTEGER
    elif any(tensors[i].type in _WEIGHTS for i in kept):
        arithmetic = Arithmetic.MIXED
    else:
        arithmetic = Arithmetic.FLOAT
    return Operation(
        kind=kind,
        name=tensors[written[0]].name.decode() if written else kind,
        arithmetic=arithmetic,
        macs=_count_macs(
            kind,
            *(
                [_shape(tensors[i]) for i in group if i >= 0]
                for group in (operator.inputs, written)
            ),
        ),
        reads=tuple(map(name, read)),
        writes=tuple(map(name, written)),
    )


def _shape(tensor: Any) -> list[int]:
    # A single number has no shape in the file.
    return [] if tensor.shape is None else [int(size) for size in tensor.shape]


def _count_macs(kind: str, inputs: list[list[int]], outputs: list[list[int]]) -> int:
    match kind:
        case "CONV_2D" | "CONV_3D":
            # Weights: output channels first in 2-D; input and output channels last in 3-D.
            weights = inputs[1]
            each = weights[1:] if kind == "CONV_2D" else weights[:-1]
            return math.prod(outputs[0]) * math.prod(each)
        case "DEPTHWISE_CONV_2D":
            _, height, width, _ = inputs[1]
            return math.prod(outputs[0]) * height * width
        case "TRANSPOSE_CONV":
            # Inputs: shape of the output, weights (out, height, width, in), values.
            channels, height, width, _ = inputs[1]
            return math.prod(inputs[2]) * channels * height * width
        case "FULLY_CONNECTED":
            return math.prod(outputs[0]) * inputs[1][-1]
        case "BATCH_MATMUL":
            return math.prod(outputs[0]) * inputs[0][-1]
        case _:
            return 0

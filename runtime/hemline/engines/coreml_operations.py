"""A Core ML program's operations: what they compute in, and how much.

Compressed weights are unpacked by `constexpr_` operations, and the arithmetic stays floating
point: see coremltools' guide, Optimizing Models.
"""

import math
from typing import Any

from hemline.engines.coreml import list_operations
from hemline.engines.structure import Arithmetic, Operation

# `classify` looks up labels.
_CONVERSIONS = {"quantize", "dequantize", "cast", "classify"}


def read_operations(spec: Any) -> tuple[Operation, ...]:
    """Returns the operations of a package's program, constants left out.

    Args:
        spec: its specification, a protobuf message of coremltools.
    """
    operations = list_operations(spec)
    shapes, unpacked, constants = {}, set(), set()
    for operation in operations:
        for output in operation.outputs:
            dimensions = output.type.tensorType.dimensions
            shapes[output.name] = [int(dim.constant.size) for dim in dimensions]
            if operation.type.startswith("constexpr_"):
                unpacked.add(output.name)
            elif operation.type == "const":
                constants.add(output.name)
    main = spec.mlProgram.functions["main"]
    for given in main.inputs:
        shapes[given.name] = [dim.constant.size for dim in given.type.tensorType.dimensions]

    def describe(operation: Any) -> Operation:
        operands = {
            key: [argument.name for argument in given.arguments if argument.name]
            for key, given in operation.inputs.items()
        }
        names = [name for given in operands.values() for name in given]
        if operation.type in _CONVERSIONS or operation.type.startswith("constexpr_"):
            arithmetic = Arithmetic.CONVERSION
        elif unpacked & set(names):
            arithmetic = Arithmetic.MIXED
        else:
            arithmetic = Arithmetic.FLOAT
        written = tuple(output.name for output in operation.outputs)
        return Operation(
            kind=operation.type,
            name=written[0],
            arithmetic=arithmetic,
            macs=_count_macs(operation, operands, shapes),
            reads=tuple(n for n in names if n not in constants and n not in unpacked),
            writes=written,
        )

    return tuple(describe(o) for o in operations if o.type != "const")


def _count_macs(
    operation: Any, operands: dict[str, list[str]], shapes: dict[str, list[int]]
) -> int:
    def shape(key: str) -> list[int]:
        return shapes[operands[key][0]]

    out = math.prod(shapes[operation.outputs[0].name])
    match operation.type:
        case "conv":
            return out * math.prod(shape("weight")[1:])
        case "conv_transpose":
            return math.prod(shape("x")) * math.prod(shape("weight")[1:])
        case "linear":
            return out * shape("weight")[-1]
        case "matmul":
            # Of x (…, m, k) and y (…, k, n), or either of them transposed.
            return math.prod(shape("x")) * shapes[operation.outputs[0].name][-1]
        case _:
            return 0

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from hemline.artifact_facts import IntegerPromise
from hemline.audit import Audit, Island, audit
from hemline.cli import main
from hemline.engines import engine_for, tflite_operations
from hemline.engines.structure import Arithmetic, Operation
from hemline.inspection import inspect
from hemline.parity.verify import verify

WHOLE = IntegerPromise(operators=1.0, macs=1.0)


def operation(kind: str, arithmetic: Arithmetic, reads: str, writes: str, macs: int) -> Operation:
    return Operation(
        kind=kind,
        name=writes,
        arithmetic=arithmetic,
        macs=macs,
        reads=tuple(reads),
        writes=tuple(writes),
    )


# Two islands: b → c with the branch d, and g; e joins the first one with integers.
OPERATIONS = (
    operation("CONV_2D", Arithmetic.INTEGER, "x", "a", 100),
    operation("DEQUANTIZE", Arithmetic.CONVERSION, "a", "b", 0),
    operation("FULLY_CONNECTED", Arithmetic.MIXED, "b", "c", 30),
    operation("TANH", Arithmetic.FLOAT, "b", "d", 0),
    operation("MUL", Arithmetic.FLOAT, "cd", "m", 0),
    operation("QUANTIZE", Arithmetic.CONVERSION, "m", "e", 0),
    operation("CONV_2D", Arithmetic.INTEGER, "e", "f", 50),
    operation("DEQUANTIZE", Arithmetic.CONVERSION, "f", "g", 0),
    operation("SOFTMAX", Arithmetic.FLOAT, "g", "p", 0),
)


def test_an_audit_finds_the_islands() -> None:
    found = audit(OPERATIONS)
    assert found == Audit(
        operators=6,
        integer_operators=2,
        macs=180,
        integer_macs=150,
        mixed_macs=30,
        conversions=3,
        islands=(
            Island(operators=("FULLY_CONNECTED c", "TANH d", "MUL m"), macs=30),
            Island(operators=("SOFTMAX p",), macs=0),
        ),
    )
    assert found.explain_breach(IntegerPromise(operators=0.3, macs=0.8)) is None
    assert found.explain_breach(WHOLE) == (
        "2 of 6 operators and 150 of 180 multiply-accumulates are in integers, where the recipe "
        "promises 100% and 100%; in floating point: FULLY_CONNECTED c, TANH d, MUL m; SOFTMAX p"
    )


@pytest.mark.parametrize("promise", [(0.34, 0.0), (0.0, 0.84)])
def test_each_share_is_held_alone(promise: tuple[float, float]) -> None:
    operators, macs = promise
    assert audit(OPERATIONS).explain_breach(IntegerPromise(operators=operators, macs=macs))


def test_a_file_without_integers_has_no_islands() -> None:
    assert audit(OPERATIONS[2:5]).islands == ()


def test_an_impossible_promise() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        IntegerPromise(operators=1, macs=1.1)


@pytest.mark.parametrize(
    ("file", "integer"),
    [("float32.tflite", 0), ("int8.tflite", 1), ("float32.onnx", 0), ("float16.mlpackage", 0)],
)
def test_every_format_counts_the_same(exported: Path, file: str, integer: int) -> None:
    found = inspect(exported / f"separable.{file}").audit
    # Convolution 14·14·8·3·3, depthwise 14·14·8·3·3, pointwise 14·14·16·8, dense 16·10.
    assert found.macs == 14_112 + 14_112 + 25_088 + 160
    assert found.integer_macs == integer * found.macs
    assert found.integer_operators == integer * found.operators
    assert found.islands == ()


def quantized_onnx(path: Path) -> None:
    """x → [Q DQ] MatMul (int8 weights) [Q DQ] → Relu, whose output stays in floating point."""
    weights = np.ones((4, 3), np.int8)
    constants = [
        numpy_helper.from_array(weights, "w8"),
        numpy_helper.from_array(np.float32(0.1), "scale"),
        numpy_helper.from_array(np.int8(0), "zero"),
    ]

    def pair(name: str) -> list[Any]:
        grid = ["scale", "zero"]
        return [
            helper.make_node("QuantizeLinear", [name, *grid], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", *grid], [f"{name}_dq"]),
        ]

    nodes = [
        *pair("x"),
        helper.make_node("DequantizeLinear", ["w8", "scale", "zero"], ["w"]),
        helper.make_node("MatMul", ["x_dq", "w"], ["y"]),
        *pair("y"),
        helper.make_node("Relu", ["y_dq"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3])],
        constants,
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


def test_an_onnx_operator_between_conversions_is_in_integers(tmp_path: Path) -> None:
    quantized_onnx(path := tmp_path / "a.onnx")
    found = audit(engine_for(path).structure(path).operations)
    assert (found.macs, found.integer_macs, found.conversions) == (12, 12, 5)
    assert found.islands == (Island(operators=("Relu z",), macs=0),)


def test_weights_alone_are_no_integer_arithmetic(tmp_path: Path) -> None:
    quantized_onnx(path := tmp_path / "a.onnx")
    model = onnx.load(path)
    model.graph.node[3].input[0] = "x"
    onnx.save(model, path)
    found = audit(engine_for(path).structure(path).operations)
    assert (found.integer_macs, found.mixed_macs) == (0, 12)


def test_a_broken_promise_fails(
    folder: Path, few: Path, restate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    restate(folder, lambda f: replace(f, artifact=replace(f.artifact, margin_pt=50.0)))
    assert {a.verdict for a in verify(folder, str(few)).artifacts} == {"PASS"}
    restate(folder, lambda f: replace(f, artifact=replace(f.artifact, integers=WHOLE)))
    results = verify(folder, str(few)).artifacts
    assert [a.verdict for a in results] == ["FAIL", "PASS", "FAIL", "FAIL"]
    assert results[0].reason.startswith("0 of 6 operators and 0 of 53,472 multiply-acc")
    assert results[1].audit is not None
    assert results[1].audit.integer_macs == 53_472
    assert main(["inspect", str(folder / "separable.int8.tflite")]) == 0
    assert (
        "integers   6 of 6 operators, 53,472 of 53,472 multiply-accumulates; 0 conversions\n"
        in capsys.readouterr().out
    )


def test_a_single_number_has_no_shape() -> None:
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1], [2]
    tensors = []
    for shape in (None, [1, 3], [1, 3]):
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = shape, schema.TensorType.FLOAT32, 0
        tensor.name = b"t"
        tensors.append(tensor)
    found = tflite_operations._describe("MUL", operator, "0", tensors, [False])
    assert (found.macs, found.arithmetic) == (0, Arithmetic.FLOAT)

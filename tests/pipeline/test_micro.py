"""TensorFlow Lite Micro against LiteRT's reference kernels, an operator at a time."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

import hemline
from hemline.engines.tflite_operations import read_operations
from hemline.errors import ModelFileError
from hemline.golden import draw_inputs

runtime = pytest.importorskip(
    "tflite_micro.python.tflite_micro.runtime", reason="tflite-micro is for Linux on x86-64"
)

RELEASED = Path(__file__).parents[2] / "artifacts" / "fashion_mnist"


@pytest.mark.parametrize("name", ["cnn", "gru"])
def test_where_inputs_are_equal_only_dense_layers_round_otherwise(name: str) -> None:
    """Of LiteRT's reference kernels; in a recurrence such a step is carried on."""
    path = RELEASED / name / f"{name}.int8.tflite"
    values: Counter[str] = Counter()
    differ: Counter[str] = Counter()
    furthest = 0
    for litert, micro in run_both(path):
        for kind, sources, results in list_operators(path):
            if any((litert[i] != micro[i]).any() for i in sources):
                continue
            for i in results:
                change = np.abs(litert[i].astype(int) - micro[i])
                values[kind] += change.size
                differ[kind] += int((change > 0).sum())
                furthest = max(furthest, int(change.max()))
    assert set(values) == {operation.kind for operation in read_operations(path.read_bytes())}
    assert {kind for kind, count in differ.items() if count} <= {"FULLY_CONNECTED"}
    assert differ["FULLY_CONNECTED"] < values["FULLY_CONNECTED"] / 1000
    assert furthest <= 1


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("cnn/cnn.dynamic.tflite", r"Hybrid models are not supported.*Node CONV_2D"),
        ("gru/gru.dynamic.tflite", r"FLOAT32 with filter type: INT8.*Node FULLY_CONNECTED"),
        ("cnn/cnn.float16.tflite", r"input->type == kTfLiteInt8.*Node DEQUANTIZE"),
    ],
)
def test_weights_alone_in_fewer_bits_are_refused(file: str, reason: str) -> None:
    with pytest.raises(ModelFileError, match=f"TensorFlow Lite Micro refuses .*{reason}"):
        hemline.load(RELEASED / file, engine="micro")


def list_operators(path: Path) -> list[tuple[str, list[int], list[int]]]:
    """Each operator's kind, and the numbers of the tensors that it takes and makes."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs
    constant = {i for i, t in enumerate(graph.tensors) if model.buffers[t.buffer].data is not None}
    kinds = [operation.kind for operation in read_operations(path.read_bytes())]
    return [
        (kind, [i for i in one.inputs if i >= 0 and i not in constant], list(one.outputs))
        for kind, one in zip(kinds, graph.operators, strict=True)
    ]


def run_both(path: Path) -> Any:
    """Yields, for each golden input, every tensor in LiteRT and in TensorFlow Lite Micro."""
    content = path.read_bytes()
    litert = Interpreter(
        model_content=content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    litert.allocate_tensors()
    micro = runtime.Interpreter.from_bytes(
        content,
        arena_size=1 << 24,
        intrepreter_config=runtime.InterpreterConfig.kPreserveAllTensors,
    )
    numbers = {i for _, sources, results in list_operators(path) for i in (*sources, *results)}
    model = hemline.load(path)
    for image in draw_inputs(model.require_facts().input):
        tensor = model.tensor(image)
        litert.set_tensor(litert.get_input_details()[0]["index"], tensor)
        litert.invoke()
        micro.set_input(tensor, 0)
        micro.invoke()
        found: dict[int, NDArray[Any]] = {i: litert.get_tensor(i) for i in numbers}
        yield (
            found,
            {
                i: micro.GetTensor(i, 0)["tensor_data"].reshape(tensor.shape)
                for i, tensor in found.items()
            },
        )

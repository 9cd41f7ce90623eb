import os
import re
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import hemline
from hemline.cli import main
from hemline.errors import ModelFileError
from hemline.inspection import inspect
from hemline_export.backend import tensorflow

runtime = pytest.importorskip(
    "tflite_micro.python.tflite_micro.runtime", reason="tflite-micro is for Linux on x86-64"
)

from hemline.engines.micro import MicroEngine  # noqa: E402 - needs tflite-micro

INT8 = "separable.int8.tflite"


def test_it_predicts_as_the_reference_kernels_of_litert_do(exported: Path, few: Path) -> None:
    with np.load(few) as data:
        images = data["images"][:50]
    micro = hemline.load(exported / INT8, engine="micro")
    assert micro.info.engine == "micro"
    assert micro.info.engine_version.startswith("0.")
    assert micro.info.inputs == hemline.load(exported / INT8).info.inputs
    found = micro.predict(images).probabilities
    reference = Interpreter(
        model_content=(exported / INT8).read_bytes(),
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
    )
    reference.allocate_tensors()
    (source,), (result,) = reference.get_input_details(), reference.get_output_details()
    expected = []
    for image in images:
        reference.set_tensor(source["index"], micro.tensor(image))
        reference.invoke()
        scale, zero = result["quantization"]
        integers = reference.get_tensor(result["index"])[0].astype(np.float32)
        expected.append((integers - zero) * np.float32(scale))
    # A dense layer rounds less than one value in 1,000 otherwise, by a step: see
    # tests/pipeline/test_micro.py. That is so of ten logits in each row, of which one step moves a
    # probability by a quarter of it at most, two by a half, and the output's own grid by 1/256.
    (graph,) = schema.ModelT.InitFromPackedBuf((exported / INT8).read_bytes(), 0).subgraphs
    step = float(graph.tensors[graph.operators[-1].inputs[0]].quantization.scale[0])
    changes = np.abs(found - np.stack(expected)).max(axis=1)
    assert (changes == 0).mean() > 0.9
    assert changes.max() <= step / 2 + 1 / 256


def test_a_prediction_is_not_changed_by_the_next(exported: Path) -> None:
    engine = MicroEngine(exported / INT8, threads=1)
    dark, light = (np.full((1, 28, 28, 1), value, np.int8) for value in (-128, 100))
    first = engine.run(dark)
    kept = first.copy()
    assert (engine.run(light) != kept).any()
    assert (first == kept).all()


def test_the_arena_is_exact(exported: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = (exported / INT8).read_bytes()
    arena = MicroEngine(exported / INT8, threads=1).arena_bytes()
    assert arena % 16 == 0
    assert arena > 2 * 28 * 28
    assert "Arena" not in capfd.readouterr().err
    runtime.Interpreter.from_bytes(content, arena_size=arena).invoke()
    with pytest.raises(RuntimeError, match="failed to allocate"):
        runtime.Interpreter.from_bytes(content, arena_size=arena - 16)


def save_tflite(path: Path, function: object, *shape: int | None, dtype: str = "float32") -> Path:
    spec = tensorflow.TensorSpec(shape, dtype, "x")
    traced = tensorflow.function(function, input_signature=[spec])
    converter = tensorflow.lite.TFLiteConverter.from_concrete_functions(
        [traced.get_concrete_function()], traced
    )
    saved = os.dup(2)
    with path.with_suffix(".log").open("wb") as log:
        os.dup2(log.fileno(), 2)
        try:
            path.write_bytes(converter.convert())
        finally:
            os.dup2(saved, 2)
            os.close(saved)
    return path


def test_an_operator_that_it_lacks_is_named(tmp_path: Path) -> None:
    path = save_tflite(tmp_path / "diag.tflite", tensorflow.linalg.diag, 2, 3)
    with pytest.raises(
        ModelFileError, match=r"TensorFlow Lite Micro refuses .*diag\.tflite: .*MATRIX_DIAG"
    ):
        MicroEngine(path, threads=1)


def test_open_shapes_are_refused(tmp_path: Path) -> None:
    path = save_tflite(tmp_path / "open.tflite", lambda x: x + 1.0, 3, None)
    with pytest.raises(ModelFileError, match="takes fixed shapes only, and that of the input x"):
        MicroEngine(path, threads=1)


def test_an_open_batch_is_of_one_sample(tmp_path: Path) -> None:
    """As TensorFlow Lite Micro reads what converters make of a Keras model by default."""
    path = save_tflite(
        tmp_path / "batch.tflite", lambda x: tensorflow.reshape(x, (-1, 6)) + 1.0, None, 2, 3
    )
    assert hemline.load(path).info.inputs[0].shape == (None, 2, 3)
    model = hemline.load(path, engine="micro")
    (source,), (result,) = model.info.inputs, model.info.outputs
    assert (source.shape, result.shape) == ((1, 2, 3), (1, 6))
    found = model.run(np.arange(6, dtype=np.float32).reshape(1, 2, 3))
    assert found.tolist() == [[1, 2, 3, 4, 5, 6]]


def test_inspect_says_whether_a_file_runs(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspect(exported / INT8).micro
    assert found is not None
    assert found.arena_bytes == MicroEngine(exported / INT8, threads=1).arena_bytes()
    assert found.reason is None
    assert main(["inspect", str(exported / INT8)]) == 0
    line = f"runs in TensorFlow Lite Micro, in an arena of {found.arena_bytes:,} bytes here"
    assert f"micro      {line}" in capsys.readouterr().out.splitlines()
    path = save_tflite(tmp_path / "open.tflite", lambda x: x + 1.0, 3, None)
    found = inspect(path).micro
    assert found is not None
    assert found.arena_bytes is None
    assert "fixed shapes only" in str(found.reason)
    assert main(["inspect", str(path)]) == 0
    assert re.search(r"^micro +.*fixed shapes only", capsys.readouterr().out, re.MULTILINE)
    assert inspect(exported / "separable.float32.onnx").micro is None

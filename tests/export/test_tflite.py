from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from hemline.engines.litert import LiteRTBuiltinEngine, LiteRTEngine
from hemline.errors import ExportError
from hemline_export import tflite
from hemline_export.backend import keras, tensorflow
from hemline_export.freeze import freeze
from hemline_export.tflite import (
    dynamic_tflite_from_frozen,
    embed_facts,
    float16_tflite_from_frozen,
    int8_tflite_from_frozen,
    int16x8_tflite_from_frozen,
    tflite_from_frozen,
)

layers = keras.layers


def freeze_stack(*stack: Any) -> Any:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((8, 8, 1)), *stack])
    return model, freeze(model, input_name="image", output_name="probabilities")


@pytest.fixture(scope="module")
def small() -> Any:
    return freeze_stack(
        layers.Conv2D(4, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    )


@pytest.fixture(scope="module")
def calibration() -> Any:
    return np.random.default_rng(0).random((20, 8, 8, 1), np.float32)


def open_content(content: bytes, folder: Path) -> LiteRTEngine:
    path = folder / "m.tflite"
    path.write_bytes(content)
    return LiteRTEngine(path, threads=1)


def test_float32_is_the_keras_model_with_named_ends(small: Any, tmp_path: Path) -> None:
    model, frozen = small
    engine = open_content(tflite_from_frozen(frozen), tmp_path)
    assert (engine.inputs[0].name, engine.outputs[0].name) == ("image", "probabilities")
    assert (engine.inputs[0].dtype, engine.inputs[0].shape) == ("float32", (1, 8, 8, 1))
    sample = np.random.default_rng(1).random((1, 8, 8, 1), np.float32)
    np.testing.assert_allclose(engine.run(sample), np.asarray(model(sample)), atol=1e-6)


def test_int8_is_integers_from_end_to_end(small: Any, calibration: Any, tmp_path: Path) -> None:
    content = int8_tflite_from_frozen(small[1], calibration)
    engine = open_content(content, tmp_path)
    assert (engine.inputs[0].dtype, engine.outputs[0].dtype) == ("int8", "int8")
    assert (engine.inputs[0].name, engine.outputs[0].name) == ("image", "probabilities")
    kinds = {t.type for t in schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0].tensors}
    assert kinds <= {schema.TensorType.INT8, schema.TensorType.INT32}


def count_types(content: bytes) -> dict[int, int]:
    """How many tensors of a file with at least 1,024 elements are of each type."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    large = [t for t in model.subgraphs[0].tensors if np.prod(t.shape) >= 1024]
    return Counter(tensor.type for tensor in large)


def test_int16x8_is_integers_from_end_to_end(small: Any, calibration: Any, tmp_path: Path) -> None:
    content = int16x8_tflite_from_frozen(small[1], calibration)
    engine = open_content(content, tmp_path)
    assert (engine.inputs[0].dtype, engine.outputs[0].dtype) == ("int16", "int16")
    assert engine.inputs[0].quantization is not None
    assert engine.inputs[0].quantization.zero_point == 0
    kinds = {t.type for t in schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0].tensors}
    types = schema.TensorType
    assert kinds <= {types.INT8, types.INT16, types.INT32, types.INT64}
    # XNNPACK takes no int16, so that a second run without it is no second opinion.
    tensor = np.random.default_rng(1).integers(0, 2**15, (1, 8, 8, 1)).astype(np.int16)
    other = LiteRTBuiltinEngine(tmp_path / "m.tflite", threads=1)
    np.testing.assert_array_equal(other.run(tensor), engine.run(tensor))


@pytest.mark.parametrize(
    ("convert", "weights", "tolerance"),
    [
        (float16_tflite_from_frozen, schema.TensorType.FLOAT16, 1e-3),
        (dynamic_tflite_from_frozen, schema.TensorType.INT8, 0.02),
    ],
)
def test_weight_recipes_keep_float_ends(
    convert: Any, weights: int, tolerance: float, tmp_path: Path
) -> None:
    model, frozen = freeze_stack(
        layers.Conv2D(30, 3, activation="relu"),
        layers.Flatten(),
        layers.Dense(4, activation="softmax"),
    )
    content = convert(frozen)
    engine = open_content(content, tmp_path)
    assert (engine.inputs[0].dtype, engine.outputs[0].dtype) == ("float32", "float32")
    assert count_types(content)[weights] == 1
    sample = np.random.default_rng(1).random((1, 8, 8, 1), np.float32)
    change = np.abs(engine.run(sample) - np.asarray(model(sample))).max()
    assert 0 < change < tolerance


def test_both_files_carry_the_serving_default_signature(small: Any, calibration: Any) -> None:
    for content in (
        tflite_from_frozen(small[1]),
        int8_tflite_from_frozen(small[1], calibration),
    ):
        (signature,) = schema.ModelT.InitFromPackedBuf(content, 0).signatureDefs
        assert signature.signatureKey == b"serving_default"
        assert [tensor.name for tensor in signature.inputs] == [b"image"]
        assert [tensor.name for tensor in signature.outputs] == [b"probabilities"]


class Sine(layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        return keras.ops.sin(inputs)


class Bessel(layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        return tensorflow.math.bessel_i0(inputs)


@pytest.mark.parametrize("convert", [int8_tflite_from_frozen, int16x8_tflite_from_frozen])
def test_an_operator_without_integers_is_refused_by_its_layer(
    convert: Any, calibration: Any
) -> None:
    _, frozen = freeze_stack(
        Sine(name="wave"), layers.Flatten(), layers.Dense(3, activation="softmax")
    )
    tflite_from_frozen(frozen)
    with pytest.raises(ExportError, match=r"TFLite int\w+: .*: layer wave: SIN has no integer"):
        convert(frozen, calibration)


def test_an_operator_outside_the_builtin_ones_is_refused_by_its_layer() -> None:
    _, frozen = freeze_stack(Bessel(name="ball"), layers.Flatten(), layers.Dense(3))
    with pytest.raises(ExportError, match=r"TFLite float32: .*: layer ball: BesselI0 is none of"):
        tflite_from_frozen(frozen)


def test_embedding_facts_changes_nothing_else(small: Any, calibration: Any, tmp_path: Path) -> None:
    content = int8_tflite_from_frozen(small[1], calibration)
    embedded = embed_facts(content, b'{"schema": "x"}')
    before, after = open_content(content, tmp_path), open_content(embedded, tmp_path)
    assert before.embedded_facts() is None
    assert after.embedded_facts() == b'{"schema": "x"}'
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    tensor = np.random.default_rng(4).integers(-128, 128, (1, 8, 8, 1), np.int8)
    np.testing.assert_array_equal(after.run(tensor), before.run(tensor))


def test_facts_embedded_again_replace_the_first(small: Any, tmp_path: Path) -> None:
    once = embed_facts(tflite_from_frozen(small[1]), b'{"schema": "first"}')
    twice = embed_facts(once, b'{"schema": "second"}')
    assert open_content(twice, tmp_path).embedded_facts() == b'{"schema": "second"}'
    assert b"first" not in twice


def test_embedding_keeps_constants_aligned_for_microcontrollers(small: Any) -> None:
    embedded = embed_facts(tflite_from_frozen(small[1]), b"facts")
    model = schema.Model.GetRootAs(embedded, 0)
    offsets = [
        model.Buffers(i)._tab.Vector(model.Buffers(i)._tab.Offset(4))
        for i in range(model.BuffersLength())
        if model.Buffers(i).DataLength()
    ]
    assert len(offsets) > 4
    assert {offset % 16 for offset in offsets} == {0}


def test_fused_tensor_names_are_cut_to_the_first(small: Any) -> None:
    embedded = embed_facts(tflite_from_frozen(small[1]), b"facts")
    names = [t.name for t in schema.ModelT.InitFromPackedBuf(embedded, 0).subgraphs[0].tensors]
    assert all(names)
    assert not any(b";" in name for name in names)


def test_tensors_without_content_share_the_empty_buffer(small: Any, calibration: Any) -> None:
    content = int8_tflite_from_frozen(small[1], calibration)
    before, after = (
        schema.ModelT.InitFromPackedBuf(c, 0) for c in (content, embed_facts(content, b"facts"))
    )
    assert sum(buffer.data is None for buffer in before.buffers) > 4
    assert [i for i, buffer in enumerate(after.buffers) if buffer.data is None] == [0]
    for old, new in zip(before.subgraphs[0].tensors, after.subgraphs[0].tensors, strict=True):
        contents = before.buffers[old.buffer].data, after.buffers[new.buffer].data
        np.testing.assert_array_equal(*contents)


def test_a_bias_on_another_grid_is_refused(small: Any, calibration: Any) -> None:
    _, frozen = small
    content = int8_tflite_from_frozen(frozen, calibration)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    tflite._require_bias_grids(frozen, "int8", model)
    (graph,) = model.subgraphs
    bias = graph.tensors[graph.operators[0].inputs[2]]
    bias.quantization.scale = bias.quantization.scale * np.float32(1.01)
    with pytest.raises(ExportError, match=r"layer conv2d.*bias on another grid than its input's"):
        tflite._require_bias_grids(frozen, "int8", model)

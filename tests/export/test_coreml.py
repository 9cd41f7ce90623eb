from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemline.engines.coreml import CoreMLEngine
from hemline.engines.coreml_reference import CoreMLReferenceEngine
from hemline.files import sha256
from hemline_export.backend import coremltools, keras
from hemline_export.coreml import (
    coreml_from_frozen,
    embed_facts,
    palettize_weights,
    quantize_weights,
    write_package,
)
from hemline_export.freeze import freeze
from hemline_export.recurrent import unroll_recurrent

layers = keras.layers
LABELS = ("zebra", "ant", "cow")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [keras.Input((6, 4)), layers.GRU(5), layers.Dense(3, activation="softmax")]
    )
    frozen = freeze(unroll_recurrent(model), input_name="rows", output_name="probabilities")
    path = tmp_path_factory.mktemp("coreml") / "m.float16.mlpackage"
    write_package(path, coreml_from_frozen(frozen, LABELS))
    embed_facts(path, b"{}")
    return path


def read_spec(package: Path) -> Any:
    return coremltools.models.MLModel(str(package), skip_model_load=True).get_spec()


def test_it_is_an_ml_program_for_macos_13(package: Path) -> None:
    spec = read_spec(package)
    assert spec.WhichOneof("Type") == "mlProgram"
    assert spec.specificationVersion == 7
    assert list(spec.mlProgram.functions["main"].block_specializations) == ["CoreML6"]


def test_all_but_the_probabilities_is_float16(package: Path) -> None:
    main = read_spec(package).mlProgram.functions["main"]
    operations = main.block_specializations["CoreML6"].operations
    float32 = coremltools.proto.MIL_pb2.FLOAT32
    floats = [
        op.type
        for op in operations
        for output in op.outputs
        if output.type.tensorType.dataType == float32 and op.type != "const"
    ]
    assert floats == ["cast"]
    assert not any(op.type in ("while_loop", "gru") for op in operations)


def test_the_structure_names_ends_and_labels_in_order(package: Path) -> None:
    structure = CoreMLEngine.structure(package)
    assert (structure.inputs[0].name, structure.inputs[0].shape) == ("rows", (1, 6, 4))
    assert structure.inputs[0].dtype == "float16"
    assert structure.outputs[0].shape == (1, 3)
    assert structure.embedded_facts == CoreMLEngine.read_facts(package) == b"{}"
    spec = read_spec(package)
    assert spec.description.predictedFeatureName == "classLabel"
    (classify,) = [
        op
        for op in spec.mlProgram.functions["main"].block_specializations["CoreML6"].operations
        if op.type == "classify"
    ]
    values = classify.inputs["classes"].arguments[0].value.immediateValue.list.values
    assert tuple(v.immediateValue.tensor.strings.values[0] for v in values) == LABELS


def test_without_labels_it_gives_an_array_under_the_name_of_all_files(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((6, 6, 1)), layers.Conv2D(2, 3), layers.ReLU()])
    frozen = freeze(model, input_name="image", output_name="values")
    path = tmp_path / "m.float16.mlpackage"
    write_package(path, coreml_from_frozen(frozen, ()))
    structure = CoreMLEngine.structure(path)
    assert (structure.outputs[0].name, structure.outputs[0].shape) == ("values", (1, 4, 4, 2))
    assert (structure.inputs[0].dtype, structure.outputs[0].dtype) == ("float16", "float16")
    assert "classify" not in structure.operators


@pytest.fixture(scope="module")
def large() -> Any:
    """A model with one weight of 16 × 200 elements, and two smaller ones."""
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Flatten(),
            layers.Dense(200),
            layers.Dense(3, activation="softmax"),
        ]
    )
    frozen = freeze(model, input_name="image", output_name="probabilities")
    return model, coreml_from_frozen(frozen, LABELS)


@pytest.mark.parametrize(
    ("compress", "operation", "bits", "tolerance"),
    [
        (quantize_weights, "constexpr_affine_dequantize", 8, 0.004),
        (palettize_weights, "constexpr_lut_to_dense", 4, 0.05),
    ],
)
def test_compressed_weights_are_the_float_ones_nearly(
    large: Any, compress: Any, operation: str, bits: int, tolerance: float, tmp_path: Path
) -> None:
    model, converted = large
    path = tmp_path / "m.mlpackage"
    compressed, settings = compress(converted)
    write_package(path, compressed)
    assert settings == {
        "compression": "weights only, arithmetic in float16",
        "threshold_elements": "2048",
    }
    assert CoreMLEngine.structure(path).operators[operation] == 1
    weights = path / "Data/com.apple.CoreML/weights/weight.bin"
    assert weights.stat().st_size < 16 * 200 * bits / 8 + 3_000
    sample = np.random.default_rng(1).random((5, 4, 4, 1), np.float32)
    found = CoreMLReferenceEngine(path, threads=1).run(sample.astype(np.float16))
    change = np.abs(found - np.asarray(model(sample))).max()
    assert 0 < change < tolerance


@pytest.mark.parametrize("compress", [quantize_weights, palettize_weights])
def test_the_same_model_gives_the_same_bytes(large: Any, compress: Any, tmp_path: Path) -> None:
    paths = [tmp_path / name / "m.mlpackage" for name in "ab"]
    for path in paths:
        write_package(path, compress(large[1])[0])
    assert sha256(paths[0]) == sha256(paths[1])


def test_the_largest_weight_is_compressed_where_all_are_small(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(9), layers.Dense(3, "softmax")])
    frozen = freeze(model, input_name="x", output_name="probabilities")
    compressed, settings = quantize_weights(coreml_from_frozen(frozen, LABELS))
    write_package(tmp_path / "m.mlpackage", compressed)
    operators = CoreMLEngine.structure(tmp_path / "m.mlpackage").operators
    assert operators["constexpr_affine_dequantize"] == 1
    assert settings["threshold_elements"] == "35"

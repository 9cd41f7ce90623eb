from pathlib import Path
from typing import Any

import pytest

from hemline.engines.coreml import CoreMLEngine
from hemline_export.backend import coremltools, keras
from hemline_export.coreml import coreml_from_frozen, embed_facts, write_package
from hemline_export.freeze import freeze
from hemline_export.recurrent import unroll_gru

layers = keras.layers
LABELS = ("zebra", "ant", "cow")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [keras.Input((6, 4)), layers.GRU(5), layers.Dense(3, activation="softmax")]
    )
    frozen = freeze(unroll_gru(model), input_name="rows", output_name="probabilities")
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
    assert (structure.input.name, structure.input.shape) == ("rows", (1, 6, 4))
    assert structure.input.dtype == "float16"
    assert structure.output.shape == (1, 3)
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
    assert (structure.output.name, structure.output.shape) == ("values", (1, 4, 4, 2))
    assert (structure.input.dtype, structure.output.dtype) == ("float16", "float16")
    assert "classify" not in structure.operators

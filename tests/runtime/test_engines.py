import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import coremltools
import numpy as np
import onnx
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - its own short name
from numpy.typing import NDArray

import hemline
from hemline import engines
from hemline.engines import engine_for
from hemline.engines.base import require_one
from hemline.engines.coreml import CoreMLEngine
from hemline.engines.litert import LiteRTEngine
from hemline.engines.onnxruntime import ONNXRuntimeEngine
from hemline.errors import EngineUnavailableError, InputError, ModelFileError
from hemline.facts import QuantParams, TensorSpec
from hemline.quiet import quiet

IMAGE = TensorSpec(name="image", shape=(1, 28, 28, 1), dtype="float32")
PROBABILITIES = TensorSpec(name="probabilities", shape=(1, 10), dtype="float32")


@pytest.mark.parametrize(
    ("file", "name"),
    [("a.tflite", "litert"), ("a.b.onnx", "onnxruntime"), ("a.mlpackage", "coreml")],
)
def test_the_suffix_decides(file: str, name: str) -> None:
    assert engine_for(Path(file)).name == name


@pytest.mark.parametrize(
    ("module", "absent", "file", "message"),
    [
        (
            "hemline.engines.litert",
            ("ai_edge_litert", "ai_edge_litert.interpreter"),
            "separable.int8.tflite",
            r"LiteRT, which is not installed: pip install 'hemline\[litert\]'",
        ),
        (
            "hemline.engines.onnxruntime",
            ("onnxruntime",),
            "separable.float32.onnx",
            r"ONNX Runtime, which is not installed: pip install 'hemline\[onnx\]'",
        ),
    ],
)
def test_an_engine_that_is_not_installed(
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    absent: tuple[str, ...],
    file: str,
    message: str,
) -> None:
    monkeypatch.delitem(sys.modules, module)
    for name in absent:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineUnavailableError, match=message):
        hemline.load(exported / file)


def test_what_reads_a_file_may_be_missing(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineUnavailableError, match=r"needs onnx: pip install onnx"):
        ONNXRuntimeEngine.structure(exported / "separable.float32.onnx")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(EngineUnavailableError, match=r"needs coremltools.*pip install coremltools"):
        CoreMLEngine.structure(exported / "separable.float16.mlpackage")


def test_other_packages_add_engines(monkeypatch: pytest.MonkeyPatch, exported: Path) -> None:
    def plug_in(value: str) -> None:
        point = EntryPoint(name="keras", value=value, group=engines.ENTRY_POINTS)
        found = EntryPoints([point])
        monkeypatch.setattr(
            "importlib.metadata.entry_points", lambda **wanted: found.select(**wanted)
        )

    plug_in("hemline.engines.litert:LiteRTEngine")
    assert engine_for(Path("a.keras")) is LiteRTEngine
    with pytest.raises(ModelFileError, match=r"nothing runs files ending in '\.pt'"):
        engine_for(Path("a.pt"))
    plug_in("not_there_at_all:Engine")
    with pytest.raises(
        EngineUnavailableError,
        match=r"separable\.float\.keras needs not_there_at_all, which is not installed: "
        r"pip install 'hemline\[export\]'",
    ):
        hemline.load(exported / "separable.float.keras")


@pytest.mark.parametrize("file", ["separable.float32.tflite", "separable.float32.onnx"])
def test_the_border_of_a_float_file(exported: Path, file: str) -> None:
    engine = hemline.load(exported / file).engine
    assert engine.inputs[0] == IMAGE
    assert engine.outputs[0] == PROBABILITIES


def test_the_border_of_an_integer_file(exported: Path) -> None:
    engine = hemline.load(exported / "separable.int8.tflite").engine
    grid = engine.inputs[0].quantization
    assert grid is not None
    assert grid.scale == pytest.approx(1 / 255, rel=1e-3)
    assert grid.zero_point == -128
    assert engine.inputs[0] == replace(IMAGE, dtype="int8", quantization=grid)
    assert engine.outputs[0] == TensorSpec(
        name="probabilities",
        shape=(1, 10),
        dtype="int8",
        quantization=QuantParams(scale=1 / 256, zero_point=-128),
    )


def test_versions() -> None:
    assert LiteRTEngine.version() == version("ai-edge-litert")
    assert ONNXRuntimeEngine.version() == version("onnxruntime")
    assert CoreMLEngine.version() == version("coremltools")


def test_exactly_one() -> None:
    assert require_one(Path("a"), "input", [5]) == 5
    for found in ([], [1, 2]):
        with pytest.raises(ModelFileError, match=f"a has {len(found)} inputs, expected exactly"):
            require_one(Path("a"), "input", found)


def test_an_onnx_type_that_is_not_known(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [value("x", onnx.TensorProto.STRING, [1])],
        [value("y", onnx.TensorProto.STRING, [1])],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "a.onnx"
    )
    with pytest.raises(ModelFileError, match=r"a\.onnx: x is tensor\(string\), expected \["):
        hemline.load(tmp_path / "a.onnx")


def test_integers_add_up_on_every_processor(tmp_path: Path) -> None:
    """Eight products of 1 and 1, all on grids of 127 steps: in 16 bits the sum would overflow."""
    grids = {"w8": np.full((8, 3), 127, np.int8), "zero": np.int8(0)}
    grids |= {"step": np.float32(1 / 127), "wide": np.float32(8 / 127)}
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info

    def pair(name: str, step: str) -> list[Any]:
        return [
            make("QuantizeLinear", [name, step, "zero"], [f"{name}_q"]),
            make("DequantizeLinear", [f"{name}_q", step, "zero"], [f"{name}_dq"]),
        ]

    graph = onnx.helper.make_graph(
        [
            *pair("x", "step"),
            make("DequantizeLinear", ["w8", "step", "zero"], ["w"]),
            make("MatMul", ["x_dq", "w"], ["y"]),
            *pair("y", "wide"),
        ],
        "g",
        [value("x", onnx.TensorProto.FLOAT, [1, 8])],
        [value("y_dq", onnx.TensorProto.FLOAT, [1, 3])],
        [onnx.numpy_helper.from_array(grid, name) for name, grid in grids.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    path = tmp_path / "a.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    found = ONNXRuntimeEngine(path, threads=1).run(np.ones((1, 8), np.float32))
    assert found.tolist() == [[8.0, 8.0, 8.0]]


class Mac:
    """Core ML as coremltools shows it on a Mac: reads the real package, predicts a fixed answer."""

    opened: list[dict[str, Any]]
    fed: list[Mapping[str, NDArray[Any]]]

    def __init__(self, labels: tuple[str, ...]) -> None:
        real = coremltools.models.MLModel
        self.opened, self.fed = [], []
        mac = self

        class MLModel:
            def __init__(self, path: str, **options: Any) -> None:
                mac.opened.append(options)
                self._real = real(path, skip_model_load=True)
                self.user_defined_metadata = self._real.user_defined_metadata

            def get_spec(self) -> Any:
                return self._real.get_spec()

            def get_compiled_model_path(self) -> str:
                return "/tmp/compiled.mlmodelc"

            def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
                mac.fed.append(inputs)
                # A dictionary's order says nothing: backwards here.
                answer = {label: (i + 1) / 100 for i, label in enumerate(labels)}
                return {
                    "classLabel": labels[-1],
                    "classLabel_probs": dict(reversed(answer.items())),
                }

        self.model = MLModel


@pytest.fixture
def mac(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Mac:
    facts = hemline.load(exported / "separable.int8.tflite").facts
    assert facts is not None
    fake = Mac(facts.labels)
    monkeypatch.setattr("hemline.engines.coreml.sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(coremltools.models, "MLModel", fake.model)
    return fake


def test_core_ml_on_a_mac(exported: Path, mac: Mac) -> None:
    package = exported / "separable.float16.mlpackage"
    engine = CoreMLEngine(package, threads=1)
    assert mac.opened == [
        {"compute_units": coremltools.ComputeUnit.CPU_AND_NE, "skip_model_load": False}
    ]
    assert engine.inputs[0] == TensorSpec(name="image", shape=(1, 28, 28, 1), dtype="float16")
    assert engine.outputs[0] == TensorSpec(name="classLabel_probs", shape=(1, 10), dtype="float32")
    tensor = np.zeros((1, 28, 28, 1), np.float16)
    output = engine.run(tensor)
    assert (output.dtype, output.shape) == (np.float32, (1, 10))
    expected = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1]
    assert output.tolist() == [np.array(expected, np.float32).tolist()]
    assert [list(inputs) for inputs in mac.fed] == [["image"]]
    assert mac.fed[0]["image"] is tensor


@pytest.mark.parametrize("units", ["CPU_AND_NE", "ALL", "CPU_ONLY", "CPU_AND_GPU"])
def test_the_compute_units_are_handed_on(exported: Path, mac: Mac, units: str) -> None:
    model = hemline.load(exported / "separable.float16.mlpackage", compute_units=units)
    assert mac.opened == [
        {"compute_units": coremltools.ComputeUnit[units], "skip_model_load": False}
    ]
    assert isinstance(model.engine, CoreMLEngine)
    assert model.engine.compiled_path() == "/tmp/compiled.mlmodelc"


def test_the_compute_units_are_all_that_coremltools_knows() -> None:
    assert set(CoreMLEngine.compute_units) == {unit.name for unit in coremltools.ComputeUnit}
    assert CoreMLEngine.compute_units[0] == "CPU_AND_NE"


def test_compute_units_that_there_are_not(exported: Path, mac: Mac) -> None:
    with pytest.raises(
        InputError,
        match=r"compute units 'NPU': expected one of CPU_AND_NE, ALL, CPU_ONLY, CPU_AND_GPU",
    ):
        hemline.load(exported / "separable.float16.mlpackage", compute_units="NPU")
    assert mac.opened == []
    with pytest.raises(
        InputError, match=r"compute units 'ALL': litert, which runs this file, has no choice"
    ):
        hemline.load(exported / "separable.int8.tflite", compute_units="ALL")


def test_a_core_ml_package_predicts(exported: Path, mac: Mac) -> None:
    model = hemline.load(exported / "separable.float16.mlpackage")
    images = np.zeros((2, 28, 28), np.uint8)
    images[1] = 255
    prediction = model.predict(images)
    assert prediction.labels == ["Ankle boot", "Ankle boot"]
    assert prediction.probabilities.shape == (2, 10)
    fed = [inputs["image"] for inputs in mac.fed]
    assert [(tensor.shape, tensor.dtype) for tensor in fed] == [
        ((1, 28, 28, 1), np.float16),
        ((1, 28, 28, 1), np.float16),
    ]
    assert [float(tensor.max()) for tensor in fed] == [0.0, 1.0]


def test_a_core_ml_package_away_from_its_manifest(folder: Path, tmp_path: Path, mac: Mac) -> None:
    package = (folder / "separable.float16.mlpackage").rename(tmp_path / "away.mlpackage")
    model = hemline.load(package, trust=True)
    assert model.facts is not None
    assert model.facts.model == "separable"
    assert len(mac.opened) == 1


@pytest.fixture(scope="module")
def foreign_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package as another tool makes them: an image and an array in, two arrays out."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3, 8, 6)), mb.TensorSpec(shape=(2,))])
    def program(image: Any, bias: Any) -> Any:
        return mb.reduce_mean(x=image, axes=[2, 3], name="mean"), mb.add(x=bias, y=1.0, name="sum")

    path = tmp_path_factory.mktemp("foreign") / "foreign.mlpackage"
    inputs = [
        coremltools.ImageType(name="image", shape=(1, 3, 8, 6)),
        coremltools.TensorType(name="bias", shape=(2,)),
    ]
    with quiet():
        coremltools.convert(
            program,
            inputs=inputs,
            skip_model_load=True,
            minimum_deployment_target=coremltools.target.macOS13,
        ).save(str(path))
    return path


def test_a_core_ml_package_made_elsewhere(
    foreign_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    structure = CoreMLEngine.structure(foreign_package)
    assert structure.inputs == (
        TensorSpec(name="image", shape=(8, 6, 3), dtype="uint8"),
        TensorSpec(name="bias", shape=(2,), dtype="float32"),
    )
    assert [spec.name for spec in structure.outputs] == ["mean", "sum"]
    assert structure.embedded_facts is None
    fed: list[Mapping[str, Any]] = []

    def predict(_: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        fed.append(inputs)
        return {"sum": [2.0, 3.0], "mean": np.ones((1, 3), np.float32)}

    mac = Mac(())
    monkeypatch.setattr(mac.model, "predict", predict)
    monkeypatch.setattr("hemline.engines.coreml.sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(coremltools.models, "MLModel", mac.model)
    pixels = np.arange(144, dtype=np.uint8).reshape(8, 6, 3)
    model = hemline.load(foreign_package, trust=True)
    found = model.run_all({"bias": np.zeros(2, np.float32), "image": pixels})
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "mean": [[1.0, 1.0, 1.0]],
        "sum": [2.0, 3.0],
    }
    image = fed[0]["image"]
    assert (image.mode, image.size) == ("RGB", (6, 8))
    assert (np.asarray(image) == pixels).all()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(EngineUnavailableError, match=r"need Pillow.*hemline\[images\]"):
        model.run_all({"bias": np.zeros(2, np.float32), "image": pixels})


def test_a_package_that_is_no_ml_program(foreign_package: Path, tmp_path: Path) -> None:
    spec = coremltools.models.MLModel(str(foreign_package), skip_model_load=True).get_spec()
    spec.ClearField("mlProgram")
    spec.neuralNetwork.SetInParent()
    path = tmp_path / "old.mlpackage"
    with quiet():
        coremltools.models.utils.save_spec(spec, str(path))
    with pytest.raises(ModelFileError, match=r"type neuralNetwork, expected an mlProgram"):
        CoreMLEngine.structure(path)


def test_a_folder_that_is_no_core_ml_package(tmp_path: Path) -> None:
    (tmp_path / "a.mlpackage").mkdir()
    with pytest.raises(ModelFileError, match=r"a\.mlpackage is no valid Core ML package: \S"):
        CoreMLEngine.structure(tmp_path / "a.mlpackage")


def test_the_facts_of_a_damaged_package(exported: Path, tmp_path: Path) -> None:
    package = tmp_path / "a.mlpackage"
    with pytest.raises(ModelFileError, match=r"cannot read .*a\.mlpackage.Manifest\.json: No"):
        CoreMLEngine.read_facts(package)
    shutil.copytree(exported / "separable.float16.mlpackage", package)
    spec = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    content = spec.read_bytes()
    for damaged in (content[:7], b"\xff" * 30, b"\x0f" + content, b"\x80"):
        spec.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="is no valid Core ML package"):
            CoreMLEngine.read_facts(package)
    spec.write_bytes(content.replace(b"hemline.facts", b"another.facts"))
    assert CoreMLEngine.read_facts(package) is None
    spec.write_bytes(content)
    (package / "Manifest.json").write_text("[]")
    with pytest.raises(ModelFileError, match="is no valid Core ML package: TypeError"):
        CoreMLEngine.read_facts(package)

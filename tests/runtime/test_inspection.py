import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from hemline.coreml.plan import ComputePlan, OpPlacement
from hemline.documents import encode
from hemline.errors import ManifestError, ModelFileError
from hemline.files import sha256
from hemline.inspection import SCHEMA, CoreMLOutlook, describe_core_ml, inspect


@pytest.mark.parametrize(
    ("file", "engine", "input_dtype", "operators"),
    [
        (
            "separable.int8.tflite",
            "litert",
            "int8",
            {
                "CONV_2D": 2,
                "DEPTHWISE_CONV_2D": 1,
                "FULLY_CONNECTED": 1,
                "MEAN": 1,
                "SOFTMAX": 1,
            },
        ),
        ("separable.float32.tflite", "litert", "float32", {"CONV_2D": 2, "SOFTMAX": 1}),
        ("separable.float32.onnx", "onnxruntime", "float32", {"Conv": 3, "Softmax": 1}),
        ("separable.float16.mlpackage", "coreml", "float16", {"conv": 3, "classify": 1}),
    ],
)
def test_every_kind_of_file(
    exported: Path, file: str, engine: str, input_dtype: str, operators: dict[str, int]
) -> None:
    found = inspect(exported / file)
    assert (found.file, found.engine, found.manifest) == (file, engine, "matches")
    assert found.sha256 == sha256(exported / file)
    assert (found.inputs[0].name, found.inputs[0].dtype) == ("image", input_dtype)
    assert found.inputs[0].shape == (1, 28, 28, 1)
    assert found.outputs[0].shape == (1, 10)
    assert {name: found.operators[name] for name in operators} == operators
    if file.endswith("int8.tflite"):
        assert dict(found.operators) == operators
        assert found.inputs[0].quantization is not None
        assert found.outputs[0].quantization is not None
    assert found.facts is not None
    assert found.facts.model.labels[0] == "T-shirt/top"
    assert f"separable.{found.facts.artifact.recipe}." in file
    assert encode(SCHEMA, found).startswith(b'{\n "schema": "hemline.inspect/2",\n "file": "sep')


def test_sizes(exported: Path) -> None:
    path = exported / "separable.float32.onnx"
    assert inspect(path).size_bytes == path.stat().st_size
    package = exported / "separable.float16.mlpackage"
    files = [file for file in package.rglob("*") if file.is_file()]
    assert len(files) > 1
    assert inspect(package).size_bytes == sum(len(file.read_bytes()) for file in files)


def test_the_state_of_the_manifest(folder: Path, tmp_path: Path) -> None:
    path = folder / "separable.int8.tflite"
    alone = shutil.copy(path, tmp_path / "alone.tflite")
    assert inspect(Path(alone)).manifest == "none"
    beside = shutil.copy(path, folder / "beside.tflite")
    assert inspect(Path(beside)).manifest == "not listed"
    path.write_bytes(path.read_bytes().replace(b"Trouser", b"Pyjamas"))
    found = inspect(path)
    assert found.manifest == "differs"
    assert found.facts is not None
    assert found.facts.model.labels[1] == "Pyjamas"


def test_the_keras_file(exported: Path) -> None:
    found = inspect(exported / "separable.float.keras")
    assert (found.engine, found.manifest, found.facts) == ("keras", "matches", None)
    assert found.operators["BatchNormalization"] == 3


def test_bad_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"there is no model file .*none\.onnx"):
        inspect(tmp_path / "none.onnx")
    for name in ("a.onnx", "a.tflite"):
        (tmp_path / name).write_bytes(b"garbage" * 9)
        with pytest.raises(ModelFileError, match=rf"refuses .*{name}"):
            inspect(tmp_path / name)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(ManifestError, match="schema is None"):
        inspect(folder / "separable.int8.tflite")


def plan_of(*operations: OpPlacement) -> ComputePlan:
    return ComputePlan(
        compute_units="ALL",
        operations=operations,
        neural_engine_operations=0.5,
        neural_engine_cost=None,
    )


def place(operator: str, preferred: str | None, cost: float | None) -> OpPlacement:
    supported = ("CPU", "NeuralEngine") if preferred else ()
    return OpPlacement(
        operator=operator, output="o", preferred=preferred, supported=supported, cost=cost
    )


def test_away_from_a_mac_a_core_ml_package_has_a_forecast(exported: Path) -> None:
    assert inspect(exported / "separable.int8.tflite").core_ml is None
    found = inspect(exported / "separable.float16.mlpackage").core_ml
    assert found is not None
    assert (found.plan, found.no_plan) == (None, "Core ML plans on macOS 14.4 and later only")
    assert found.forecast is not None
    lines = describe_core_ml(found)
    assert lines[0] == "plan       none: Core ML plans on macOS 14.4 and later only"
    count = found.forecast.operations
    assert lines[1].startswith(
        f"forecast   no documented rule keeps {count} of {count} operations off the Neural "
        "Engine. A forecast from rules, not a measurement: "
    )
    # One finding, its rule and its source.
    assert [line.split()[0] for line in lines[2:]] == ["none", "rule:", "source:"]
    assert lines[4].endswith("docs-guides/source/typed-execution-example.html")


def test_on_a_mac_a_core_ml_package_has_a_plan(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    plan = plan_of(
        place("ios16.relu", "CPU", 0.125),
        place("ios16.conv", "NeuralEngine", 0.5),
        place("ios16.conv", "NeuralEngine", 0.25),
        place("ios16.classify", None, None),
    )

    def answer(path: Path, units: str) -> tuple[ComputePlan, None]:
        asked.append((path.name, units))
        return plan, None

    monkeypatch.setattr("hemline.engines.coreml.sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr("hemline.inspection.plan_package", answer)
    found = inspect(exported / "separable.float16.mlpackage", compute_units="ALL").core_ml
    assert asked == [("separable.float16.mlpackage", "ALL")]
    assert found == CoreMLOutlook(plan=plan, no_plan=None, forecast=None)
    assert describe_core_ml(found) == [
        "plan       for ALL: 50% of the operations and unknown of the estimated cost planned for "
        "the Neural Engine; Core ML's plan, not a measurement",
        "           ios16.conv × 2: planned for NeuralEngine, supported by CPU, NeuralEngine, "
        "75.0% of the cost",
        "           ios16.relu × 1: planned for CPU, supported by CPU, NeuralEngine, "
        "12.5% of the cost",
        "           ios16.classify × 1: planned for no device, supported by none named, "
        "0.0% of the cost",
    ]


def test_on_a_mac_without_a_plan_there_is_a_forecast(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hemline.engines.coreml.sys", SimpleNamespace(platform="darwin"))
    reason = "its process was killed by SIGKILL while planning it"
    monkeypatch.setattr("hemline.inspection.plan_package", lambda *_: (None, reason))
    found = inspect(exported / "separable.float16.mlpackage").core_ml
    assert found is not None
    assert found.forecast is not None
    assert describe_core_ml(found)[0] == f"plan       none: {reason}"

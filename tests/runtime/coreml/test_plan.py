"""Plans as coremltools hands them on: its own classes, with a fake of Core ML's answers inside."""

from types import SimpleNamespace
from typing import Any

import pytest
from coremltools.models import compute_device, compute_plan
from coremltools.models.compute_plan import (
    MLComputePlan,
    MLComputePlanCost,
    MLComputePlanDeviceUsage,
    MLModelStructure,
    MLModelStructureProgram,
    MLModelStructureProgramBlock,
    MLModelStructureProgramFunction,
    MLModelStructureProgramNamedValueType,
    MLModelStructureProgramOperation,
    MLModelStructureProgramValueType,
)

from hemline.coreml import plan as coreml_plan
from hemline.coreml.plan import ComputePlan, OpPlacement, read_plan
from hemline.documents import from_json, to_json
from hemline.errors import EngineUnavailableError, ModelFileError


def device(kind: type) -> Any:
    # Their constructors want Core ML's own objects.
    return object.__new__(kind)


CPU = device(compute_device.MLCPUComputeDevice)
GPU = device(compute_device.MLGPUComputeDevice)
NE = device(compute_device.MLNeuralEngineComputeDevice)


def operation(
    name: str, output: str, blocks: list[MLModelStructureProgramBlock] | None = None
) -> MLModelStructureProgramOperation:
    kind = MLModelStructureProgramValueType()
    return MLModelStructureProgramOperation(
        inputs={},
        operator_name=name,
        outputs=[MLModelStructureProgramNamedValueType(name=output, type=kind)],
        blocks=blocks or [],
        __proxy__=None,
    )


def block(*operations: MLModelStructureProgramOperation) -> MLModelStructureProgramBlock:
    return MLModelStructureProgramBlock(inputs=[], operations=list(operations), output_names=[])


class FakeCoreML:
    """Answers as coremltools' libcoremlpython does; by default on macOS 15."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str]] = []
        self.usages: dict[str, MLComputePlanDeviceUsage] = {}
        self.costs: dict[str, float] = {}
        self.structure: Any = None
        self.version = "15.3"
        monkeypatch.setattr(compute_plan, "_MLModelProxy", self)
        monkeypatch.setattr("hemline.engines.coreml.sys", SimpleNamespace(platform="darwin"))
        monkeypatch.setattr(
            coreml_plan,
            "platform",
            SimpleNamespace(mac_ver=lambda: (self.version, "", "arm64"), system=lambda: "Darwin"),
        )

    @property
    def model_structure(self) -> Any:
        return self.structure

    def get_compute_plan(self, path: str, compute_units: str) -> MLComputePlan:
        self.asked.append((path, compute_units))
        plan = object.__new__(MLComputePlan)
        plan.__proxy__ = self
        return plan

    def get_compute_device_usage_for_mlprogram_operation(self, op: Any) -> Any:
        return self.usages.get(op.outputs[0].name)

    def get_estimated_cost_for_mlprogram_operation(self, op: Any) -> Any:
        cost = self.costs.get(op.outputs[0].name)
        return None if cost is None else MLComputePlanCost(weight=cost)

    def put(self, *operations: MLModelStructureProgramOperation) -> None:
        function = MLModelStructureProgramFunction(inputs=[], block=block(*operations))
        self.structure = MLModelStructure(
            neuralnetwork=None,
            program=MLModelStructureProgram(functions={"main": function}),
            pipeline=None,
        )


@pytest.fixture
def core_ml(monkeypatch: pytest.MonkeyPatch) -> FakeCoreML:
    return FakeCoreML(monkeypatch)


def usage(preferred: Any, *supported: Any) -> MLComputePlanDeviceUsage:
    return MLComputePlanDeviceUsage(
        preferred_compute_device=preferred, supported_compute_devices=list(supported)
    )


def test_the_plan_of_a_program(core_ml: FakeCoreML) -> None:
    core_ml.put(
        operation("const", "w"),
        operation("ios16.constexpr_affine_dequantize", "v"),
        operation("ios16.conv", "a"),
        operation("ios16.relu", "b"),
        operation("ios16.linear", "c"),
        operation("ios16.classify", "d"),
    )
    core_ml.usages = {
        "a": usage(NE, CPU, GPU, NE),
        "b": usage(NE, CPU, NE),
        # Supported is not preferred.
        "c": usage(CPU, CPU, GPU, NE),
        "d": usage(CPU, CPU),
    }
    core_ml.costs = {"a": 0.5, "b": 0.25, "c": 0.25, "d": 0.0}
    plan = read_plan("/x/a.mlmodelc", "ALL")
    assert core_ml.asked == [("/x/a.mlmodelc", "ALL")]
    assert plan.compute_units == "ALL"
    assert [(o.operator, o.output, o.preferred, o.cost) for o in plan.operations] == [
        ("ios16.constexpr_affine_dequantize", "v", None, None),
        ("ios16.conv", "a", "NeuralEngine", 0.5),
        ("ios16.relu", "b", "NeuralEngine", 0.25),
        ("ios16.linear", "c", "CPU", 0.25),
        ("ios16.classify", "d", "CPU", 0.0),
    ]
    assert plan.operations[0].supported == ()
    assert plan.operations[3].supported == ("CPU", "GPU", "NeuralEngine")
    # The two of four with a planned device, and 0.75 of a cost of 1.
    assert plan.neural_engine_operations == 0.5
    assert plan.neural_engine_cost == 0.75
    assert from_json(ComputePlan, to_json(plan), "plan") == plan


def test_operations_inside_a_loop_are_planned_too(core_ml: FakeCoreML) -> None:
    body = block(operation("ios16.const", "k"), operation("ios16.add", "inner"))
    core_ml.put(operation("while_loop", "loop", [block(), body]))
    core_ml.usages = {"inner": usage(NE, NE), "loop": usage(CPU, CPU)}
    plan = read_plan("a", "CPU_AND_NE")
    assert [o.operator for o in plan.operations] == ["while_loop", "ios16.add"]
    assert plan.neural_engine_operations == 0.5


def test_shares_that_nobody_knows(core_ml: FakeCoreML) -> None:
    core_ml.put(operation("ios16.conv", "a"))
    plan = read_plan("a", "CPU_ONLY")
    assert plan.operations == (
        OpPlacement(operator="ios16.conv", output="a", preferred=None, supported=(), cost=None),
    )
    assert plan.neural_engine_operations is None
    assert plan.neural_engine_cost is None


def test_a_model_that_is_no_program(core_ml: FakeCoreML) -> None:
    core_ml.structure = MLModelStructure(neuralnetwork=object(), program=None, pipeline=None)
    with pytest.raises(ModelFileError, match="for ML programs only"):
        read_plan("a", "ALL")


@pytest.mark.parametrize("version", ["14.4", "14.10.1", "15", "26.1"])
def test_systems_that_plan(core_ml: FakeCoreML, version: str) -> None:
    core_ml.version = version
    core_ml.put()
    assert read_plan("a", "ALL").operations == ()


@pytest.mark.parametrize("version", ["14.3.1", "13.6"])
def test_systems_too_old_to_plan(core_ml: FakeCoreML, version: str) -> None:
    core_ml.version = version
    with pytest.raises(
        EngineUnavailableError, match=rf"needs macOS 14\.4 or later, and this is macOS {version}"
    ):
        read_plan("a", "ALL")
    assert core_ml.asked == []


def test_systems_without_core_ml(core_ml: FakeCoreML, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemline.engines.coreml.sys", SimpleNamespace(platform="linux"))
    with pytest.raises(EngineUnavailableError, match="and this is Darwin"):
        read_plan("a", "ALL")
    assert core_ml.asked == []


def test_a_plan_that_core_ml_refuses(core_ml: FakeCoreML, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, compute_units: str) -> None:
        raise RuntimeError(f"no model at {path} for {compute_units}\nand more")

    monkeypatch.setattr(core_ml, "get_compute_plan", refuse)
    with pytest.raises(ModelFileError, match=r"^Core ML makes no plan: no model at a for ALL$"):
        read_plan("a", "ALL")

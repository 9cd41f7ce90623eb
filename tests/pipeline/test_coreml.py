"""Core ML for real, on a Mac; elsewhere these tests are skipped."""

import sys
from pathlib import Path

import numpy as np
import pytest

import hemline
from hemline.benchmark.run import bench
from hemline.benchmark.timing import Schedule
from hemline.coreml.device import plan_package
from hemline.engines.coreml import COMPUTE_UNITS
from hemline.parity.paired import Verdict
from hemline.parity.verify import verify

pytestmark = pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS only")


def test_core_ml_agrees_with_the_float_model(exported: Path, garments: Path) -> None:
    with np.load(garments / "test.npz") as data:
        images = data["images"][:500]
    found = hemline.load(exported / "separable.float16.mlpackage").predict(images)
    expected = hemline.load(exported / "separable.float.keras").predict(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-2)
    assert (found.indices == expected.indices).mean() > 0.98


def test_verify_runs_core_ml_and_compares_it_with_the_reference(
    exported: Path, garments: Path
) -> None:
    report = verify(exported, str(garments / "test.npz"), count=500)
    (found,) = [a for a in report.artifacts if a.file.endswith(".mlpackage")]
    assert found.engine == "coreml"
    assert found.verdict != Verdict.FAIL, found.reason
    assert [step.name for step in found.steps] == ["float16", "engine coreml-reference"]
    assert found.steps[-1].agreement > 0.99


# ALL and CPU_AND_GPU are left to child processes: they abort on some Macs.
@pytest.mark.parametrize("units", ["CPU_ONLY", "CPU_AND_NE"])
def test_compute_units_agree(exported: Path, garments: Path, units: str) -> None:
    with np.load(garments / "test.npz") as data:
        images = data["images"][:50]
    package = exported / "separable.float16.mlpackage"
    found = hemline.load(package, compute_units=units).predict(images)
    expected = hemline.load(exported / "separable.float.keras").predict(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-2)


def test_core_ml_plans_each_operation(exported: Path) -> None:
    plan, reason = plan_package(exported / "separable.float16.mlpackage", "CPU_ONLY")
    assert plan is not None, reason
    kinds = [operation.operator.rpartition(".")[2] for operation in plan.operations]
    assert kinds.count("conv") == 3
    assert {operation.preferred for operation in plan.operations} <= {"CPU", None}
    assert plan.neural_engine_operations == 0.0
    costs = [operation.cost for operation in plan.operations if operation.cost is not None]
    # A share of the whole model's work each, as coremltools documents it.
    assert all(0 <= cost <= 1 for cost in costs)


def test_a_plan_with_the_neural_engine_is_made_or_refused_with_a_reason(exported: Path) -> None:
    plan, reason = plan_package(exported / "separable.float16.mlpackage", "CPU_AND_NE")
    assert (plan is None) == bool(reason)
    if plan is not None:
        # A virtual machine may offer no Neural Engine: then all is planned for the CPU.
        devices = {operation.preferred for operation in plan.operations}
        assert devices <= {"CPU", "NeuralEngine", None}


def test_latency_by_compute_units(exported: Path) -> None:
    package = exported / "separable.float16.mlpackage"
    report = bench(
        [package],
        schedule=Schedule(warmup_calls=2, calls_per_round=5, rounds=2),
        compute_units=COMPUTE_UNITS,
    )
    timed = {file.engine.split()[-1]: file for file in report.files}
    assert "CPU_ONLY" in timed
    # What did not run says why; nothing is left out.
    assert len(timed) + len(report.not_run) == len(COMPUTE_UNITS)
    assert all(report.not_run.values())
    for file in timed.values():
        assert len(file.bare.samples_ns) == 10
        assert file.first_answer is not None
        assert file.first_answer.first_call_ns == file.cold_ns > 0

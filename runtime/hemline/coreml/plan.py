"""The compute plan that Core ML makes on macOS: which device each operation is planned for.

A plan is Core ML's own intention before anything runs, not a measurement.
https://developer.apple.com/documentation/coreml/mlcomputeplan-1w21n
"""

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hemline.engines.coreml import runs_here
from hemline.errors import EngineUnavailableError, ModelFileError

NEURAL_ENGINE = "NeuralEngine"

# The availability that Apple's page on MLComputePlan states.
_MACOS = (14, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpPlacement:
    """Where one operation is planned to run.

    Attributes:
        operator: its kind, such as `ios16.conv`.
        output: the name of its first output.
        preferred: `CPU`, `GPU` or `NeuralEngine`: what Core ML plans to use. None: it does not
            say, as for constants that are decompressed when the model is loaded.
        supported: the devices that could run it.
        cost: Core ML's estimate of its share of the model's work, in [0, 1]; None: not estimated.
    """

    operator: str
    output: str
    preferred: str | None
    supported: tuple[str, ...]
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputePlan:
    """Where a model's operations are planned to run.

    Attributes:
        compute_units: what Core ML was allowed to use.
        operations: all but constants, those inside loops and branches included.
        neural_engine_operations: the share of the operations with a planned device that are
            planned for the Neural Engine; None if no operation has one.
        neural_engine_cost: the same share of the estimated cost; None if there is no estimate.
    """

    compute_units: str
    operations: tuple[OpPlacement, ...]
    neural_engine_operations: float | None
    neural_engine_cost: float | None


def read_plan(compiled_path: str, compute_units: str) -> ComputePlan:
    """Asks Core ML for the plan of a compiled model.

    Args:
        compiled_path: the .mlmodelc folder.
        compute_units: a name of coremltools.ComputeUnit.

    Raises:
        EngineUnavailableError: this is not macOS 14.4 or later.
        ModelFileError: Core ML makes no plan for it, or it is no ML program.
    """
    if not runs_here() or _macos_version() < _MACOS:
        raise EngineUnavailableError(
            f"a compute plan needs macOS 14.4 or later, and this is {_system()}"
        )
    import coremltools
    from coremltools.models.compute_plan import MLComputePlan

    try:
        plan: Any = MLComputePlan.load_from_path(
            compiled_path, compute_units=coremltools.ComputeUnit[compute_units]
        )
    # Core ML's failures come as exceptions of many kinds.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(f"Core ML makes no plan: {reason}") from error
    program = plan.model_structure.program
    if program is None:
        raise ModelFileError("Core ML plans per operation for ML programs only; this is none")
    operations = tuple(
        _place(plan, operation)
        for function in program.functions.values()
        for operation in _operations(function.block)
    )
    return ComputePlan(
        compute_units=compute_units,
        operations=operations,
        neural_engine_operations=_share((o, 1.0) for o in operations if o.preferred),
        neural_engine_cost=_share((o, o.cost) for o in operations if o.cost is not None),
    )


def _macos_version() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.mac_ver()[0].split(".") if part.isdigit())


def _system() -> str:
    return f"macOS {platform.mac_ver()[0]}" if runs_here() else platform.system()


def _operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        # Core ML puts the operator set in front: `ios16.const`.
        if operation.operator_name.rpartition(".")[2] != "const":
            yield operation
        for inner in operation.blocks:
            yield from _operations(inner)


def _place(plan: Any, operation: Any) -> OpPlacement:
    usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
    cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
    return OpPlacement(
        operator=operation.operator_name,
        output=operation.outputs[0].name if operation.outputs else "",
        preferred=None if usage is None else _device(usage.preferred_compute_device),
        supported=()
        if usage is None
        else tuple(_device(device) for device in usage.supported_compute_devices),
        cost=None if cost is None else float(cost.weight),
    )


def _device(device: Any) -> str:
    """Returns the name between `ML` and `ComputeDevice`, as in MLNeuralEngineComputeDevice."""
    return type(device).__name__.removeprefix("ML").removesuffix("ComputeDevice")


def _share(weighted: Iterable[tuple[OpPlacement, float]]) -> float | None:
    pairs = list(weighted)
    total = sum(weight for _, weight in pairs)
    on_engine = sum(weight for operation, weight in pairs if operation.preferred == NEURAL_ENGINE)
    return on_engine / total if total else None

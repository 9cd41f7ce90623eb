"""`hemline inspect`: what a model file holds, without running it on data."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hemline import guard
from hemline.artifact_facts import EmbeddedFacts
from hemline.audit import Audit, audit
from hemline.commit import newest
from hemline.coreml.device import plan_package
from hemline.coreml.forecast import Forecast, forecast
from hemline.coreml.plan import ComputePlan
from hemline.documents import from_json
from hemline.engines import Engine, engine_for, engine_names
from hemline.engines.coreml import DEFAULT_COMPUTE_UNITS, CoreMLEngine, read_spec, runs_here
from hemline.errors import ChecksumError, EngineUnavailableError, ModelFileError
from hemline.facts import TensorSpec
from hemline.files import require_size, size_bytes
from hemline.limits import MODEL_BYTES
from hemline.listing import FILE_NAME
from hemline.manifest import read_manifest
from hemline.model import embedded_facts
from hemline.paths import require_ordinary
from hemline.snapshot import Snapshot

if TYPE_CHECKING:
    from hemline.engines.c_source import CSourceEngine
    from hemline.engines.micro import MicroEngine

SCHEMA = "hemline.inspect/2"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreMLOutlook:
    """Where a Core ML package's operations would run.

    Attributes:
        plan: Core ML's own plan, on macOS 14.4 and later.
        no_plan: why there is none, or None.
        forecast: from documented rules, where there is no plan.
    """

    plan: ComputePlan | None
    no_plan: str | None
    forecast: Forecast | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroFit:
    """Whether a .tflite file runs in TensorFlow Lite Micro.

    Attributes:
        arena_bytes: the smallest arena that it runs in, as `MicroEngine.arena_bytes` finds it;
            None if it does not run.
        reason: why it does not run; None if it does.
    """

    arena_bytes: int | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a model file holds.

    Attributes:
        file: its file name.
        engine: what runs it.
        size_bytes: of the file, or of all files of a package.
        sha256: of its content.
        manifest: `matches`, `differs` or `not listed` in the manifest beside it; `none`.
        inputs: its input tensors, in order.
        outputs: its output tensors, in order.
        operators: how often each operator stands in it.
        audit: what they compute in.
        facts: the facts inside it, or None.
        core_ml: for a Core ML package, where its operations would run; None for other files.
        micro: for a .tflite file, or one as C source, whether it runs on a microcontroller; None
            for other files and where TensorFlow Lite Micro is not installed.
    """

    file: str
    engine: str
    size_bytes: int
    sha256: str
    manifest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: dict[str, int]
    audit: Audit
    facts: EmbeddedFacts | None
    core_ml: CoreMLOutlook | None
    micro: MicroFit | None


def inspect(
    path: Path, *, compute_units: str = DEFAULT_COMPUTE_UNITS, trust: bool = False
) -> Inspection:
    """Reads what a model file holds; in a child process, unless a manifest beside it matches.

    Args:
        path: the file.
        compute_units: what Core ML may plan to use, if it is a Core ML package.
        trust: reads it in this process, even if no manifest matches.

    Raises:
        ModelFileError: there is no such file, or it is not of the kind that its suffix says.
        EngineUnavailableError: a package that reads this kind of file is not installed.
        ManifestError: the facts inside it, or the manifest beside it, are not valid.
    """
    file = newest(path)
    if not file.exists():
        raise ModelFileError(f"there is no model file {path}")
    engine = engine_for(path)
    require_ordinary(file)
    require_size(path, size_bytes(file), MODEL_BYTES)
    state, snapshot = _read_listed(path, engine)
    if state != "matches" and not trust:
        found = guard.inspect_file(path, compute_units)
        return from_json(Inspection, found, f"the inspection of {path}")
    snapshot = snapshot or Snapshot(path, engine)
    structure = snapshot.structure(engine)
    return Inspection(
        file=path.name,
        engine=engine.name,
        size_bytes=snapshot.size_bytes,
        sha256=snapshot.sha256,
        manifest=state,
        inputs=structure.inputs,
        outputs=structure.outputs,
        operators=dict(structure.operators),
        audit=audit(structure.operations),
        facts=embedded_facts(path, structure.embedded_facts),
        core_ml=_look_ahead(snapshot, compute_units) if engine is CoreMLEngine else None,
        micro=_try_micro(snapshot) if "micro" in engine_names(path) else None,
    )


def describe_core_ml(outlook: CoreMLOutlook) -> list[str]:
    """Returns lines for people: the plan, or why there is none and the forecast."""
    if outlook.plan is not None:
        return _describe_plan(outlook.plan)
    lines = [f"plan       none: {outlook.no_plan}"]
    if outlook.forecast is not None:
        lines += _describe_forecast(outlook.forecast)
    return lines


def _look_ahead(snapshot: Snapshot, compute_units: str) -> CoreMLOutlook:
    plan: ComputePlan | None = None
    no_plan: str | None = "Core ML plans on macOS 14.4 and later only"
    if runs_here():
        plan, no_plan = plan_package(snapshot.opened, compute_units)
    return CoreMLOutlook(
        plan=plan,
        no_plan=no_plan,
        forecast=forecast(read_spec(snapshot.opened)) if plan is None else None,
    )


def _try_micro(snapshot: Snapshot) -> MicroFit | None:
    try:
        micro = engine_for(snapshot.path, "micro")
        engine = cast("MicroEngine | CSourceEngine", snapshot.open(micro, threads=1))
        return MicroFit(arena_bytes=engine.arena_bytes(), reason=None)
    except EngineUnavailableError:
        return None
    except ModelFileError as error:
        return MicroFit(arena_bytes=None, reason=str(error))


def _describe_plan(plan: ComputePlan) -> list[str]:
    def percent(share: float | None) -> str:
        return "unknown" if share is None else f"{share:.0%}"

    lines = [
        f"plan       for {plan.compute_units}: {percent(plan.neural_engine_operations)} of the "
        f"operations and {percent(plan.neural_engine_cost)} of the estimated cost planned for the "
        "Neural Engine; Core ML's plan, not a measurement"
    ]
    alike = Counter((o.operator, o.preferred, o.supported) for o in plan.operations)
    costs: dict[object, float] = {}
    for o in plan.operations:
        key = (o.operator, o.preferred, o.supported)
        costs[key] = costs.get(key, 0.0) + (o.cost or 0.0)
    for key, count in sorted(alike.items(), key=lambda item: -costs[item[0]]):
        operator, preferred, supported = key
        lines.append(
            f"           {operator} × {count}: planned for {preferred or 'no device'}, "
            f"supported by {', '.join(supported) or 'none named'}, {costs[key]:.1%} of the cost"
        )
    return lines


def _describe_forecast(found: Forecast) -> list[str]:
    lines = [
        f"forecast   no documented rule keeps {found.eligible} of {found.operations} operations "
        f"off the Neural Engine. {found.note}"
    ]
    for line in found.lines:
        if line.finding is not None:
            lines += [
                f"           {line.finding}",
                f"             rule: {line.rule}",
                f"             source: {line.source}",
            ]
    return lines


def _read_listed(path: Path, engine: type[Engine]) -> tuple[str, Snapshot | None]:
    """Returns what the manifest beside a file says of it; and the file as read, if that matches."""
    if not newest(path.parent / FILE_NAME).exists():
        return "none", None
    manifest = read_manifest(path.parent)
    if path.name not in manifest.sha256_by_file():
        return "not listed", None
    try:
        return "matches", Snapshot(path, engine, manifest.listed(path.name))
    except ChecksumError:
        return "differs", None

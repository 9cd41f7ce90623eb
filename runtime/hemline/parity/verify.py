"""`hemline verify`: each artifact against its float model, on the same test samples.

parity.json is the record. Verdicts are those of `hemline.parity.judgement`; an artifact whose
outputs hold NaN or infinity, or that computes less in integers than its recipe promises, is a FAIL
whatever the rest. Where Core ML does not run, its packages are judged by a reference evaluation,
and the record says so.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.arrays import read_arrays
from hemline.artifact_facts import ArtifactFacts
from hemline.audit import Audit, audit
from hemline.benchmark.speed import Speed
from hemline.commit import newest
from hemline.engines import engine_for, stand_in
from hemline.engines.coreml import CoreMLEngine
from hemline.engines.coreml_reference import CAVEAT, CoreMLReferenceEngine
from hemline.errors import DataError, EngineUnavailableError, InputError, OutputError
from hemline.facts import ModelFacts, Task, require_task
from hemline.files import write_bytes
from hemline.host import Host, describe_host
from hemline.manifest import Artifact, Manifest, check_files, read_manifest
from hemline.model import check_embedded_facts, open_model
from hemline.parity.attribution import ENGINE, FLOAT_EXPORT, Step
from hemline.parity.bootstrap import LossGrowth
from hemline.parity.execution import Job, Run, run_jobs
from hemline.parity.judgement import Fidelity, Judge, judge_for, require_fit
from hemline.parity.paired import ClassChange, ErrorGrowth, PairedResult, Verdict, require_verdict
from hemline.samples import Samples, resolve_samples
from hemline.snapshot import Snapshot

SCHEMA = "hemline.parity/2"
FILE_NAME = "parity.json"
FLOAT_PREDICTIONS = "float_predictions.npz"

# What runs the same file once more, for the last steps of the chain.
_SECOND = {"litert": ("litert-builtin", "micro"), CoreMLEngine.name: (CoreMLReferenceEngine.name,)}
# TensorFlow Lite Micro's portable kernels are slower than XNNPACK by far.
_MICRO_COUNT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """The samples that were used."""

    source: str
    split: str
    count: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatParity:
    """The float model's own result.

    Attributes:
        file: its file name.
        sha256: of the file.
        accuracy: top-1, in [0, 1]; None for tasks other than classification.
        loss: mean cross-entropy, in nats; mean squared error for regression and autoencoders;
            None for tensors.
        calibration_error: expected calibration error, in [0, 1]; None for the other tasks.
        floor_accuracy: the least accuracy that is no failure, if the manifest sets one.
        ceiling_loss: the greatest loss that is no failure, if the manifest sets one.
        verdict: PASS or FAIL.
    """

    file: str
    sha256: str
    accuracy: float | None
    loss: float | None
    calibration_error: float | None
    floor_accuracy: float | None
    ceiling_loss: float | None
    verdict: str

    def __post_init__(self) -> None:
        require_verdict(self.verdict)

    @property
    def reason(self) -> str:
        """Why it FAILed, in a few words; empty if it passed."""
        if self.verdict == Verdict.PASS:
            return ""
        if self.ceiling_loss is not None:
            return f"loss is above the ceiling of {self.ceiling_loss}"
        return f"accuracy is below the floor of {self.floor_accuracy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactParity:
    """One artifact's result.

    The measures are None if it did not run or gave no finite output, or if its task has none.

    Attributes:
        file: its file name.
        recipe: how it was made.
        engine: what ran it.
        sha256: of the file.
        verdict: PASS, FAIL, INCONCLUSIVE or NOT_RUN.
        reason: why, in a sentence.
        accuracy: top-1, in [0, 1].
        loss: mean cross-entropy, in nats; mean squared error for regression and autoencoders.
        agreement: share of samples with the float model's top-1 class.
        max_probability_change: the largest |Δp| of any class of any sample.
        mean_kl: mean Kullback-Leibler divergence from the float model's outputs, in nats.
        sqnr_db: of the outputs against the float model's, signal over noise; None: equal.
        calibration_error_change: expected calibration error less the float model's.
        paired: the paired comparison with the float model.
        error_growth: what that means for the number of errors.
        audit: what its operators compute in; None where what reads the file is not installed.
        classes: the change of each class's recall.
        loss_growth: the comparison of its loss with the float model's; for regression and
            autoencoders.
        fidelity: how near it comes to the float model; for tensors.
        steps: what each step from Keras to this file, and to a second engine, did.
    """

    file: str
    recipe: str
    engine: str
    sha256: str
    verdict: str
    reason: str
    accuracy: float | None = None
    loss: float | None = None
    agreement: float | None = None
    max_probability_change: float | None = None
    mean_kl: float | None = None
    sqnr_db: float | None = None
    calibration_error_change: float | None = None
    paired: PairedResult | None = None
    error_growth: ErrorGrowth | None = None
    audit: Audit | None = None
    classes: tuple[ClassChange, ...] = ()
    loss_growth: LossGrowth | None = None
    fidelity: Fidelity | None = None
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        require_verdict(self.verdict)

    @property
    def is_reference(self) -> bool:
        """Whether a reference evaluation stood in for the engine that the file is made for."""
        return self.engine == CoreMLReferenceEngine.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """A folder's artifacts against their float model.

    Attributes:
        model: its name.
        task: what it is for.
        data: the samples.
        host: the machine.
        margin_override_pt: the margin that was asked for instead of the manifest's, if any.
        margin_override_loss_percent: likewise, for regression and autoencoders.
        float_model: the float model's own result.
        artifacts: each artifact's.
        speeds: each quantized file's against its float file, if they were timed.
    """

    model: str
    task: str
    data: DataRecord
    host: Host
    margin_override_pt: float | None
    margin_override_loss_percent: float | None
    float_model: FloatParity
    artifacts: tuple[ArtifactParity, ...]
    speeds: tuple[Speed, ...] = ()

    def __post_init__(self) -> None:
        require_task(self.task)

    def verdicts(self) -> list[str]:
        """Returns every verdict, the float model's first."""
        return [self.float_model.verdict, *(artifact.verdict for artifact in self.artifacts)]


def verify(
    folder: Path,
    data: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    *,
    margin_pt: float | None = None,
    count: int | None = None,
    margin_loss_percent: float | None = None,
    keep_predictions: bool = False,
) -> ParityReport:
    """Compares each artifact of a folder with its float model.

    Args:
        folder: where manifest.json and the artifacts are.
        data: the test samples, as `hemline.samples.resolve_samples` takes them.
        progress: is told what is being run.
        margin_pt: a margin for every artifact instead of the manifest's, in percentage points;
            for classification.
        margin_loss_percent: likewise, in percent of the float model's loss; for regression and
            autoencoders.
        count: only the first so many test samples; None for all.
        keep_predictions: write the float model's predictions into the folder, if Keras had to
            compute them and none are there: they are what a device without Keras is given.

    Raises:
        InputError: a margin of another task.
        ManifestError: the folder has no valid manifest, or it disagrees with a file's facts.
        ChecksumError: a file is not the one that its manifest records.
        DataError: no test samples, they do not fit, or some were used for calibration.
        EngineUnavailableError: the float model's predictions on these samples are not in the
            folder, and Keras is not installed to compute them.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    check_embedded_facts(folder, manifest)
    margins = _margins(manifest.model, margin_pt, margin_loss_percent)
    samples = resolve_samples(data, manifest.model.dataset, "test")
    require_fit(manifest.model, samples)
    _require_unseen(manifest, samples)
    reference = _float_outputs(folder, manifest, samples, progress, keep=keep_predictions)
    if count is not None and count < len(samples):
        samples, reference = samples.take(np.arange(count)), reference[:count]
    judge = judge_for(manifest.model, samples, reference)
    jobs = _list_jobs(folder, manifest)
    progress(f"run {len(jobs)} times {len(samples):,} samples")
    runs = dict(zip(jobs, run_jobs(list(jobs.values()), samples.images, progress), strict=True))
    results = []
    for artifact in manifest.artifacts:
        progress(f"judge {artifact.file}")
        steps = _measure_steps(manifest, artifact, runs, judge)
        facts = replace(artifact.facts, **margins)
        judged = _judge(artifact, facts, runs[artifact.file, ""], steps, judge)
        results.append(_hold_to_promise(folder, manifest, facts, judged))
    return ParityReport(
        model=manifest.model.model,
        task=manifest.model.task,
        data=DataRecord(
            source=samples.source,
            split=samples.split,
            count=len(samples),
            sha256=samples.sha256(),
        ),
        host=describe_host(),
        margin_override_pt=margin_pt,
        margin_override_loss_percent=margin_loss_percent,
        float_model=_judge_float(manifest, judge),
        artifacts=tuple(results),
    )


# A file's name and that of an engine; "" is the engine that judges it.
_Runs = dict[tuple[str, str], Run]


def _list_jobs(folder: Path, manifest: Manifest) -> dict[tuple[str, str], Job]:
    """Returns each artifact in its engine and, where there are some, in others."""
    jobs = {}
    for artifact in manifest.artifacts:
        engine = stand_in(artifact.facts.engine)
        path, listed = folder / artifact.file, manifest.listed(artifact.file)
        jobs[artifact.file, ""] = Job(path=path, listed=listed, engine=engine)
        for other in _SECOND.get(engine or artifact.facts.engine, ()):
            if other == "micro":
                # It is for integers, and knows neither all operators nor all of their types.
                if artifact.facts.integers is not None:
                    jobs[artifact.file, other] = Job(
                        path=path,
                        listed=listed,
                        engine=other,
                        count=_MICRO_COUNT,
                        may_be_refused=True,
                    )
            # XNNPACK has no int16 kernels (its README in TensorFlow lists float32 and int8), so
            # LiteRT's own, which are slow, run such a file in either engine.
            elif artifact.facts.input.dtype != "int16":
                jobs[artifact.file, other] = Job(path=path, listed=listed, engine=other)
    return jobs


def _measure_steps(
    manifest: Manifest,
    artifact: Artifact,
    runs: _Runs,
    judge: Judge,
) -> tuple[Step, ...]:
    """Returns the chain from Keras to an artifact, and on to a second engine where there is one."""

    def finite(run: Run | None) -> NDArray[np.float32] | None:
        outputs = None if run is None else run.outputs
        return outputs if outputs is not None and np.isfinite(outputs).all() else None

    outputs = finite(runs[artifact.file, ""])
    if outputs is None:
        return ()
    keras, last = (manifest.float_model.file, judge.reference), (artifact.file, outputs)
    wanted = (artifact.facts.engine, "float32")
    parents = [a for a in manifest.artifacts if (a.facts.engine, a.facts.recipe) == wanted]
    steps, before = [], keras
    for parent in parents:
        exported = finite(runs[parent.file, ""])
        if exported is not None:
            before = (parent.file, exported)
            steps.append(judge.measure_step(FLOAT_EXPORT, keras, before))
    if artifact not in parents:
        steps.append(judge.measure_step(artifact.facts.recipe, before, last))
    for (file, name), run in runs.items():
        again = finite(run)
        if file == artifact.file and name and again is not None:
            target = (f"{artifact.file} in {run.engine}", again)
            steps.append(judge.measure_step(f"{ENGINE} {name}", last, target))
    return tuple(steps)


def _judge(
    artifact: Artifact, facts: ArtifactFacts, run: Run, steps: tuple[Step, ...], judge: Judge
) -> ArtifactParity:
    engine = facts.engine if run.outputs is None else run.engine

    def result(verdict: Verdict, reason: str, **measures: Any) -> ArtifactParity:
        return ArtifactParity(
            file=artifact.file,
            recipe=facts.recipe,
            engine=engine,
            sha256=artifact.sha256,
            verdict=verdict,
            reason=f"{reason} ({CAVEAT})" if engine == CoreMLReferenceEngine.name else reason,
            **measures,
        )

    if run.outputs is None:
        return result(Verdict.FAIL if run.crashed else Verdict.NOT_RUN, run.reason)
    finite = np.isfinite(run.outputs).reshape(len(run.outputs), -1).all(axis=1)
    if not finite.all():
        broken = np.flatnonzero(~finite)
        return result(
            Verdict.FAIL,
            f"NaN or infinity in the outputs of {len(broken)} samples, first sample {broken[0]}",
        )
    found = judge.judge(facts, run.outputs, steps)
    return result(
        found.verdict, found.reason, **found.measures, steps=steps if found.measures else ()
    )


def _hold_to_promise(
    folder: Path, manifest: Manifest, facts: ArtifactFacts, judged: ArtifactParity
) -> ArtifactParity:
    """Adds the integer audit, and fails a file that is not as integer as its recipe promises."""
    path = folder / judged.file
    try:
        engine = engine_for(path)
        snapshot = Snapshot(path, engine, manifest.listed(judged.file))
        found = audit(snapshot.structure(engine).operations)
    except EngineUnavailableError:
        return judged
    breach = found.explain_breach(facts.integers) if facts.integers else None
    if breach is None:
        return replace(judged, audit=found)
    return replace(judged, audit=found, verdict=Verdict.FAIL, reason=f"{breach}; {judged.reason}")


def _judge_float(manifest: Manifest, judge: Judge) -> FloatParity:
    measures: dict[str, float] = dict(judge.measure_float())
    floor, ceiling = manifest.model.floor_accuracy, manifest.model.ceiling_loss
    bad = (floor is not None and measures["accuracy"] < floor) or (
        ceiling is not None and measures["loss"] > ceiling
    )
    return FloatParity(
        file=manifest.float_model.file,
        sha256=manifest.float_model.sha256,
        accuracy=measures.get("accuracy"),
        loss=measures.get("loss"),
        calibration_error=measures.get("calibration_error"),
        floor_accuracy=floor,
        ceiling_loss=ceiling,
        verdict=Verdict.FAIL if bad else Verdict.PASS,
    )


def _margins(
    facts: ModelFacts, margin_pt: float | None, margin_loss_percent: float | None
) -> dict[str, Any]:
    """Returns the margins asked for, by their names in ArtifactFacts."""
    fits_points = facts.task == Task.CLASSIFICATION
    fits_percent = facts.task in (Task.REGRESSION, Task.AUTOENCODER)
    if (margin_pt is not None and not fits_points) or (
        margin_loss_percent is not None and not fits_percent
    ):
        raise InputError(
            f"{facts.model} is for the task {facts.task}: a margin in points is for "
            "classification, one of loss in percent for regression and autoencoders"
        )
    asked = {"margin_pt": margin_pt, "margin_loss_percent": margin_loss_percent}
    return {name: margin for name, margin in asked.items() if margin is not None}


def _float_outputs(
    folder: Path,
    manifest: Manifest,
    samples: Samples,
    progress: Callable[[str], None],
    *,
    keep: bool,
) -> NDArray[np.float32]:
    """Returns the float model's outputs, from the folder if it has them for these samples."""
    path = newest(folder / FLOAT_PREDICTIONS)
    key = np.array([manifest.float_model.sha256, samples.sha256()])
    shape = (len(samples), *manifest.model.output_shape)
    stored = _read_predictions(path, key, shape)
    if stored is not None:
        return stored
    progress(f"run {manifest.float_model.file} in Keras")
    try:
        float_file = folder / manifest.float_model.file
        listed = manifest.listed(float_file.name)
        model = open_model(float_file, engine_for(float_file), listed=listed)
    except EngineUnavailableError as error:
        raise EngineUnavailableError(
            f"{path} holds no predictions of the float model on these samples, and Keras is not "
            "installed to compute them: run `hemline verify DIR --json DIR/parity.json` once "
            "where hemline[export] is installed, and copy the folder"
        ) from error
    outputs = model.outputs(samples.images)
    if not np.isfinite(outputs).all():
        raise DataError(f"{manifest.float_model.file} gives NaN or infinity on the test samples")
    # Predictions on other samples, a release's say, are not given up for these.
    if keep and not path.exists():
        archive = io.BytesIO()
        np.savez_compressed(archive, key=key, outputs=outputs)
        try:
            write_bytes(path, archive.getvalue())
        except OutputError as error:
            progress(f"the float predictions are not kept: {error}")
    return outputs


def _read_predictions(
    path: Path, key: NDArray[np.str_], shape: tuple[int, ...]
) -> NDArray[np.float32] | None:
    if not path.exists():
        return None
    try:
        arrays = read_arrays(path, ["key", "outputs"])
    except DataError as error:
        raise DataError(f"{path} is damaged ({error}); delete it, it is made anew") from error
    if not np.array_equal(arrays["key"], key):
        return None
    outputs = arrays["outputs"]
    if outputs.shape != shape or outputs.dtype != np.float32 or not np.isfinite(outputs).all():
        raise DataError(f"{path} is damaged; delete it, it is made anew")
    return outputs


def _require_unseen(manifest: Manifest, samples: Samples) -> None:
    seen = set(manifest.calibration_sample_sha256)
    if not seen:
        return
    leaked = [i for i, digest in enumerate(samples.sample_sha256()) if digest in seen]
    if leaked:
        raise DataError(
            f"{len(leaked)} test samples were used for calibration, the first is sample "
            f"{leaked[0]}: a test on them proves nothing; export with other calibration data"
        )

"""`hemline verify`: each artifact against its float model, on the same test samples.

parity.json is the record. Verdicts are those of `hemline.paired`; an artifact whose outputs hold
NaN or infinity, or are no probabilities, is a FAIL whatever its accuracy. Where Core ML does not
run, its packages are judged by a reference evaluation, and the record says so.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.attribution import ENGINE, FLOAT_EXPORT, Step, explain_steps, measure_step
from hemline.engines import stand_in
from hemline.engines.coreml import CoreMLEngine
from hemline.engines.coreml_reference import CAVEAT, CoreMLReferenceEngine
from hemline.errors import DataError, EngineUnavailableError, OutputError
from hemline.execution import Job, Run, run_jobs
from hemline.facts import TensorSpec
from hemline.files import write_bytes
from hemline.host import Host, describe_host
from hemline.manifest import Artifact, Manifest, check_sha256, read_manifest
from hemline.measures import calibration_error, cross_entropy, mean_kl, sqnr_db
from hemline.model import check_embedded_facts, load
from hemline.paired import (
    ClassChange,
    ErrorGrowth,
    PairedResult,
    Verdict,
    compare_classes,
    compare_paired,
    measure_error_growth,
)
from hemline.samples import NPZ_ERRORS, Samples, resolve_samples

SCHEMA = "hemline.parity/1"
FILE_NAME = "parity.json"
FLOAT_PREDICTIONS = "float_predictions.npz"

# What runs the same file once more, for the last step of the chain.
_SECOND = {"litert": "litert-builtin", CoreMLEngine.name: CoreMLReferenceEngine.name}


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
        accuracy: top-1, in [0, 1].
        loss: mean cross-entropy, in nats.
        calibration_error: expected calibration error, in [0, 1].
        floor_accuracy: the least accuracy that is no failure, if the manifest sets one.
        verdict: PASS or FAIL.
    """

    file: str
    sha256: str
    accuracy: float
    loss: float
    calibration_error: float
    floor_accuracy: float | None
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactParity:
    """One artifact's result. The measures are None if it did not run or gave no finite output.

    Attributes:
        file: its file name.
        recipe: how it was made.
        engine: what ran it.
        sha256: of the file.
        verdict: PASS, FAIL, INCONCLUSIVE or NOT_RUN.
        reason: why, in a sentence.
        accuracy: top-1, in [0, 1].
        loss: mean cross-entropy, in nats.
        agreement: share of samples with the float model's top-1 class.
        max_probability_change: the largest |Δp| of any class of any sample.
        mean_kl: mean Kullback-Leibler divergence from the float model's outputs, in nats.
        sqnr_db: of the outputs against the float model's, signal over noise; None: equal.
        calibration_error_change: expected calibration error less the float model's.
        paired: the paired comparison with the float model.
        error_growth: what that means for the number of errors.
        classes: the change of each class's recall.
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
    classes: tuple[ClassChange, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def is_reference(self) -> bool:
        """Whether a reference evaluation stood in for the engine that the file is made for."""
        return self.engine == CoreMLReferenceEngine.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """A folder's artifacts against their float model.

    Attributes:
        model: its name.
        data: the samples.
        host: the machine.
        margin_override_pt: the margin that was asked for instead of the manifest's, if any.
        float_model: the float model's own result.
        artifacts: each artifact's.
    """

    model: str
    data: DataRecord
    host: Host
    margin_override_pt: float | None
    float_model: FloatParity
    artifacts: tuple[ArtifactParity, ...]

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
) -> ParityReport:
    """Compares each artifact of a folder with its float model.

    Args:
        folder: where manifest.json and the artifacts are.
        data: the test samples, as `hemline.samples.resolve_samples` takes them.
        progress: is told what is being run.
        margin_pt: a margin for every artifact instead of the manifest's, in percentage points.
        count: only the first so many test samples; None for all.

    Raises:
        ManifestError: the folder has no valid manifest, or it disagrees with a file's facts.
        ChecksumError: a file is not the one that its manifest records.
        DataError: no test samples, they do not fit, or some were used for calibration.
        EngineUnavailableError: the float model's predictions on these samples are not in the
            folder, and Keras is not installed to compute them.
    """
    manifest = read_manifest(folder)
    for file, digest in manifest.sha256_by_file().items():
        check_sha256(folder / file, digest)
    check_embedded_facts(folder, manifest)
    samples = resolve_samples(data, manifest.model.dataset, "test")
    _require_fit(manifest, samples)
    _require_unseen(manifest, samples)
    reference = _float_probabilities(folder, manifest, samples, progress)
    if count is not None and count < len(samples):
        samples, reference = samples.take(np.arange(count)), reference[:count]
    accuracy, loss = score(reference, samples.labels)
    floor = manifest.model.floor_accuracy
    jobs = _list_jobs(folder, manifest)
    progress(f"run {len(jobs)} times {len(samples):,} samples")
    runs = dict(zip(jobs, run_jobs(list(jobs.values()), samples.images, progress), strict=True))
    results = []
    for artifact in manifest.artifacts:
        progress(f"judge {artifact.file}")
        steps = _measure_steps(manifest, artifact, runs, samples, reference)
        run = runs[artifact.file, False]
        results.append(_judge(manifest, artifact, run, steps, samples, reference, margin_pt))
    return ParityReport(
        model=manifest.model.model,
        data=DataRecord(
            source=samples.source,
            split=samples.split,
            count=len(samples),
            sha256=samples.sha256(),
        ),
        host=describe_host(),
        margin_override_pt=margin_pt,
        float_model=FloatParity(
            file=manifest.float_model.file,
            sha256=manifest.float_model.sha256,
            accuracy=accuracy,
            loss=loss,
            calibration_error=calibration_error(reference, samples.labels),
            floor_accuracy=floor,
            verdict=Verdict.FAIL if floor is not None and accuracy < floor else Verdict.PASS,
        ),
        artifacts=tuple(results),
    )


def score(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Returns top-1 accuracy in [0, 1] and mean cross-entropy in nats.

    Args:
        probabilities: float32 (n, classes).
        labels: int64 (n,).
    """
    right = float((probabilities.argmax(axis=1) == labels).mean())
    return right, cross_entropy(probabilities, labels)


# A file's name, and whether it is run in a second engine.
_Runs = dict[tuple[str, bool], Run]


def _list_jobs(folder: Path, manifest: Manifest) -> dict[tuple[str, bool], Job]:
    """Returns each artifact in its engine and, where there is one, in a second."""
    jobs = {}
    for artifact in manifest.artifacts:
        engine = stand_in(artifact.facts.engine)
        second = _SECOND.get(engine or artifact.facts.engine)
        path = folder / artifact.file
        jobs[artifact.file, False] = Job(path=path, engine=engine)
        if second:
            jobs[artifact.file, True] = Job(path=path, engine=second)
    return jobs


def _measure_steps(
    manifest: Manifest,
    artifact: Artifact,
    runs: _Runs,
    samples: Samples,
    reference: NDArray[np.float32],
) -> tuple[Step, ...]:
    """Returns the chain from Keras to an artifact, and on to a second engine where there is one."""

    def finite(run: Run | None) -> NDArray[np.float32] | None:
        outputs = None if run is None else run.probabilities
        return outputs if outputs is not None and np.isfinite(outputs).all() else None

    outputs = finite(runs[artifact.file, False])
    if outputs is None:
        return ()
    keras, last = (manifest.float_model.file, reference), (artifact.file, outputs)
    wanted = (artifact.facts.engine, "float32")
    parents = [a for a in manifest.artifacts if (a.facts.engine, a.facts.recipe) == wanted]
    steps, before = [], keras
    for parent in parents:
        exported = finite(runs[parent.file, False])
        if exported is not None:
            before = (parent.file, exported)
            steps.append(measure_step(FLOAT_EXPORT, keras, before, samples.labels))
    if artifact not in parents:
        steps.append(measure_step(artifact.facts.recipe, before, last, samples.labels))
    second = runs.get((artifact.file, True))
    again = finite(second)
    if second is not None and again is not None:
        target = (f"{artifact.file} in {second.engine}", again)
        steps.append(measure_step(ENGINE, last, target, samples.labels))
    return tuple(steps)


def _judge(
    manifest: Manifest,
    artifact: Artifact,
    run: Run,
    steps: tuple[Step, ...],
    samples: Samples,
    reference: NDArray[np.float32],
    margin_pt: float | None,
) -> ArtifactParity:
    probabilities = run.probabilities
    engine = artifact.facts.engine if probabilities is None else run.engine

    def result(verdict: Verdict, reason: str, **measures: Any) -> ArtifactParity:
        return ArtifactParity(
            file=artifact.file,
            recipe=artifact.facts.recipe,
            engine=engine,
            sha256=artifact.sha256,
            verdict=verdict,
            reason=f"{reason} ({CAVEAT})" if engine == CoreMLReferenceEngine.name else reason,
            **measures,
        )

    if probabilities is None:
        return result(Verdict.FAIL if run.crashed else Verdict.NOT_RUN, run.reason)
    broken = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(broken):
        return result(
            Verdict.FAIL,
            f"NaN or infinity in the outputs of {len(broken)} samples, first sample {broken[0]}",
        )
    strange = _first_without_probabilities(probabilities, artifact.facts.output)
    if strange is not None:
        return result(
            Verdict.FAIL,
            f"the outputs are no probabilities: those of sample {strange} sum to "
            f"{probabilities[strange].sum():g}; was the softmax lost?",
        )
    float_right = reference.argmax(axis=1) == samples.labels
    right = probabilities.argmax(axis=1) == samples.labels
    paired = compare_paired(
        n=len(samples),
        b=int((float_right & ~right).sum()),
        c=int((~float_right & right).sum()),
        margin_pt=artifact.facts.margin_pt if margin_pt is None else margin_pt,
    )
    reason = explain(paired)
    if paired.verdict != Verdict.PASS:
        reason = f"{reason}; {explain_steps(steps)}"
    accuracy, loss = score(probabilities, samples.labels)
    return result(
        Verdict(paired.verdict),
        reason,
        accuracy=accuracy,
        loss=loss,
        agreement=float((probabilities.argmax(axis=1) == reference.argmax(axis=1)).mean()),
        max_probability_change=float(np.abs(probabilities - reference).max()),
        mean_kl=mean_kl(reference, probabilities),
        sqnr_db=sqnr_db(reference, probabilities),
        calibration_error_change=calibration_error(probabilities, samples.labels)
        - calibration_error(reference, samples.labels),
        paired=paired,
        error_growth=measure_error_growth(paired, int((~float_right).sum())),
        classes=compare_classes(float_right, right, samples.labels, manifest.model.labels),
        steps=steps,
    )


def _first_without_probabilities(outputs: NDArray[np.float32], tensor: TensorSpec) -> int | None:
    """Returns the first sample whose outputs are not in [0, 1] with a sum of 1, or None."""
    # Float16 rounds each of them by 2⁻¹² at the most, an integer grid by half a step.
    step = tensor.quantization.scale / 2 if tensor.quantization else 2**-12
    slack = 1e-3 + step * outputs.shape[1]
    strange = (np.abs(outputs.sum(axis=1) - 1) > slack) | (outputs.min(axis=1) < -slack)
    return int(np.argmax(strange)) if strange.any() else None


def explain(paired: PairedResult) -> str:
    """Returns a paired verdict's reason in a sentence."""
    margin = f"−{paired.margin_pt:g} points"
    if paired.verdict == Verdict.PASS:
        return f"with 95 % confidence delta is above {margin} ({paired.one_sided_low_pt:+.3f})"
    if paired.verdict == Verdict.FAIL:
        return f"with 95 % confidence delta is below {margin} ({paired.one_sided_high_pt:+.3f})"
    more = f"{paired.n_to_settle:,} samples" if paired.n_to_settle else "no number of samples"
    return f"delta may lie on either side of {margin}; {more} like these would settle it"


def _float_probabilities(
    folder: Path, manifest: Manifest, samples: Samples, progress: Callable[[str], None]
) -> NDArray[np.float32]:
    """Returns the float model's outputs, from the folder if it has them for these samples."""
    path = folder / FLOAT_PREDICTIONS
    key = np.array([manifest.float_model.sha256, samples.sha256()])
    shape = (len(samples), len(manifest.model.labels))
    stored = _read_predictions(path, key, shape)
    if stored is not None:
        return stored
    progress(f"run {manifest.float_model.file} in Keras")
    try:
        model = load(folder / manifest.float_model.file)
    except EngineUnavailableError as error:
        raise EngineUnavailableError(
            f"{path} holds no predictions of the float model on these samples, and Keras is not "
            "installed to compute them: run `hemline verify` once where hemline[export] is "
            "installed, and copy the folder"
        ) from error
    probabilities = model.predict(samples.images).probabilities
    if not np.isfinite(probabilities).all():
        raise DataError(f"{manifest.float_model.file} gives NaN or infinity on the test samples")
    # Predictions on other samples, a release's say, are not given up for these.
    if not path.exists():
        archive = io.BytesIO()
        np.savez_compressed(archive, key=key, probabilities=probabilities)
        try:
            write_bytes(path, archive.getvalue())
        except OutputError as error:
            progress(f"the float predictions are not kept: {error}")
    return probabilities


def _read_predictions(
    path: Path, key: NDArray[np.str_], shape: tuple[int, int]
) -> NDArray[np.float32] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not np.array_equal(archive["key"], key):
                return None
            probabilities: NDArray[np.float32] = archive["probabilities"]
    except FileNotFoundError:
        return None
    except NPZ_ERRORS as error:
        raise DataError(f"{path} is damaged ({error}); delete it, it is made anew") from error
    if probabilities.shape != shape or probabilities.dtype != np.float32:
        raise DataError(f"{path} is damaged; delete it, it is made anew")
    return probabilities


def _require_fit(manifest: Manifest, samples: Samples) -> None:
    classes = len(manifest.model.labels)
    if samples.labels.min() < 0 or samples.labels.max() >= classes:
        raise DataError(
            f"{samples.source} has labels {samples.labels.min()} to {samples.labels.max()}, "
            f"the model has classes 0 to {classes - 1}"
        )


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

"""`hemline verify`: each artifact against its float model, on the same test samples.

parity.json is the record. Verdicts are those of `hemline.paired`; an output that holds NaN or
infinity is a FAIL whatever its accuracy.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.errors import DataError, EngineUnavailableError, OutputError
from hemline.files import write_bytes
from hemline.host import Host, describe_host
from hemline.manifest import Artifact, Manifest, check_sha256, read_manifest
from hemline.model import check_embedded_facts, load
from hemline.paired import PairedResult, Verdict, compare_paired
from hemline.samples import NPZ_ERRORS, Samples, resolve_samples

SCHEMA = "hemline.parity/1"
FILE_NAME = "parity.json"
FLOAT_PREDICTIONS = "float_predictions.npz"

# The least probability a cross-entropy takes the logarithm of, as in Keras.
_EPSILON = 1e-7


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
        floor_accuracy: the least accuracy that is no failure, if the manifest sets one.
        verdict: PASS or FAIL.
    """

    file: str
    sha256: str
    accuracy: float
    loss: float
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
        paired: the paired comparison with the float model.
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
    paired: PairedResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """A folder's artifacts against their float model."""

    model: str
    data: DataRecord
    host: Host
    float_model: FloatParity
    artifacts: tuple[ArtifactParity, ...]

    def verdicts(self) -> list[str]:
        """Returns every verdict, the float model's first."""
        return [self.float_model.verdict, *(artifact.verdict for artifact in self.artifacts)]


def verify(
    folder: Path, data: str | None = None, progress: Callable[[str], None] = lambda _: None
) -> ParityReport:
    """Compares each artifact of a folder with its float model.

    Args:
        folder: where manifest.json and the artifacts are.
        data: the test samples, as `hemline.samples.resolve_samples` takes them.
        progress: is told what is being run.

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
    accuracy, loss = score(reference, samples.labels)
    floor = manifest.model.floor_accuracy
    results = []
    for artifact in manifest.artifacts:
        progress(f"verify {artifact.file}")
        results.append(_verify_artifact(folder, artifact, samples, reference))
    return ParityReport(
        model=manifest.model.model,
        data=DataRecord(
            source=samples.source,
            split=samples.split,
            count=len(samples),
            sha256=samples.sha256(),
        ),
        host=describe_host(),
        float_model=FloatParity(
            file=manifest.float_model.file,
            sha256=manifest.float_model.sha256,
            accuracy=accuracy,
            loss=loss,
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
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return right, float(-np.log(np.clip(of_label, _EPSILON, 1)).mean())


def _verify_artifact(
    folder: Path, artifact: Artifact, samples: Samples, reference: NDArray[np.float32]
) -> ArtifactParity:
    def result(verdict: Verdict, reason: str, **measures: Any) -> ArtifactParity:
        return ArtifactParity(
            file=artifact.file,
            recipe=artifact.facts.recipe,
            engine=artifact.facts.engine,
            sha256=artifact.sha256,
            verdict=verdict,
            reason=reason,
            **measures,
        )

    try:
        model = load(folder / artifact.file)
    except EngineUnavailableError as error:
        return result(Verdict.NOT_RUN, str(error))
    probabilities = model.predict(samples.images).probabilities
    broken = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(broken):
        return result(
            Verdict.FAIL,
            f"NaN or infinity in the outputs of {len(broken)} samples, first sample {broken[0]}",
        )
    float_right = reference.argmax(axis=1) == samples.labels
    right = probabilities.argmax(axis=1) == samples.labels
    paired = compare_paired(
        n=len(samples),
        b=int((float_right & ~right).sum()),
        c=int((~float_right & right).sum()),
        margin_pt=artifact.facts.margin_pt,
    )
    accuracy, loss = score(probabilities, samples.labels)
    return result(
        Verdict(paired.verdict),
        explain(paired),
        accuracy=accuracy,
        loss=loss,
        agreement=float((probabilities.argmax(axis=1) == reference.argmax(axis=1)).mean()),
        max_probability_change=float(np.abs(probabilities - reference).max()),
        paired=paired,
    )


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

"""How each task's outputs are judged against the float model's.

Classes by accuracy (`hemline.parity.paired`), regression and autoencoders by the squared error of
each sample (`hemline.parity.bootstrap`), and tensors, of which only the float model says what they
should be, by their distance from its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.artifact_facts import ArtifactFacts
from hemline.errors import DataError
from hemline.facts import ModelFacts, Task
from hemline.parity.attribution import Step, explain_steps, measure_step
from hemline.parity.bootstrap import LossGrowth, compare_losses
from hemline.parity.measures import (
    calibration_error,
    cosine_similarity,
    cross_entropy,
    mean_kl,
    sqnr_db,
)
from hemline.parity.paired import (
    PairedResult,
    Verdict,
    compare_classes,
    compare_paired,
    measure_error_growth,
)
from hemline.samples import Samples

# Samples whose losses are worked out at a time, to bound memory.
_CHUNK = 256

Outputs = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How near an artifact's tensors come to the float model's.

    Attributes:
        sqnr_db: over all outputs, signal over noise; None: equal, or the float model's are all 0.
        least_sqnr_db: the bound that it is held to.
        cosine: the mean over samples of the cosine of the two outputs.
        least_cosine: the bound that it is held to.
        lowest_cosine: that of the worst sample, which has no bound.
        lowest_cosine_sample: which sample that is.
        max_change: the largest distance of any element.
    """

    sqnr_db: float | None
    least_sqnr_db: float
    cosine: float
    least_cosine: float
    lowest_cosine: float
    lowest_cosine_sample: int
    max_change: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What came of it.

    Attributes:
        verdict: PASS, FAIL or INCONCLUSIVE.
        reason: why, in a sentence.
        measures: for the record, by their names in `hemline.parity.verify`.
    """

    verdict: Verdict
    reason: str
    measures: Mapping[str, Any]


class Judge(ABC):
    """Judges outputs on the same samples as the float model's, all of them finite.

    Args:
        facts: the model's.
        samples: that it ran on.
        reference: the float model's outputs, float32 (n, *output shape).

    Raises:
        DataError: the samples lack what the task needs, or do not fit the model.
    """

    def __init__(self, facts: ModelFacts, samples: Samples, reference: Outputs) -> None:
        self.facts, self.samples, self.reference = facts, samples, reference

    def measure_float(self) -> Mapping[str, Any]:
        """Returns the float model's own measures, by their names in `hemline.parity.verify`."""
        return {}

    @abstractmethod
    def judge(self, artifact: ArtifactFacts, outputs: Outputs, steps: Sequence[Step]) -> Judgement:
        """Judges an artifact.

        Args:
            artifact: its facts, with the bounds to hold it to.
            outputs: float32 (n, *output shape).
            steps: its chain.
        """

    def measure_step(
        self, name: str, before: tuple[str, Outputs], after: tuple[str, Outputs]
    ) -> Step:
        """Measures one step of a chain, as `hemline.parity.attribution.measure_step`."""
        return measure_step(name, before, after)


class _ClassJudge(Judge):
    """Class probabilities, by accuracy."""

    def __init__(self, facts: ModelFacts, samples: Samples, reference: Outputs) -> None:
        super().__init__(facts, samples, reference)
        self._labels = labels_of(facts, samples)
        strange = _first_without_probabilities(reference)
        if strange is not None:
            raise DataError(
                f"the float model's outputs are no probabilities: those of sample {strange} sum to "
                f"{reference[strange].sum(dtype=np.float64):g}; if they are stored, delete them"
            )
        self._right = reference.argmax(axis=1) == self._labels

    def measure_float(self) -> Mapping[str, Any]:
        accuracy, loss = score(self.reference, self._labels)
        return {
            "accuracy": accuracy,
            "loss": loss,
            "calibration_error": calibration_error(self.reference, self._labels),
        }

    def judge(self, artifact: ArtifactFacts, outputs: Outputs, steps: Sequence[Step]) -> Judgement:
        grid = artifact.output.quantization
        strange = _first_without_probabilities(outputs, grid.scale if grid else 0.0)
        if strange is not None:
            return Judgement(
                verdict=Verdict.FAIL,
                reason=f"the outputs are no probabilities: those of sample {strange} sum to "
                f"{outputs[strange].sum(dtype=np.float64):g}; was the softmax lost?",
                measures={},
            )
        assert artifact.margin_pt is not None
        right = outputs.argmax(axis=1) == self._labels
        paired = compare_paired(
            n=len(outputs),
            b=int((self._right & ~right).sum()),
            c=int((~self._right & right).sum()),
            margin_pt=artifact.margin_pt,
        )
        accuracy, loss = score(outputs, self._labels)
        return Judgement(
            verdict=Verdict(paired.verdict),
            reason=_with_steps(paired.verdict, explain(paired), steps),
            measures={
                "accuracy": accuracy,
                "loss": loss,
                "agreement": float(
                    (outputs.argmax(axis=1) == self.reference.argmax(axis=1)).mean()
                ),
                "max_probability_change": float(np.abs(outputs - self.reference).max()),
                "mean_kl": mean_kl(self.reference, outputs),
                "sqnr_db": sqnr_db(self.reference, outputs),
                "calibration_error_change": calibration_error(outputs, self._labels)
                - calibration_error(self.reference, self._labels),
                "paired": paired,
                "error_growth": measure_error_growth(paired, int((~self._right).sum())),
                "classes": compare_classes(self._right, right, self._labels, self.facts.labels),
            },
        )

    def measure_step(
        self, name: str, before: tuple[str, Outputs], after: tuple[str, Outputs]
    ) -> Step:
        return measure_step(name, before, after, labels=self._labels)


class _LossJudge(Judge):
    """Values with a target each, by their squared error."""

    def __init__(self, facts: ModelFacts, samples: Samples, reference: Outputs) -> None:
        super().__init__(facts, samples, reference)
        if facts.task == Task.REGRESSION:
            self._targets: Outputs | None = _targets(facts, samples)
        else:
            self._targets = None
        self._losses = self._measure_losses(reference)

    def measure_float(self) -> Mapping[str, Any]:
        return {"loss": float(self._losses.mean())}

    def judge(self, artifact: ArtifactFacts, outputs: Outputs, steps: Sequence[Step]) -> Judgement:
        assert artifact.margin_loss_percent is not None
        growth = compare_losses(
            self._losses,
            self._measure_losses(outputs),
            margin_percent=artifact.margin_loss_percent,
        )
        return Judgement(
            verdict=Verdict(growth.verdict),
            reason=_with_steps(growth.verdict, explain_growth(growth), steps),
            measures={
                "loss": growth.artifact_loss,
                "sqnr_db": sqnr_db(self.reference, outputs),
                "loss_growth": growth,
            },
        )

    def measure_step(
        self, name: str, before: tuple[str, Outputs], after: tuple[str, Outputs]
    ) -> Step:
        return measure_step(
            name, before, after, mean_loss=lambda values: float(self._measure_losses(values).mean())
        )

    def _measure_losses(self, outputs: Outputs) -> NDArray[np.float64]:
        """Returns each sample's squared error, the mean over its elements, float64 (n,)."""
        return np.concatenate(
            [
                np.square(np.subtract(values, target, dtype=np.float64))
                .reshape(len(values), -1)
                .mean(axis=1)
                for values, target in self._pairs(outputs)
            ]
        )

    def _pairs(self, outputs: Outputs) -> Iterator[tuple[Outputs, Outputs]]:
        """Yields outputs with what they should be, a few samples at a time."""
        pixels = self.facts.input.preprocessing
        for start in range(0, len(outputs), _CHUNK):
            rows = slice(start, min(start + _CHUNK, len(outputs)))
            if self._targets is not None:
                target = self._targets[rows]
            else:
                # An autoencoder's target is its own input.
                target = self.samples.images[rows]
                if target.dtype == np.uint8 and pixels is not None:
                    target = pixels.table()[target]
            yield outputs[rows], target.reshape(-1, *self.facts.output_shape)


class _TensorJudge(Judge):
    """Tensors of which only the float model says how they should be."""

    def judge(self, artifact: ArtifactFacts, outputs: Outputs, steps: Sequence[Step]) -> Judgement:
        assert artifact.least_sqnr_db is not None
        assert artifact.least_cosine is not None
        cosines = np.array(
            [cosine_similarity(*pair) for pair in zip(self.reference, outputs, strict=True)]
        )
        worst = int(cosines.argmin())
        found = Fidelity(
            sqnr_db=sqnr_db(self.reference, outputs),
            least_sqnr_db=artifact.least_sqnr_db,
            cosine=float(cosines.mean()),
            least_cosine=artifact.least_cosine,
            lowest_cosine=float(cosines[worst]),
            lowest_cosine_sample=worst,
            max_change=float(np.abs(np.subtract(outputs, self.reference, dtype=np.float64)).max()),
        )
        verdict, reason = _explain_fidelity(found)
        return Judgement(
            verdict=verdict,
            reason=_with_steps(verdict, reason, steps),
            measures={"sqnr_db": found.sqnr_db, "fidelity": found},
        )


_JUDGES: dict[str, type[Judge]] = {
    Task.CLASSIFICATION: _ClassJudge,
    Task.REGRESSION: _LossJudge,
    Task.AUTOENCODER: _LossJudge,
    Task.TENSORS: _TensorJudge,
}


def judge_for(facts: ModelFacts, samples: Samples, reference: Outputs) -> Judge:
    """Returns the judge of a model's task.

    Raises:
        DataError: as `Judge`.
    """
    return _JUDGES[facts.task](facts, samples, reference)


def require_fit(facts: ModelFacts, samples: Samples) -> None:
    """Raises unless samples come with what a model's task needs.

    Raises:
        DataError: they do not, or it does not fit the model.
    """
    if facts.task == Task.CLASSIFICATION:
        labels_of(facts, samples)
    elif facts.task == Task.REGRESSION:
        _targets(facts, samples)


def labels_of(facts: ModelFacts, samples: Samples) -> NDArray[np.int64]:
    """Returns a classifier's samples' classes, int64 (n,).

    Raises:
        DataError: they have none, or one that the model does not have.
    """
    labels, classes = samples.labels, len(facts.labels)
    if labels is None:
        raise DataError(f"{samples.source} has no `labels`, which a test of a classifier needs")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{samples.source} has labels {labels.min()} to {labels.max()}, "
            f"the model has classes 0 to {classes - 1}"
        )
    return labels


def _targets(facts: ModelFacts, samples: Samples) -> Outputs:
    targets, shape = samples.targets, (len(samples), *facts.output_shape)
    if targets is None:
        raise DataError(f"{samples.source} has no `targets`, which a test of regression needs")
    # One number for each sample may stand without an axis of its own.
    if targets.shape != shape and (*targets.shape, 1) != shape:
        raise DataError(
            f"{samples.source} has targets of shape {targets.shape}, the model gives {shape}"
        )
    return targets.reshape(shape)


def score(probabilities: Outputs, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Returns top-1 accuracy in [0, 1] and mean cross-entropy in nats.

    Args:
        probabilities: float32 (n, classes).
        labels: int64 (n,).
    """
    right = float((probabilities.argmax(axis=1) == labels).mean())
    return right, cross_entropy(probabilities, labels)


def explain(paired: PairedResult) -> str:
    """Returns a paired verdict's reason in a sentence."""
    margin = f"−{paired.margin_pt:g} points"
    if paired.verdict == Verdict.PASS:
        return f"with 95 % confidence delta is above {margin} ({paired.one_sided_low_pt:+.3f})"
    if paired.verdict == Verdict.FAIL:
        return f"with 95 % confidence delta is below {margin} ({paired.one_sided_high_pt:+.3f})"
    return f"delta may lie on either side of {margin}; {_more(paired.n_to_settle)}"


def explain_growth(found: LossGrowth) -> str:
    """Returns the reason of a verdict on loss in a sentence."""
    margin = f"+{found.margin_percent:g} %"

    def end(percent: float | None) -> str:
        return "without bound" if percent is None else f"{percent:+.3g} %"

    if found.verdict == Verdict.PASS:
        high = end(found.one_sided_high_percent)
        return f"with 95 % confidence the loss grows by less than {margin} ({high})"
    if found.verdict == Verdict.FAIL:
        low = end(found.one_sided_low_percent)
        return f"with 95 % confidence the loss grows by more than {margin} ({low})"
    return f"the loss may grow by more or less than {margin}; {_more(found.n_to_settle)}"


def _explain_fidelity(found: Fidelity) -> tuple[Verdict, str]:
    noise = "equal" if found.sqnr_db is None else f"{found.sqnr_db:.1f} dB"
    if found.max_change and found.sqnr_db is None:
        return Verdict.FAIL, "the float model's outputs are all 0, and these are not"
    if found.sqnr_db is not None and found.sqnr_db < found.least_sqnr_db:
        return Verdict.FAIL, f"SQNR is {noise}, below {found.least_sqnr_db:g} dB"
    if found.cosine < found.least_cosine:
        return (
            Verdict.FAIL,
            f"the mean cosine is {found.cosine:.6f}, below {found.least_cosine:g}; the lowest is "
            f"{found.lowest_cosine:.6f}, of sample {found.lowest_cosine_sample}",
        )
    return Verdict.PASS, f"SQNR {noise} and mean cosine {found.cosine:.6f} are within their bounds"


def _more(n_to_settle: int | None) -> str:
    more = f"{n_to_settle:,} samples" if n_to_settle else "no number of samples"
    return f"{more} like these would settle it"


def _with_steps(verdict: str, reason: str, steps: Sequence[Step]) -> str:
    return reason if verdict == Verdict.PASS else f"{reason}; {explain_steps(steps)}"


def _first_without_probabilities(outputs: Outputs, scale: float = 0.0) -> int | None:
    """Returns the first sample whose outputs are not in [0, 1] with a sum of 1, or None.

    Args:
        outputs: float32 (n, classes).
        scale: of their integer grid, if they come from one.
    """
    # Float16 rounds each of them by 2⁻¹² at the most, an integer grid by half a step.
    slack = 1e-3 + (scale / 2 or 2**-12) * outputs.shape[1]
    sums = outputs.sum(axis=1, dtype=np.float64)
    strange = (np.abs(sums - 1) > slack) | (outputs.min(axis=1) < -slack)
    return int(np.argmax(strange)) if strange.any() else None

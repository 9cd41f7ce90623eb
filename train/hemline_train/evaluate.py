"""How good a classifier's probabilities are, given the true labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemline.errors import InputError

EPSILON = 1e-7
"""Probabilities are clipped to [EPSILON, 1 − EPSILON], as `keras.backend.epsilon()` does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """One class's scores in [0, 1]; 0 where there is nothing to divide by."""

    label: str
    samples: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A classifier's scores on one set of samples.

    Attributes:
        samples: how many.
        accuracy: top-1, in [0, 1].
        loss: mean categorical cross-entropy, in nats.
        right: how many are classified right.
        wrong: how many are not.
        classes: each class's scores, in the order of the labels.
        confusion: how often the class of the row was taken for the class of the column.
        best_class: the label with the highest F1.
        worst_class: the label with the lowest F1.
    """

    samples: int
    accuracy: float
    loss: float
    right: int
    wrong: int
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    best_class: str
    worst_class: str

    def __post_init__(self) -> None:
        names = {score.label for score in self.classes}
        for name in (self.best_class, self.worst_class):
            if name not in names:
                raise ValueError(f"{name!r} is none of the classes")


def evaluate(
    probabilities: NDArray[np.floating], labels: NDArray[np.int64], names: tuple[str, ...]
) -> Evaluation:
    """Scores probabilities against the true labels.

    Args:
        probabilities: float (n, classes), each row summing to 1.
        labels: int64 (n,), 0 to classes − 1.
        names: a name for each class.

    Raises:
        InputError: the shapes do not fit, there is no sample, a label is out of range, or a
            probability is NaN or infinite.
    """
    classes = len(names)
    if len(labels) == 0 or probabilities.shape != (len(labels), classes):
        raise InputError(
            f"probabilities have shape {probabilities.shape}, expected {(len(labels), classes)} "
            "for the labels and class names given, and at least one row"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"labels span {labels.min()} to {labels.max()}, expected 0 to {classes - 1}"
        )
    if not np.isfinite(probabilities).all():
        raise InputError("probabilities hold NaN or infinity; the model is broken: train it again")
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(labels * classes + predicted, minlength=classes**2)
    confusion = confusion.reshape(classes, classes)
    of_true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    right = int(np.trace(confusion))
    scores = tuple(_score_class(confusion, k, name) for k, name in enumerate(names))
    return Evaluation(
        samples=len(labels),
        accuracy=right / len(labels),
        loss=float(-np.log(of_true.clip(EPSILON, 1 - EPSILON)).mean()),
        right=right,
        wrong=len(labels) - right,
        classes=scores,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        best_class=max(scores, key=lambda score: score.f1).label,
        worst_class=min(scores, key=lambda score: score.f1).label,
    )


def _score_class(confusion: NDArray[np.int64], k: int, name: str) -> ClassScores:
    hits, actual, taken = int(confusion[k, k]), int(confusion[k].sum()), int(confusion[:, k].sum())
    return ClassScores(
        label=name,
        samples=actual,
        precision=hits / taken if taken else 0.0,
        recall=hits / actual if actual else 0.0,
        f1=2 * hits / (actual + taken) if actual + taken else 0.0,
    )

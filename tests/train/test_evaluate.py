from dataclasses import replace

import numpy as np
import pytest

from hemline.errors import InputError
from hemline_train.dataset import Dataset, one_hot, preprocess
from hemline_train.evaluate import evaluate
from hemline_train.models import ReferenceModel

NAMES = ("a", "b", "c")
PROBABILITIES = np.array(
    [[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]],
    np.float32,
)
LABELS = np.array([0, 1, 1, 0, 2])


def test_a_small_example_by_hand() -> None:
    result = evaluate(PROBABILITIES, LABELS, NAMES)
    assert result.confusion == ((2, 0, 0), (1, 1, 0), (1, 0, 0))
    assert (result.samples, result.right, result.wrong, result.accuracy) == (5, 3, 2, 0.6)
    # -(ln 1/2 + ln 1/4 + ln 1/2 + ln 1/2 + ln 1e-7) / 5
    assert result.loss == pytest.approx(3.9167665, abs=1e-6)
    assert [score.precision for score in result.classes] == [0.5, 1.0, 0.0]
    assert [score.recall for score in result.classes] == [1.0, 0.5, 0.0]
    assert [score.f1 for score in result.classes] == pytest.approx([2 / 3, 2 / 3, 0])
    assert [score.samples for score in result.classes] == [2, 2, 1]
    assert (result.best_class, result.worst_class) == ("a", "c")


def test_a_certain_answer_costs_next_to_nothing() -> None:
    result = evaluate(np.eye(3, dtype=np.float32), np.arange(3), NAMES)
    assert result.loss == pytest.approx(1e-7, rel=0.01)
    assert result.accuracy == 1.0


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (PROBABILITIES[:, :2], LABELS, r"shape \(5, 2\), expected \(5, 3\)"),
        (PROBABILITIES[:4], LABELS, r"shape \(4, 3\), expected \(5, 3\)"),
        (PROBABILITIES[:0], LABELS[:0], "at least one row"),
        (PROBABILITIES, LABELS + 1, "labels span 1 to 3, expected 0 to 2"),
        (PROBABILITIES * np.nan, LABELS, "NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_refused(
    probabilities: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(probabilities, labels, NAMES)


def test_it_agrees_with_keras(small_dataset: Dataset, small_reference: ReferenceModel) -> None:
    model = small_reference.build()
    model.compile(loss=small_reference.loss, metrics=["accuracy"])
    images, labels = preprocess(small_dataset.train_images), small_dataset.train_labels
    keras_loss, keras_accuracy = model.evaluate(images, one_hot(labels, 10), verbose=0)
    result = evaluate(model.predict(images, verbose=0), labels, small_dataset.labels)
    assert result.loss == pytest.approx(keras_loss, abs=1e-6)
    assert result.accuracy == pytest.approx(keras_accuracy, abs=1e-6)


def test_a_best_class_that_is_none_of_them() -> None:
    found = evaluate(np.eye(2, dtype=np.float32), np.array([0, 1]), ("a", "b"))
    for key in ("best_class", "worst_class"):
        with pytest.raises(ValueError, match="'c' is none of the classes"):
            replace(found, **{key: "c"})

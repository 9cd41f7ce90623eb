import dataclasses
from typing import Any

import numpy as np
import pytest

from hemline.errors import HemlineError
from hemline_train.dataset import Dataset, one_hot, preprocess, split_indices
from hemline_train.evaluate import evaluate
from hemline_train.fit import fit
from hemline_train.models import REFERENCE_MODELS, ReferenceModel
from hemline_train.progress import EpochResult, LineProgress
from hemline_train.settings import TrainSettings
from hemline_train.training import hash_weights


@pytest.fixture
def base(model_seed: int) -> TrainSettings:
    return TrainSettings(epochs=1, learning_rate=0.001, decay_rate=0.1, seed=model_seed)


class RecordedProgress:
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def start_epoch(self, epoch: int, batches: int) -> None:
        self.events.append((epoch, batches))

    def finish_batch(self) -> None:
        self.events.append("batch")

    def finish_epoch(self, result: EpochResult) -> None:
        self.events.append(result)


@pytest.mark.parametrize("name", ["cnn", "gru"])
def test_a_seed_fixes_the_weights(small_dataset: Dataset, name: str, base: TrainSettings) -> None:
    def train() -> str:
        model, _ = fit(REFERENCE_MODELS[name], small_dataset, base, LineProgress(name, 1))
        return hash_weights(model)

    assert train() == train()


def test_the_best_weights_are_kept_and_patience_ends_the_run(
    small_dataset: Dataset, small_reference: ReferenceModel, base: TrainSettings
) -> None:
    settings = dataclasses.replace(base, epochs=40, learning_rate=0.5, patience=2)
    model, curves = fit(small_reference, small_dataset, settings, LineProgress("small", 40))
    best = curves.best_epoch
    assert len(curves.val_loss) == best + 1 + 2 < 40
    assert curves.val_loss[-1] > curves.val_loss[best]
    _, validation = split_indices(small_dataset.train_labels, 0)
    images, labels = small_dataset.train_images[validation], small_dataset.train_labels[validation]
    loss, _ = model.evaluate(preprocess(images), one_hot(labels, 10), verbose=0)
    # Added up in other batches, in float32.
    assert loss == pytest.approx(curves.val_loss[best], rel=1e-5)


def test_learning_rate_and_progress_follow_the_settings(
    small_dataset: Dataset, small_reference: ReferenceModel, base: TrainSettings
) -> None:
    progress = RecordedProgress()
    settings = dataclasses.replace(base, epochs=4, constant_epochs=2, decay_rate=0.5)
    _, curves = fit(small_reference, small_dataset, settings, progress)
    assert curves.learning_rate == pytest.approx([1e-3, 1e-3, 6.0653066e-4, 3.6787944e-4])
    # 240 training samples make two batches of at most 128.
    assert progress.events[:3] == [(0, 2), "batch", "batch"]
    results = [event for event in progress.events if isinstance(event, EpochResult)]
    assert tuple(result.val_loss for result in results) == curves.val_loss
    assert [result.epoch for result in results] == [0, 1, 2, 3]


def test_a_few_epochs_teach_something(
    small_dataset: Dataset, small_reference: ReferenceModel, base: TrainSettings
) -> None:
    settings = dataclasses.replace(base, epochs=15, learning_rate=0.05)
    model, _ = fit(small_reference, small_dataset, settings, RecordedProgress())
    probabilities = model.predict(preprocess(small_dataset.test_images), verbose=0)
    result = evaluate(probabilities, small_dataset.test_labels, small_dataset.labels)
    # Guessing gives 0.1, and 0.22 at most: four deviations of 100 samples.
    assert result.accuracy > 0.3


def test_a_loss_that_is_no_number_is_an_error(
    small_dataset: Dataset, small_reference: ReferenceModel, base: TrainSettings
) -> None:
    settings = dataclasses.replace(base, epochs=3, learning_rate=1e38)
    with np.errstate(all="ignore"), pytest.raises(HemlineError, match="lower the learning rate"):
        fit(small_reference, small_dataset, settings, RecordedProgress())

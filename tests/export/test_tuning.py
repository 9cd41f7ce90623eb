from typing import Any

import numpy as np
import pytest

from hemline.errors import DataError, ExportError
from hemline.facts import DatasetRef
from hemline.samples import Samples
from hemline_export.backend import tf_keras
from hemline_export.tuning import TuningSamples, hold_out, tune, validation_loss


def draw(count: int, split: str = "file") -> Samples:
    random = np.random.default_rng(0)
    return Samples(
        images=random.random((count, 4), np.float32),
        labels=random.integers(0, 3, count),
        indices=np.arange(count),
        source="x.npz",
        split=split,
    )


@pytest.fixture
def model(model_seed: int) -> Any:
    tf_keras.utils.set_random_seed(model_seed)
    return tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(3, "softmax")])


@pytest.fixture
def separable() -> TuningSamples:
    """The class is the largest of the first three values."""
    values = np.random.default_rng(1).normal(size=(600, 4)).astype(np.float32)
    labels = values[:, :3].argmax(axis=1)
    return TuningSamples(
        values=values[:500],
        labels=labels[:500],
        validation_values=values[500:],
        validation_labels=labels[500:],
        validation_source="the last hundred",
    )


def run(model: Any, samples: TuningSamples, rate: float, epochs: int = 3) -> dict[str, str]:
    return tune(model, samples, learning_rate=rate, epochs=epochs, prepare=lambda: None)


def test_a_tenth_of_a_file_is_held_out() -> None:
    train, validation, source = hold_out(draw(57), "x.npz", None)
    assert (len(train), len(validation)) == (52, 5)
    assert sorted([*train.indices, *validation.indices]) == list(range(57))
    assert source == "5 of 57 samples, drawn with seed 0"
    again = hold_out(draw(57), "x.npz", None)[1]
    np.testing.assert_array_equal(validation.indices, again.indices)


def test_a_file_too_small_to_hold_out_is_refused() -> None:
    with pytest.raises(DataError, match=r"x\.npz has 9 samples, too few to hold out a tenth"):
        hold_out(draw(9), "x.npz", None)


def test_a_data_set_has_its_own_validation_split() -> None:
    dataset = DatasetRef(name="synthetic", split_seed=3)
    train, validation, source = hold_out(draw(20, "train"), None, dataset)
    assert len(train) == 20
    assert (validation.split, source) == ("validation", "validation split")


def test_the_best_epoch_is_kept(model: Any, separable: TuningSamples) -> None:
    before = validation_loss(model, separable)
    settings = run(model, separable, 0.05)
    after = validation_loss(model, separable)
    assert after < before - 0.2
    assert settings == {
        "epochs": "3",
        "kept_epoch": "3",
        "learning_rate": "0.05",
        "batch": "128",
        "seed": "0",
        "training_samples": "500",
        "validation_source": "the last hundred",
        "validation_loss_untrained": f"{before:.5f}",
        "validation_loss": f"{after:.5f}",
    }


def test_the_untrained_weights_are_kept_where_no_epoch_is_better(
    model: Any, separable: TuningSamples
) -> None:
    run(model, separable, 0.05, epochs=20)
    before = model.get_weights()
    settings = run(model, separable, 50.0)
    assert settings["kept_epoch"] == "0"
    assert settings["validation_loss"] == settings["validation_loss_untrained"]
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_training_gives_the_same_weights(model: Any, separable: TuningSamples) -> None:
    begin, found = model.get_weights(), []
    for _ in range(2):
        model.set_weights(begin)
        run(model, separable, 0.05)
        found.append(model.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_epoch_is_prepared_once(model: Any, separable: TuningSamples) -> None:
    calls: list[int] = []
    tune(model, separable, learning_rate=0.01, epochs=3, prepare=lambda: calls.append(1))
    assert len(calls) == 3


def test_a_probability_of_zero_counts_as_the_least_that_keras_knows(
    separable: TuningSamples,
) -> None:
    loss = validation_loss(lambda values, training: np.float32([1, 0, 0]) + 0 * values[:, :3],  # noqa: ARG005
                           separable)  # fmt: skip
    share = float((separable.validation_labels != 0).mean())
    assert loss == pytest.approx(-share * np.log(1e-7), rel=1e-5)


def test_a_loss_that_is_no_number_is_refused(model: Any, separable: TuningSamples) -> None:
    with pytest.raises(ExportError, match="validation loss of nan"):
        run(model, separable, float("nan"))

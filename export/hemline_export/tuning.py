"""Fine-tuning: the labelled samples it takes, and the epoch whose weights are kept."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.errors import DataError, ExportError
from hemline.facts import DatasetRef
from hemline.samples import Samples, resolve_samples
from hemline_export.backend import tensorflow as tf
from hemline_export.backend import tf_keras

# The share of an .npz file, which names no validation split.
HELD_OUT = 0.1

BATCH = 128
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TuningSamples:
    """What a recipe trains on, and what it chooses the best epoch by.

    Attributes:
        values: float32 (n, *shape), preprocessed.
        labels: int64 (n,), in range.
        validation_values: float32 (m, *shape), none of which is trained on.
        validation_labels: int64 (m,).
        validation_source: where the validation samples come from, in words.
    """

    values: NDArray[np.float32]
    labels: NDArray[np.int64]
    validation_values: NDArray[np.float32]
    validation_labels: NDArray[np.int64]
    validation_source: str


def hold_out(
    samples: Samples, calibration: str | None, dataset: DatasetRef | None
) -> tuple[Samples, Samples, str]:
    """Returns training and validation samples, and in words where the latter come from.

    A data set of the entry points has a validation split; of a file, a seeded tenth is held out.

    Args:
        samples: the training samples that `resolve_samples` found.
        calibration: what it was asked for.
        dataset: likewise.

    Raises:
        DataError: the file is too small to hold out a sample.
    """
    if samples.split == "train":
        return samples, resolve_samples(calibration, dataset, "validation"), "validation split"
    count = int(len(samples) * HELD_OUT)
    if count == 0:
        raise DataError(
            f"{samples.source} has {len(samples)} samples, too few to hold out a tenth and train "
            "on the rest: give more, or choose recipes that do not train"
        )
    order = np.random.default_rng(SEED).permutation(len(samples))
    source = f"{count} of {len(samples)} samples, drawn with seed {SEED}"
    return samples.take(order[count:]), samples.take(order[:count]), source


def tune(
    model: Any,
    samples: TuningSamples,
    *,
    learning_rate: float,
    epochs: int,
    prepare: Callable[[], None],
) -> dict[str, str]:
    """Trains a tf_keras classifier with Adam, and leaves it with the best epoch's weights.

    The model is called as in inference, so that what is trained is what will be converted:
    dropout is off, and batch statistics, masks and integer grids stay as they are. The best epoch
    has the least cross-entropy on the validation samples; the untrained weights take part.

    Args:
        model: float32 (n, *shape) → float32 probabilities (n, classes).
        samples: to train on and to choose by.
        learning_rate: of Adam.
        epochs: how many are trained.
        prepare: called before each epoch.

    Returns:
        The settings and what they led to, for the manifest.

    Raises:
        ExportError: a loss is no finite number.
    """
    variables = model.trainable_variables
    optimizer = tf_keras.optimizers.Adam(learning_rate)
    optimizer.build(variables)

    @tf.function  # type: ignore[untyped-decorator]
    def step(values: Any, labels: Any) -> None:
        with tf.GradientTape() as tape:
            losses = tf_keras.losses.sparse_categorical_crossentropy(
                labels, model(values, training=False)
            )
            loss = tf.reduce_mean(losses)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    random = np.random.default_rng(SEED)
    prepare()
    losses = [validation_loss(model, samples)]
    best, weights = 0, _read(model)
    for epoch in range(1, epochs + 1):
        if epoch > 1:
            prepare()
        order = random.permutation(len(samples.values))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            step(tf.constant(samples.values[batch]), tf.constant(samples.labels[batch]))
        losses.append(validation_loss(model, samples))
        if losses[-1] < losses[best]:
            best, weights = epoch, _read(model)
    for variable, value in zip(model.variables, weights, strict=True):
        variable.assign(value)
    return {
        "epochs": str(epochs),
        "kept_epoch": str(best),
        "learning_rate": f"{learning_rate:g}",
        "batch": str(BATCH),
        "seed": str(SEED),
        "training_samples": str(len(samples.values)),
        "validation_source": samples.validation_source,
        "validation_loss_untrained": f"{losses[0]:.5f}",
        "validation_loss": f"{losses[best]:.5f}",
    }


def validation_loss(model: Any, samples: TuningSamples) -> float:
    """Returns the mean cross-entropy of a model's probabilities on the validation samples.

    Raises:
        ExportError: it is no finite number.
    """
    infer = tf.function(lambda values: model(values, training=False))
    values = samples.validation_values
    rows = np.concatenate(
        [infer(tf.constant(values[i : i + 500])).numpy() for i in range(0, len(values), 500)]
    )
    right = rows[np.arange(len(rows)), samples.validation_labels]
    # A probability of 0 counts as 10⁻⁷, as in Keras.
    loss = float(-np.log(np.maximum(right, 1e-7)).mean())
    if not math.isfinite(loss):
        raise ExportError(
            f"fine-tuning came to a validation loss of {loss}, expected a finite number; choose "
            "recipes that do not train"
        )
    return loss


def _read(model: Any) -> list[NDArray[Any]]:
    return [variable.numpy() for variable in model.variables]

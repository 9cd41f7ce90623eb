"""The training protocol that both reference models share."""

import math
from typing import Any

from hemline.errors import HemlineError
from hemline_train.backend import keras, tensorflow
from hemline_train.dataset import Dataset, one_hot, preprocess, split_indices
from hemline_train.models import CLASSES, ReferenceModel
from hemline_train.progress import EpochResult, Progress
from hemline_train.report import Curves
from hemline_train.settings import TrainSettings


def fit(
    reference: ReferenceModel, dataset: Dataset, settings: TrainSettings, progress: Progress
) -> tuple[Any, Curves]:
    """Trains a reference model with Adam, and keeps the weights of the least validation loss.

    The same arguments give the same weights on the same machine: every random generator is
    seeded, and TensorFlow's operations are made deterministic for the rest of the process.

    Returns:
        The trained, compiled Keras model, and what each epoch came to.

    Raises:
        HemlineError: a loss became NaN or infinite.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(settings.seed)
    tensorflow.config.experimental.enable_op_determinism()
    model = reference.build()
    images, labels = preprocess(dataset.train_images), dataset.train_labels
    targets = one_hot(labels, CLASSES) if reference.one_hot else labels
    train, validation = split_indices(labels, settings.split_seed, settings.validation_fraction)
    model.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate),
        loss=reference.loss,
        metrics=["accuracy"],
    )
    batches = math.ceil(len(train) / settings.batch_size)
    history = model.fit(
        images[train],
        targets[train],
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        validation_data=(images[validation], targets[validation]),
        callbacks=[
            keras.callbacks.LearningRateScheduler(
                lambda epoch, _: settings.learning_rate_at(epoch)
            ),
            keras.callbacks.EarlyStopping(
                monitor="val_loss", patience=settings.patience, restore_best_weights=True
            ),
            _report_to(progress, reference.name, settings.learning_rate, batches),
        ],
        verbose=0,
    )
    curves = {name: tuple(map(float, values)) for name, values in history.history.items()}
    return model, Curves(**curves)


def _report_to(progress: Progress, model_name: str, learning_rate: float, batches: int) -> Any:
    def finish_epoch(epoch: int, logs: dict[str, Any]) -> None:
        result = EpochResult(epoch=epoch, **{name: float(value) for name, value in logs.items()})
        if not (math.isfinite(result.loss) and math.isfinite(result.val_loss)):
            raise HemlineError(
                f"{model_name}: after epoch {epoch + 1} the loss is {result.loss} and the "
                f"validation loss {result.val_loss}, expected finite numbers; lower the "
                f"learning rate (it began at {learning_rate})"
            )
        progress.finish_epoch(result)

    return keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, _: progress.start_epoch(epoch, batches),
        on_train_batch_end=lambda *_, **__: progress.finish_batch(),
        on_epoch_end=finish_epoch,
    )

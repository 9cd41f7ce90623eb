"""What a training run is told: two presets, and the learning rate of each epoch."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Preset = Literal["quick", "full"]
PRESET_EPOCHS: dict[Preset, int] = {"quick": 5, "full": 20}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The training protocol's numbers.

    Attributes:
        epochs: at most so many.
        batch_size: samples a step.
        learning_rate: Adam's, in the first epochs.
        constant_epochs: how many epochs the learning rate stays as it is.
        decay_rate: after that, it falls by the factor exp(−decay_rate) an epoch.
        patience: stop after this many epochs in a row without a lower validation loss.
        seed: of weights, shuffling and dropout.
        split_seed: of the draw of validation samples.
        validation_fraction: the share of the training samples held out.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float
    constant_epochs: int = 8
    decay_rate: float
    patience: int = 2
    seed: int
    split_seed: int = 0
    validation_fraction: float = 0.2

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.constant_epochs, self.patience) < 1:
            raise ValueError(
                "epochs, batch_size, constant_epochs and patience must be 1 or more, got "
                f"{self.epochs}, {self.batch_size}, {self.constant_epochs} and {self.patience}"
            )
        if not (0 < self.learning_rate < np.inf and 0 <= self.decay_rate < np.inf):
            raise ValueError(
                "learning_rate must be above 0 and decay_rate 0 or more, got "
                f"{self.learning_rate} and {self.decay_rate}"
            )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must be between 0 and 1, got {self.validation_fraction}"
            )
        if not (0 <= self.seed < 2**32 and 0 <= self.split_seed < 2**32):
            raise ValueError(f"seeds must be 0 to 2**32 - 1, got {self.seed} and {self.split_seed}")

    def learning_rate_at(self, epoch: int) -> float:
        """Returns the learning rate of an epoch, counted from 0."""
        if epoch < self.constant_epochs:
            return self.learning_rate
        decayed = epoch - self.constant_epochs + 1
        return self.learning_rate * float(np.exp(-self.decay_rate * decayed))

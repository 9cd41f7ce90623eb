"""The samples that quantization takes its ranges from: a seeded draw, on record."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from hemline.errors import DataError
from hemline.facts import CalibrationFacts, Preprocessing
from hemline.samples import Samples

DEFAULT_COUNT = 500


def draw_calibration(
    samples: Samples, *, count: int = DEFAULT_COUNT, seed: int = 0
) -> tuple[Samples, CalibrationFacts]:
    """Draws samples without replacement, and states which.

    Raises:
        DataError: there are fewer than `count`.
    """
    if not 1 <= count <= len(samples):
        raise DataError(
            f"calibration with {count} samples, but {samples.source} has {len(samples)}: "
            "choose another --calibration-count"
        )
    drawn = samples.take(np.random.default_rng(seed).choice(len(samples), count, replace=False))
    return drawn, CalibrationFacts(
        source=drawn.source,
        split=drawn.split,
        seed=seed,
        count=count,
        indices_sha256=hashlib.sha256(drawn.indices.astype("<i8").tobytes()).hexdigest(),
    )


def preprocess(samples: Samples, preprocessing: Preprocessing | None) -> NDArray[np.float32]:
    """Returns samples as the float model takes them, float32 of the same shape.

    Raises:
        DataError: they are uint8 pixels, and there is no preprocessing for those.
    """
    if samples.images.dtype == np.float32:
        return samples.images
    if preprocessing is None:
        raise DataError(
            f"{samples.source} holds uint8 pixels, and how this model takes those is not known: "
            "give --input-mean and --input-std (the value is (pixel − mean) / std), or float32"
        )
    values: NDArray[np.float32] = preprocessing.table()[samples.images]
    return values

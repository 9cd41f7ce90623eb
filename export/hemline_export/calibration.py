"""The samples that quantization takes its ranges from: a seeded draw, on record."""

import hashlib
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from hemline.artifact_facts import CalibrationFacts
from hemline.errors import DataError
from hemline.facts import ModelFacts, Preprocessing
from hemline.samples import Samples, resolve_samples

DEFAULT_COUNT = 500
# Of fewer, one odd sample decides a range.
LEAST_COUNT = 10


class Ranges(StrEnum):
    """How the range of an activation is taken from what the calibration samples make of it."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"


def draw_calibration(
    samples: Samples, *, count: int = DEFAULT_COUNT, seed: int = 0
) -> tuple[Samples, CalibrationFacts]:
    """Draws samples without replacement, and states which.

    Raises:
        DataError: there are fewer than `count`, or that is too few to take a range from.
    """
    if count < LEAST_COUNT:
        raise DataError(
            f"calibration with {count} samples: {LEAST_COUNT} are the least that give a range; "
            "choose a larger --calibration-count"
        )
    if not 0 <= seed < 1 << 64:
        raise DataError(f"a calibration seed is 0 to 2**64 - 1, got {seed}")
    if count > len(samples):
        raise DataError(
            f"calibration with {count} samples, but {samples.source} has {len(samples)}: give "
            "more samples, or choose a smaller --calibration-count"
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


def require_untested(drawn: Samples, model: ModelFacts) -> None:
    """Refuses a file's samples if the model's data set has some of them in its test split.

    Their values are compared, so that pixels and what became of them are the same sample. Where
    the data set is not at hand nothing is compared: `hemline verify` does so by hashes.

    Raises:
        DataError: there are such samples.
    """
    if drawn.split != "file" or model.dataset is None:
        return
    try:
        test = resolve_samples(None, model.dataset, "test")
    except DataError:
        return
    pixels = model.input.preprocessing
    tested = {image.tobytes() for image in preprocess(test, pixels)}
    common = [
        int(index)
        for index, image in zip(drawn.indices, preprocess(drawn, pixels), strict=True)
        if image.tobytes() in tested
    ]
    if common:
        raise DataError(
            f"{drawn.source}: {len(common)} of the {len(drawn)} calibration samples, sample "
            f"{common[0]} for one, are among the test samples of {test.source}: a test on them "
            "would prove nothing; calibrate with training samples"
        )

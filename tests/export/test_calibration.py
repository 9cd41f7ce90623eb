import hashlib

import numpy as np
import pytest

from hemline.errors import DataError
from hemline.facts import Preprocessing
from hemline.samples import Samples
from hemline_export.calibration import draw_calibration, preprocess


@pytest.fixture
def samples() -> Samples:
    return Samples(
        images=np.arange(20, dtype=np.uint8).reshape(10, 2),
        labels=np.zeros(10, np.int64),
        indices=np.arange(100, 110),
        source="tiny",
        split="train",
    )


def test_a_draw_is_on_record(samples: Samples) -> None:
    drawn, facts = draw_calibration(samples, count=4, seed=1)
    again, same = draw_calibration(samples, count=4, seed=1)
    np.testing.assert_array_equal(drawn.images, again.images)
    assert facts == same
    assert len(set(drawn.indices.tolist())) == 4
    assert (facts.source, facts.split, facts.seed, facts.count) == ("tiny", "train", 1, 4)
    expected = hashlib.sha256(drawn.indices.astype("<i8").tobytes()).hexdigest()
    assert facts.indices_sha256 == expected


def test_another_seed_draws_others(samples: Samples) -> None:
    one, two = (draw_calibration(samples, count=4, seed=seed)[1] for seed in (1, 2))
    assert one.indices_sha256 != two.indices_sha256


@pytest.mark.parametrize("count", [0, 11])
def test_more_than_there_are_is_refused(samples: Samples, count: int) -> None:
    with pytest.raises(DataError, match=f"calibration with {count} samples, but tiny has 10"):
        draw_calibration(samples, count=count)


def test_pixels_need_a_preprocessing(samples: Samples) -> None:
    values = preprocess(samples, Preprocessing(mean=1.0, std=2.0))
    assert values[0].tolist() == [-0.5, 0.0]
    with pytest.raises(DataError, match="give --input-mean and --input-std"):
        preprocess(samples, None)

import hashlib

import numpy as np
import pytest

from hemline_train.garments import draw_garments


def test_shapes_types_and_balance() -> None:
    images, labels = draw_garments(205, 7)
    assert images.shape == (205, 28, 28, 1)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [21] * 5 + [20] * 5


def test_a_seed_always_gives_the_same_bytes() -> None:
    images, labels = draw_garments(100, 7)
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert digest == "68001d3ef1d2acd7d9af33b8219b3db3a98cb6bbd79f1f068652fbccda045063"
    assert not np.array_equal(images, draw_garments(100, 8)[0])


def test_no_two_pictures_are_alike_and_none_is_empty() -> None:
    images, _ = draw_garments(1000, 3)
    assert len(np.unique(images.reshape(1000, -1), axis=0)) == 1000
    assert images.reshape(1000, -1).max(axis=1).min() > 60


def test_classes_can_be_learned_but_not_by_their_mean_alone() -> None:
    images, labels = draw_garments(2000, 1)
    flat = images.reshape(len(images), -1).astype(np.float64)
    means = np.stack([flat[:1000][labels[:1000] == k].mean(axis=0) for k in range(10)])
    distances = ((flat[1000:, None] - means) ** 2).sum(axis=2)
    accuracy = (distances.argmin(axis=1) == labels[1000:]).mean()
    assert accuracy == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_few_can_be_drawn(count: int) -> None:
    images, labels = draw_garments(count, 0)
    assert images.shape == (count, 28, 28, 1)
    assert labels.shape == (count,)

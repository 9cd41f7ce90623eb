import math

import numpy as np
import pytest

from hemline.parity.measures import (
    calibration_error,
    cosine_similarity,
    cross_entropy,
    mean_kl,
    sqnr_db,
)


def rows(*values: tuple[float, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(values, np.float32)


def test_cross_entropy() -> None:
    probabilities = rows((0.5, 0.5), (0.25, 0.75))
    assert cross_entropy(probabilities, np.array([0, 0])) == pytest.approx(
        (math.log(2) + math.log(4)) / 2
    )


def test_a_probability_of_zero_costs_what_keras_says() -> None:
    assert cross_entropy(rows((0.0, 1.0)), np.array([0])) == pytest.approx(-math.log(1e-7))


def test_mean_kl() -> None:
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert mean_kl(rows((0.5, 0.5)), rows((0.25, 0.75))) == pytest.approx(expected)
    assert mean_kl(rows((0.1, 0.9)), rows((0.1, 0.9))) == 0.0


def test_sqnr_is_20_db_for_a_tenth_of_the_amplitude() -> None:
    signal = rows((1.0, -2.0, 3.0))
    assert sqnr_db(signal, signal * np.float32(1.1)) == pytest.approx(20, abs=1e-4)


def test_sqnr_is_unknown_without_noise_or_signal() -> None:
    assert sqnr_db(rows((1.0,)), rows((1.0,))) is None
    assert sqnr_db(rows((0.0,)), rows((1.0,))) is None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((1.0, 0.0), (2.0, 0.0), 1.0),
        ((1.0, 0.0), (0.0, 3.0), 0.0),
        ((1.0, 1.0), (-1.0, -1.0), -1.0),
        ((3.0, 4.0), (4.0, 3.0), 0.96),
        ((0.0, 0.0), (0.0, 0.0), 1.0),
        ((0.0, 0.0), (1.0, 0.0), 0.0),
    ],
)
def test_cosine_similarity(
    one: tuple[float, ...], other: tuple[float, ...], expected: float
) -> None:
    assert cosine_similarity(rows(one), rows(other)) == pytest.approx(expected)


def test_calibration_error_by_hand() -> None:
    # Two samples at 0.8 in one bin, one of them right: |0.8 − 0.5|; one at 0.6, right: |0.6 − 1|.
    probabilities = rows((0.8, 0.2), (0.8, 0.2), (0.4, 0.6))
    labels = np.array([0, 1, 1])
    assert calibration_error(probabilities, labels) == pytest.approx(
        (2 * 0.3 + 1 * 0.4) / 3, abs=1e-6
    )


def test_certain_and_right_is_calibrated() -> None:
    assert calibration_error(rows((1.0, 0.0), (0.0, 1.0)), np.array([0, 1])) == 0.0


def test_nan_is_not_hidden() -> None:
    assert math.isnan(mean_kl(rows((0.5, 0.5)), rows((math.nan, 0.5))))

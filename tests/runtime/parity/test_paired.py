import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hemline.parity.paired import (
    Z_ONE_SIDED,
    Z_TWO_SIDED,
    compare_classes,
    compare_paired,
    holm,
    mcnemar_exact,
    measure_error_growth,
    score_interval,
    score_statistic,
)

# z of a 90 % interval is that of a one-sided 95 % one.
PUBLISHED = [
    # Tango 1998, his two examples, and Agresti and Min 2005, Fagerland et al. 2014: as the tests
    # of the R package ratesci 0.3 (tests/testthat, "match published examples") quote them.
    (32, 3, 9, Z_TWO_SIDED, -0.027, 0.390, 3),
    (44, 1, 0, Z_ONE_SIDED, -0.096, 0.037, 3),
    (86, 8, 16, Z_TWO_SIDED, -0.020, 0.207, 3),
    (21, 7, 1, Z_TWO_SIDED, -0.517, -0.026, 3),
    # Cavo et al. 2012 in Fagerland, Lydersen and Laake, Statistical Analysis of Contingency
    # Tables, ch. 8: as the tests of the R package contingencytables quote it.
    (161, 16, 6, Z_TWO_SIDED, -0.1240, -0.0054, 4),
    # PropCIs::scoreci.mp(25, 28, 618, 0.9).
    (618, 25, 28, Z_ONE_SIDED, -0.0148, 0.0247, 4),
]


@pytest.mark.parametrize(("n", "b", "c", "z", "low", "high", "digits"), PUBLISHED)
def test_published_intervals(
    n: int, b: int, c: int, z: float, low: float, high: float, digits: int
) -> None:
    found = score_interval(n=n, b=b, c=c, z=z)
    assert (round(found[0], digits), round(found[1], digits)) == (low, high)


def likeliest_share_of_b(n: int, b: int, c: int, d: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share q of b that maximizes the likelihood if c's share is q + d, by ternary search."""

    def term(count: int, share: NDArray[np.float64]) -> NDArray[np.float64]:
        return count * np.log(np.maximum(share, 1e-300))

    def likelihood(q: NDArray[np.float64]) -> NDArray[np.float64]:
        return term(b, q) + term(c, q + d) + term(n - b - c, 1 - 2 * q - d)

    low, high = np.maximum(0, -d), (1 - d) / 2
    for _ in range(120):
        one, two = low + (high - low) / 3, high - (high - low) / 3
        better = likelihood(one) >= likelihood(two)
        low, high = np.where(better, low, one), np.where(better, two, high)
    return (low + high) / 2


@pytest.mark.parametrize("z", [Z_ONE_SIDED, Z_TWO_SIDED])
@pytest.mark.parametrize(
    ("n", "b", "c"),
    [
        (1, 0, 0),
        (1, 1, 0),
        (1, 0, 1),
        (10, 0, 0),
        (10, 10, 0),
        (10, 0, 10),
        (10, 5, 5),
        (10, 3, 0),
        (10, 0, 3),
        (40, 1, 12),
        (500, 9, 20),
        (3000, 31, 7),
    ],
)
def test_brute_force_finds_the_same_interval(n: int, b: int, c: int, z: float) -> None:
    step = 1e-4
    d = np.arange(-1 + step, 1, step)
    variance = n * (2 * likeliest_share_of_b(n, b, c, d) + d - d**2)
    inside = d[np.abs(c - b - n * d) <= z * np.sqrt(np.maximum(variance, 0))]
    low, high = score_interval(n=n, b=b, c=c, z=z)
    assert low == pytest.approx(inside.min(), abs=1.01 * step)
    assert high == pytest.approx(inside.max(), abs=1.01 * step)


@pytest.mark.parametrize("n", [1, 7, 6000, 10_000])
def test_without_disagreement_the_interval_has_a_closed_form(n: int) -> None:
    for z in (Z_ONE_SIDED, Z_TWO_SIDED):
        end = z**2 / (n + z**2)
        assert score_interval(n=n, b=0, c=0, z=z) == pytest.approx((-end, end), rel=1e-9)


def test_the_interval_ends_at_the_possible() -> None:
    assert score_interval(n=12, b=12, c=0, z=Z_TWO_SIDED)[0] == -1.0
    assert score_interval(n=12, b=0, c=12, z=Z_TWO_SIDED)[1] == 1.0


COUNTS = st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 5000)).filter(any)


@given(COUNTS)
def test_swapping_b_and_c_mirrors_the_interval(counts: tuple[int, int, int]) -> None:
    b, c, same = counts
    n = b + c + same
    low, high = score_interval(n=n, b=b, c=c, z=Z_TWO_SIDED)
    mirrored = score_interval(n=n, b=c, c=b, z=Z_TWO_SIDED)
    assert (-mirrored[1], -mirrored[0]) == pytest.approx((low, high), abs=1e-9)
    assert -1 <= low <= (c - b) / n <= high <= 1
    assert low < high


@given(COUNTS)
def test_the_ends_solve_the_score_equation(counts: tuple[int, int, int]) -> None:
    b, c, same = counts
    n = b + c + same
    low, high = score_interval(n=n, b=b, c=c, z=Z_TWO_SIDED)
    if low > -1 + 1e-6:
        assert score_statistic(n=n, b=b, c=c, difference=low) == pytest.approx(Z_TWO_SIDED)
    if high < 1 - 1e-6:
        assert score_statistic(n=n, b=b, c=c, difference=high) == pytest.approx(-Z_TWO_SIDED)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (1, 5, 0.21875),
        (5, 1, 0.21875),
        (0, 10, 0.001953125),
        (4, 4, 1.0),
        # contingencytables, McNemar_exact_cond_test_paired_2x2(cavo_2012), to 6 digits.
        (16, 6, 0.052479),
    ],
)
def test_mcnemar_exact(b: int, c: int, p: float) -> None:
    assert round(mcnemar_exact(b=b, c=c), 9) == pytest.approx(p, abs=5e-7)


def test_mcnemar_exact_takes_large_counts() -> None:
    assert mcnemar_exact(b=5000, c=5000) == 1.0
    assert 0 < mcnemar_exact(b=4900, c=5100) < 0.05
    assert mcnemar_exact(b=0, c=3000) == 0.0


def test_a_small_loss_passes() -> None:
    result = compare_paired(n=10_000, b=20, c=12, margin_pt=0.3)
    assert result.verdict == "PASS"
    assert result.delta_pt == pytest.approx(-0.08)
    assert -0.3 < result.one_sided_low_pt < -0.08 < result.one_sided_high_pt
    assert result.low_pt < result.one_sided_low_pt
    assert result.one_sided_high_pt < result.high_pt
    assert result.mcnemar_p == mcnemar_exact(b=20, c=12)
    assert result.n_to_settle is None


def test_a_large_loss_fails() -> None:
    result = compare_paired(n=10_000, b=90, c=20, margin_pt=0.3)
    assert result.verdict == "FAIL"
    assert result.one_sided_high_pt < -0.3
    assert result.n_to_settle is None


def test_a_gain_passes() -> None:
    assert compare_paired(n=200, b=0, c=30, margin_pt=0.1).verdict == "PASS"


def test_few_samples_prove_nothing() -> None:
    result = compare_paired(n=100, b=0, c=0, margin_pt=0.3)
    assert result.verdict == "INCONCLUSIVE"
    # z² (1 − m) / m with m = 0.003: the closed form for b = c = 0.
    assert result.n_to_settle == math.ceil(Z_ONE_SIDED**2 * 0.997 / 0.003) == 900


def test_a_loss_of_the_margin_itself_is_never_settled() -> None:
    result = compare_paired(n=10_000, b=40, c=10, margin_pt=0.3)
    assert (result.verdict, result.n_to_settle) == ("INCONCLUSIVE", None)


@pytest.mark.parametrize(
    ("n", "b", "c", "margin_pt", "decided"),
    [
        (10_000, 60, 40, 0.3, "PASS"),
        (10_000, 90, 50, 0.3, "FAIL"),
        (1_000, 0, 0, 0.1, "PASS"),
        (500, 12, 9, 1.0, "PASS"),
    ],
)
def test_the_number_that_would_settle_it(
    n: int, b: int, c: int, margin_pt: float, decided: str
) -> None:
    found = compare_paired(n=n, b=b, c=c, margin_pt=margin_pt)
    assert found.verdict == "INCONCLUSIVE"
    assert found.n_to_settle is not None
    for factor, verdict in ((1.2, decided), (0.8, "INCONCLUSIVE")):
        times = factor * found.n_to_settle / n
        scaled = compare_paired(
            n=round(n * times), b=round(b * times), c=round(c * times), margin_pt=margin_pt
        )
        assert scaled.verdict == verdict


@pytest.mark.parametrize(
    ("n", "b", "c"), [(0, 0, 0), (-1, 0, 0), (10, -1, 0), (10, 0, -1), (10, 6, 5)]
)
def test_impossible_counts(n: int, b: int, c: int) -> None:
    with pytest.raises(ValueError, match=f"impossible counts: n={n}, b={b}, c={c}"):
        compare_paired(n=n, b=b, c=c, margin_pt=0.3)


@pytest.mark.parametrize("margin_pt", [0.0, -0.3, 100.0, float("nan")])
def test_impossible_margins(margin_pt: float) -> None:
    with pytest.raises(ValueError, match="a margin must lie between 0 and 100 points"):
        compare_paired(n=10, b=0, c=0, margin_pt=margin_pt)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.2 times 4, 3, 2, 1, and never less than the one before.
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_error_growth_is_the_interval_of_delta_over_the_float_errors() -> None:
    paired = compare_paired(n=1000, b=12, c=4, margin_pt=1.0)
    growth = measure_error_growth(paired, float_errors=80)
    assert (growth.float_errors, growth.artifact_errors) == (80, 88)
    assert growth.growth == pytest.approx(0.1)
    assert growth.low == pytest.approx(-paired.high_pt / 8)
    assert growth.high == pytest.approx(-paired.low_pt / 8)


def test_a_model_without_errors_has_no_growth() -> None:
    paired = compare_paired(n=10, b=1, c=0, margin_pt=1.0)
    growth = measure_error_growth(paired, float_errors=0)
    assert (growth.artifact_errors, growth.growth, growth.low, growth.high) == (1, None, None, None)


def test_a_class_that_collapses_shows_in_an_unchanged_total() -> None:
    labels = np.repeat([0, 1, 2], 40)
    float_right, right = np.ones(120, bool), np.ones(120, bool)
    right[:15] = False
    float_right[40:55] = False
    total = compare_paired(n=120, b=15, c=15, margin_pt=5.0)
    assert total.delta_pt == 0.0
    lost, won, same = compare_classes(float_right, right, labels, ("a", "b", "c"))
    assert (lost.label, lost.n, lost.b, lost.c) == ("a", 40, 15, 0)
    assert lost.recall_change_pt == pytest.approx(-37.5)
    assert lost.holm_p == pytest.approx(3 * 2 * 0.5**15)
    assert (lost.falls, won.falls, same.falls) == (True, False, False)


def test_a_class_without_samples_is_no_failure() -> None:
    found = compare_classes(np.ones(2, bool), np.ones(2, bool), np.zeros(2, np.int64), ("a", "b"))
    assert (found[1].n, found[1].recall_change_pt, found[1].falls) == (0, None, False)


@pytest.mark.slow
@pytest.mark.parametrize(("share_b", "share_c"), [(0.006, 0.005), (0.02, 0.01), (0.001, 0.001)])
def test_the_interval_covers_the_truth_as_often_as_it_says(share_b: float, share_c: float) -> None:
    random = np.random.default_rng(2026)
    n, draws = 2000, 2000
    counts = random.multinomial(n, [share_b, share_c, 1 - share_b - share_c], draws)
    ends = [score_interval(n=n, b=int(b), c=int(c), z=Z_TWO_SIDED) for b, c, _ in counts]
    covered = np.mean([low <= share_c - share_b <= high for low, high in ends])
    # Three standard errors of a share of 0.95 over so many draws, and the counts' own steps.
    assert 0.95 - 0.02 < covered < 0.95 + 0.025


@pytest.mark.parametrize("margin_pt", [1e-14, 1e-160, 1e-300, 5e-324])
def test_a_margin_of_next_to_nothing_is_settled_by_no_number(margin_pt: float) -> None:
    for b in (0, 1):
        found = compare_paired(n=40, b=b, c=b, margin_pt=margin_pt)
        assert (found.verdict, found.n_to_settle) == ("INCONCLUSIVE", None)

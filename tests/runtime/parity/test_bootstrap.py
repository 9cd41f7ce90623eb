import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hemline.parity import bootstrap
from hemline.parity.bootstrap import LEAST_SAMPLES, compare_losses
from hemline.parity.paired import Z_ONE_SIDED, Z_TWO_SIDED

Losses = NDArray[np.float64]


def normal_losses(n: int, seed: int = 0) -> tuple[Losses, Losses]:
    """Losses around 10, and the same with about 0.2 more."""
    random = np.random.default_rng(seed)
    reference = random.normal(10, 1, n)
    return reference, reference + random.normal(0.2, 0.3, n)


def squared_errors(random: np.random.Generator, n: int, outputs: int) -> tuple[Losses, Losses]:
    """Those of normal errors, and with a third as much noise on top: the mean grows by 9 %."""
    errors, noise = random.normal(size=(2, n, outputs))
    return np.square(errors).mean(axis=1), np.square(errors + 0.3 * noise).mean(axis=1)


def test_normal_losses_agree_with_the_closed_form() -> None:
    reference, losses = normal_losses(2000)
    found = compare_losses(reference, losses, margin_percent=5.0, resamples=20_000)
    growth = losses.sum() / reference.sum() - 1
    # The standard error of a ratio of means: Cochran, Sampling Techniques (1977), section 6.3.
    error = np.std(losses - (1 + growth) * reference) / math.sqrt(2000) / reference.mean()
    assert found.growth_percent == pytest.approx(100 * growth, rel=1e-12)
    ends = (
        (found.low_percent, -Z_TWO_SIDED),
        (found.one_sided_low_percent, -Z_ONE_SIDED),
        (found.one_sided_high_percent, Z_ONE_SIDED),
        (found.high_percent, Z_TWO_SIDED),
    )
    for end, z in ends:
        assert end == pytest.approx(100 * (growth + z * error), abs=100 * 0.05 * error)


def test_skewed_losses_agree_with_another_implementation() -> None:
    i = np.arange(60)
    reference = (i * 7 % 11 + 1.0) ** 2
    losses = reference + 300.0 * (i % 20 == 0) + i / 30
    found = compare_losses(reference, losses, margin_percent=5.0, resamples=50_000)
    # scipy.stats.bootstrap (SciPy 1.17.1), paired, BCa, 200,000 resamples. Its plain percentiles
    # are 2.2, 10.7, 69.4 and 77.9.
    assert found.low_percent == pytest.approx(11.25, rel=0.02)
    assert found.one_sided_low_percent == pytest.approx(12.30, rel=0.02)
    assert found.one_sided_high_percent == pytest.approx(81.3, rel=0.02)
    assert found.high_percent == pytest.approx(94.4, rel=0.02)


def test_means_and_verdicts() -> None:
    reference, losses = normal_losses(2000)
    found = compare_losses(reference, losses, margin_percent=5.0)
    assert (found.float_loss, found.artifact_loss) == (reference.mean(), losses.mean())
    assert (found.n, found.verdict, found.n_to_settle) == (2000, "PASS", None)
    assert compare_losses(reference, losses, margin_percent=1.0).verdict == "FAIL"
    assert compare_losses(losses, reference, margin_percent=0.01).verdict == "PASS"
    open_ = compare_losses(reference, losses, margin_percent=2.0)
    assert open_.verdict == "INCONCLUSIVE"
    assert open_.n_to_settle is not None
    assert open_.n_to_settle > 2000


def test_what_would_settle_it_does() -> None:
    reference, losses = normal_losses(500)
    margin = 100 * (losses.sum() / reference.sum() - 1) + 0.15
    found = compare_losses(reference, losses, margin_percent=margin)
    assert found.verdict == "INCONCLUSIVE"
    assert found.n_to_settle is not None
    times = found.n_to_settle / 500
    fewer, more = int(times * 0.8) or 1, math.ceil(times * 1.2)
    verdicts = [
        compare_losses(np.tile(reference, k), np.tile(losses, k), margin_percent=margin).verdict
        for k in (fewer, more)
    ]
    assert verdicts == ["INCONCLUSIVE", "PASS"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 1e6), min_size=LEAST_SAMPLES, max_size=100),
    st.floats(0.001, 1e3),
)
def test_equal_losses_pass(values: list[float], margin: float) -> None:
    losses = np.array(values)
    found = compare_losses(losses, losses.copy(), margin_percent=margin, resamples=50)
    assert found.verdict == "PASS"
    assert (found.growth_percent, found.low_percent, found.high_percent) == (0, 0, 0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**32), st.integers(-60, 60))
def test_ends_are_in_order_and_units_do_not_matter(n: int, seed: int, exponent: int) -> None:
    reference, losses = squared_errors(np.random.default_rng(seed), n, 2)
    found, scaled = (
        compare_losses(reference * unit, losses * unit, margin_percent=5.0, resamples=200)
        for unit in (1.0, 2.0**exponent)
    )
    ends = [
        found.low_percent,
        found.one_sided_low_percent,
        found.one_sided_high_percent,
        found.high_percent,
    ]
    assert ends == sorted(ends)  # type: ignore[type-var]
    assert scaled.one_sided_high_percent == found.one_sided_high_percent
    assert scaled.verdict == found.verdict


def test_few_samples_are_never_a_verdict() -> None:
    few, enough = np.ones(LEAST_SAMPLES - 1), np.ones(LEAST_SAMPLES)
    for losses in (few, 9 * few):
        found = compare_losses(few, losses, margin_percent=1.0)
        assert (found.verdict, found.n_to_settle) == ("INCONCLUSIVE", LEAST_SAMPLES)
    assert compare_losses(enough, enough, margin_percent=1.0).verdict == "PASS"
    assert compare_losses(enough, 9 * enough, margin_percent=1.0).verdict == "FAIL"


def test_a_float_model_without_any_loss() -> None:
    nothing, one = np.zeros(100), np.zeros(100)
    one[7] = 1.0
    found = compare_losses(nothing, one, margin_percent=100.0)
    assert (found.verdict, found.growth_percent, found.high_percent) == ("FAIL", None, None)
    assert compare_losses(nothing, nothing, margin_percent=1.0).verdict == "PASS"
    # A third of the draws misses the only sample with a loss: no end lies above.
    found = compare_losses(one, one + 0.001, margin_percent=1.0)
    assert found.one_sided_high_percent is None
    assert found.verdict != "PASS"


def test_a_draw_is_repeated_by_its_seed_and_not_by_another() -> None:
    reference, losses = normal_losses(300)
    first, again = (compare_losses(reference, losses, margin_percent=5.0) for _ in range(2))
    assert first == again
    other = compare_losses(reference, losses, margin_percent=5.0, seed=1)
    assert other.high_percent != first.high_percent
    assert other.high_percent == pytest.approx(first.high_percent, rel=0.05)


def test_chunks_bound_memory_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, losses = normal_losses(1000)
    whole = compare_losses(reference, losses, margin_percent=5.0, resamples=100)
    sizes = []
    growth = bootstrap._growth

    def watch(one: Any, other: Any) -> Any:
        sizes.append(np.size(one))
        return growth(one, other)

    monkeypatch.setattr(bootstrap, "_CHUNK", 7_000)
    monkeypatch.setattr(bootstrap, "_growth", watch)
    parts = compare_losses(reference, losses, margin_percent=5.0, resamples=100)
    assert parts == whole
    assert max(sizes) == 7


@pytest.mark.parametrize(
    ("reference", "losses", "margin", "message"),
    [
        ([1.0], [1.0, 2.0], 1.0, "losses of shapes"),
        ([], [], 1.0, "losses of shapes"),
        ([np.nan], [1.0], 1.0, "finite and not negative"),
        ([1.0], [np.inf], 1.0, "finite and not negative"),
        ([1.0], [-1.0], 1.0, "finite and not negative"),
        ([1.0], [1.0], 0.0, "a margin must be above 0 percent"),
        ([1.0], [1.0], np.nan, "a margin must be above 0 percent"),
    ],
)
def test_impossible_losses(
    reference: list[float], losses: list[float], margin: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare_losses(np.array(reference), np.array(losses), margin_percent=margin)


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 10])
@pytest.mark.parametrize("n", [LEAST_SAMPLES, 400])
def test_coverage(n: int, outputs: int) -> None:
    trials, random = 1000, np.random.default_rng(1)
    below = above = 0
    for seed in range(trials):
        found = compare_losses(
            *squared_errors(random, n, outputs), margin_percent=1.0, resamples=1000, seed=seed
        )
        assert found.one_sided_low_percent is not None
        assert found.one_sided_high_percent is not None
        below += found.one_sided_low_percent <= 9.0
        above += found.one_sided_high_percent >= 9.0
    # 95 % to within 2 points, and twice the standard error of this count, 0.7 points.
    for covered in (below, above):
        assert 0.916 <= covered / trials <= 0.984


def test_a_growth_next_to_the_margin_is_settled_by_no_number() -> None:
    reference, losses = normal_losses(500)
    growth = compare_losses(reference, losses, margin_percent=5.0).growth_percent
    assert growth is not None
    found = compare_losses(reference, losses, margin_percent=growth * (1 + 1e-15))
    assert (found.verdict, found.n_to_settle) == ("INCONCLUSIVE", None)

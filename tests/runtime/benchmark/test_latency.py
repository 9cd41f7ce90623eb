from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemline.benchmark import latency as module
from hemline.benchmark.latency import Latency, compare_rounds, compare_runs, summarize_latency

ROUNDS, CALLS = 20, 5


def measured(
    median: float, noise: float, seed: int, rounds: int = ROUNDS, drift: float = 1
) -> Latency:
    """Samples of log-normal noise; `drift` is how many times slower the last round is."""
    random = np.random.default_rng(seed)
    times = median * random.lognormal(0, noise, (rounds, CALLS))
    times *= np.geomspace(1, drift, rounds)[:, np.newaxis]
    return summarize_latency([1], times.astype(int).ravel().tolist(), rounds)


def test_percentiles() -> None:
    latency = summarize_latency([7, 8], range(1000, 0, -1), 100)
    assert latency.median_ns == 500.5
    assert latency.p10_ns == pytest.approx(100.9)
    assert latency.p90_ns == pytest.approx(900.1)
    assert latency.p99_ns == pytest.approx(990.01)
    assert latency.spread == pytest.approx(799.2 / 500.5)
    assert latency.noisy
    assert latency.rounds == 100
    assert latency.warmup_ns == (7, 8)
    assert latency.samples_ns == tuple(range(1000, 0, -1))


def test_p99_needs_a_thousand_samples() -> None:
    assert summarize_latency([], range(999), 9).p99_ns is None
    assert summarize_latency([], range(1000), 10).p99_ns is not None


@pytest.mark.parametrize(("late", "noisy"), [(1250, False), (1251, True)])
def test_a_wide_spread_is_noisy(late: int, noisy: bool) -> None:
    latency = summarize_latency([], [1000] * 8 + [late] * 3, 1)
    assert latency.spread == (late - 1000) / 1000
    assert latency.noisy is noisy


def test_a_clock_that_stands_still_divides_nothing() -> None:
    still = summarize_latency([], [0] * 15, 15)
    assert still.spread == 0.0
    for compare in (compare_rounds, compare_runs):
        found = compare(still, still)
        assert (found.ratio, found.low, found.high) == (1.0, 1.0, 1.0)


def test_an_interval_needs_fifteen_rounds() -> None:
    few, enough = measured(1e5, 0.1, 0, rounds=14), measured(1e5, 0.1, 0, rounds=15)
    assert (few.low_ns, few.high_ns) == (None, None)
    assert enough.low_ns is not None
    for compare in (compare_rounds, compare_runs):
        assert compare(few, enough).low is compare(enough, few).high is None
        assert compare(enough, enough).low is not None


def test_rounds_are_drawn_whole() -> None:
    # Fifteen rounds of 100 equal samples: the interval is that of fifteen numbers.
    times = np.repeat(np.arange(1000, 2500, 100), 100)
    latency = summarize_latency([], times.tolist(), 15)
    assert (latency.low_ns, latency.median_ns, latency.high_ns) == (1400.0, 1700.0, 2100.0)


def rounds_that_differ(random: np.random.Generator, rounds: int) -> NDArray[np.int64]:
    """Samples around 100 µs: each round has a level of its own, and calls their noise."""
    level = random.normal(0, 0.05, (rounds, 1))
    calls = random.exponential(0.05, (rounds, 20))
    return np.rint(1e5 * np.exp(level + calls)).astype(np.int64)


@pytest.mark.parametrize(("rounds", "coverage"), [(15, 0.92), (40, 0.94)])
def test_the_interval_covers_the_median(
    monkeypatch: pytest.MonkeyPatch, rounds: int, coverage: float
) -> None:
    monkeypatch.setattr(module, "RESAMPLES", 400)
    random = np.random.default_rng(0)
    truth = np.median(rounds_that_differ(random, 50_000))
    covered = []
    for _ in range(400):
        found = summarize_latency([], rounds_that_differ(random, rounds).ravel().tolist(), rounds)
        assert found.low_ns is not None
        assert found.high_ns is not None
        covered.append(found.low_ns <= truth <= found.high_ns)
    # Three standard errors of a share of 400.
    assert np.mean(covered) == pytest.approx(coverage, abs=0.04)


def test_a_ratio_of_rounds() -> None:
    found = compare_rounds(measured(3e5, 0.05, 0), measured(1e5, 0.05, 1))
    assert found.low is not None
    assert found.high is not None
    assert found.low < 3 < found.high
    assert found.ratio == pytest.approx(3, rel=0.05)
    assert found.high - found.low < 0.3


def test_drift_that_both_meet_cancels() -> None:
    slow, fast = measured(3e5, 0.01, 0, drift=10), measured(1e5, 0.01, 1, drift=10)
    found = compare_rounds(slow, fast)
    assert found.low is not None
    assert found.high is not None
    assert 2.9 < found.low <= found.ratio <= found.high < 3.1
    # Two runs have no rounds in common, and so no drift that cancels.
    apart = compare_runs(slow, fast)
    assert apart.low is not None
    assert apart.high is not None
    assert apart.high - apart.low > 1


def test_only_rounds_that_both_were_in_are_paired() -> None:
    # The machine gets ten times slower after the shorter one was done.
    one = summarize_latency([], [300] * 75 + [3000] * 75, 30)
    other = summarize_latency([], [100] * 45, 15)
    assert compare_rounds(one, other).ratio == compare_rounds(one, other).high == 3.0
    assert compare_rounds(other, one).ratio == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("compare", [compare_rounds, compare_runs])
def test_two_equal_files_are_not_told_apart(seed: int, compare: object) -> None:
    assert callable(compare)
    found = compare(measured(1e5, 0.1, seed), measured(1e5, 0.1, 100 + seed))
    assert found.low < 1.05
    assert found.high > 0.95


def test_a_ratio_of_runs() -> None:
    found = compare_runs(measured(2e5, 0.05, 0), measured(1e5, 0.05, 1, rounds=40))
    assert found.low is not None
    assert found.high is not None
    assert found.low < 2 < found.high
    assert found.high - found.low < 0.2


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 0},
        {"rounds": 7},
        {"rounds": -4},
        {"samples_ns": ()},
        {"samples_ns": (1, -1)},
        {"median_ns": -1.0},
        {"p10_ns": -5.0},
    ],
)
def test_impossible_latencies(changes: dict[str, Any]) -> None:
    found = summarize_latency([5], [1000] * 40, 20)
    with pytest.raises(ValueError, match=r"samples of|expected 0 or more|below 0"):
        replace(found, **changes)

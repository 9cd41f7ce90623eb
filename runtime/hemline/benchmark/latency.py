"""What samples of latency say: percentiles, and intervals for medians and their ratios.

Samples of one round are alike, as they meet the machine in one state, so the rounds are what the
bootstrap draws anew, each with all of its samples: Efron and Tibshirani, An Introduction to the
Bootstrap (1993), section 8.6 for blocks and chapter 13 for the interval by percentiles; Kalibera
and Jones, Rigorous Benchmarking in Reasonable Time (ISMM 2013) for the level to draw at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Above this spread, (p90 − p10) / median, a result is marked as noisy.
NOISY_SPREAD = 0.25
# At least ten samples then lie above p99. From 368 samples on, the largest one bounds p99 from
# above with 97.5 % confidence (1 − 0.99ⁿ), but only if they are independent, which these are not.
LEAST_FOR_P99 = 1_000
# Fewer rounds say too little of how rounds differ. Where they differ as much as their calls do, the
# interval of a median covers it in 94 % of runs of 40 rounds, 93 of 20, 92 of 15, 90 of 10 and 85
# of 5: see tests/runtime/test_latency.py.
LEAST_ROUNDS = 15

RESAMPLES = 2_000
_SEED = 0
# How many draws are held at a time, to bound memory.
_CHUNK = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The time of one kind of call, in nanoseconds.

    Attributes:
        median_ns: p50.
        low_ns: lower end of the median's two-sided 95 % interval; None with fewer than
            `LEAST_ROUNDS` rounds.
        high_ns: upper end.
        p10_ns: tenth percentile.
        p90_ns: ninetieth.
        p99_ns: ninety-ninth; None with fewer than `LEAST_FOR_P99` samples.
        spread: (p90 − p10) / median.
        noisy: the spread is above `NOISY_SPREAD`: compare with care.
        rounds: how many rounds the samples are of, each with as many.
        warmup_ns: the calls before the first round, not counted.
        samples_ns: all that were counted, in the order measured.
    """

    median_ns: float
    low_ns: float | None
    high_ns: float | None
    p10_ns: float
    p90_ns: float
    p99_ns: float | None
    spread: float
    noisy: bool
    rounds: int
    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.samples_ns or len(self.samples_ns) % self.rounds:
            raise ValueError(
                f"{len(self.samples_ns)} samples of {self.rounds} rounds, expected as many of each"
            )
        if min(self.samples_ns) < 0:
            raise ValueError(f"a call took {min(self.samples_ns)} ns, expected 0 or more")
        if min(self.median_ns, self.p10_ns, self.p90_ns) < 0:
            raise ValueError(f"a percentile is below 0: {self.p10_ns} to {self.p90_ns} ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times as long one kind of call takes as another.

    Attributes:
        ratio: of the medians.
        low: lower end of its two-sided 95 % interval; None with fewer than `LEAST_ROUNDS` rounds.
        high: upper end.
    """

    ratio: float
    low: float | None
    high: float | None


def summarize_latency(warmup_ns: Sequence[int], samples_ns: Sequence[int], rounds: int) -> Latency:
    """Returns what samples in nanoseconds say (percentiles by NumPy's linear interpolation).

    Args:
        warmup_ns: the calls before the first round.
        samples_ns: those of the rounds, one round after the other.
        rounds: how many there were, each with as many samples.
    """
    p10, median, p90, p99 = (float(p) for p in np.percentile(samples_ns, [10, 50, 90, 99]))
    spread = (p90 - p10) / median if median else 0.0
    low, high = _interval(_drawn_medians(_by_round(samples_ns, rounds), _SEED), rounds)
    return Latency(
        median_ns=median,
        low_ns=low,
        high_ns=high,
        p10_ns=p10,
        p90_ns=p90,
        p99_ns=p99 if len(samples_ns) >= LEAST_FOR_P99 else None,
        spread=spread,
        noisy=spread > NOISY_SPREAD,
        rounds=rounds,
        warmup_ns=tuple(warmup_ns),
        samples_ns=tuple(samples_ns),
    )


def compare_rounds(one: Latency, other: Latency) -> Ratio:
    """Returns one/other for calls that took turns in the same rounds.

    Each round that both were in gives one ratio of medians, free of the machine's slow drift;
    the ratio is their median, and the interval the percentile bootstrap's over rounds.
    """
    rounds = min(one.rounds, other.rounds)
    before, after = (
        np.median(_by_round(latency.samples_ns, latency.rounds)[:rounds], axis=1)
        for latency in (one, other)
    )
    ratios = _divide(before, after)
    low, high = _interval(_drawn_medians(ratios[:, np.newaxis], _SEED), rounds)
    return Ratio(ratio=float(np.median(ratios)), low=low, high=high)


def compare_runs(one: Latency, other: Latency) -> Ratio:
    """Returns one/other for calls of two runs, whose rounds have nothing to do with each other.

    The ratio is that of the medians; each run's rounds are drawn anew by themselves.
    """
    drawn_one, drawn_other = (
        _drawn_medians(_by_round(latency.samples_ns, latency.rounds), seed)
        for latency, seed in ((one, _SEED), (other, _SEED + 1))
    )
    low, high = _interval(_divide(drawn_one, drawn_other), min(one.rounds, other.rounds))
    ratio = _divide(np.array(one.median_ns), np.array(other.median_ns))
    return Ratio(ratio=float(ratio), low=low, high=high)


def _by_round(samples_ns: Sequence[int], rounds: int) -> NDArray[np.float64]:
    """Returns samples as float64 (rounds, calls of a round)."""
    return np.reshape(np.asarray(samples_ns, np.float64), (rounds, -1))


def _drawn_medians(blocks: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Returns the median of all that is in n of n blocks, drawn with replacement, many times.

    Args:
        blocks: float64 (n, size).
        seed: of the draws.
    """
    n = len(blocks)
    draws = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    return np.concatenate(
        [
            np.median(blocks[draws[start : start + _CHUNK]], axis=(1, 2))
            for start in range(0, RESAMPLES, _CHUNK)
        ]
    )


def _interval(drawn: NDArray[np.float64], rounds: int) -> tuple[float, float] | tuple[None, None]:
    if rounds < LEAST_ROUNDS:
        return None, None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _divide(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    # A call that takes less than the clock's step seems to take no time at all.
    return np.maximum(one, 1.0) / np.maximum(other, 1.0)

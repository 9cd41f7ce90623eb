"""The paired comparison of two mean losses on the same samples, by bootstrap.

For each sample the float model has a loss and the artifact has one. Samples are drawn anew with
replacement, a sample's two losses together, and the growth of the mean loss is worked out for
each draw. The interval is Efron's BCa, which corrects the percentiles of those growths for bias
and for skewness: losses are skewed, and their growth is a ratio. Sources: Efron, Journal of the
American Statistical Association 82:171–185 (1987); Efron and Tibshirani, An Introduction to the
Bootstrap (1993), section 14.3.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hemline.parity.paired import MOST_TO_SETTLE, Verdict

SEED = 0
# Efron and Tibshirani ask for 1,000 or more for an interval. With these the share of draws beyond
# a one-sided 95 % end, 5 %, is known with a standard error of 0.34 %.
RESAMPLES = 4_000
# Draws of fewer samples say too little of the tails: see tests/runtime/parity/test_bootstrap.py.
LEAST_SAMPLES = 50

# How many drawn samples are held at a time, to bound memory.
_CHUNK = 1_000_000
# The ends of the two-sided 95 % interval, and between them those of the one-sided ones.
_LEVELS = (0.025, 0.05, 0.95, 0.975)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossGrowth:
    """By how much an artifact's mean loss exceeds its float model's, in percent of that.

    Attributes:
        n: samples.
        float_loss: the float model's mean loss.
        artifact_loss: the artifact's.
        growth_percent: 100 · (artifact_loss / float_loss − 1), as the ends below None where the
            float model's loss is 0 and the artifact's is not.
        low_percent: lower end of the two-sided 95 % interval.
        high_percent: upper end.
        one_sided_low_percent: lower end of the one-sided 95 % interval.
        one_sided_high_percent: upper end of the other, compared with the margin.
        margin_percent: the growth that is tolerated.
        resamples: how many draws of n samples.
        seed: of the draws.
        verdict: PASS, FAIL or INCONCLUSIVE.
        n_to_settle: if inconclusive, how many samples like these would decide it; None if
            decided, or if the growth is the margin to the letter.
    """

    n: int
    float_loss: float
    artifact_loss: float
    growth_percent: float | None
    low_percent: float | None
    high_percent: float | None
    one_sided_low_percent: float | None
    one_sided_high_percent: float | None
    margin_percent: float
    resamples: int
    seed: int
    verdict: str
    n_to_settle: int | None


def compare_losses(
    reference: NDArray[np.float64],
    losses: NDArray[np.float64],
    *,
    margin_percent: float,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> LossGrowth:
    """Judges the growth of a mean loss against a margin.

    PASS when the one-sided 95 % upper end lies below the margin, FAIL when the one-sided 95 %
    lower end lies above it, else INCONCLUSIVE, as always with fewer than `LEAST_SAMPLES`.

    Args:
        reference: the float model's loss on each sample, float64 (n,), finite and not negative.
        losses: the artifact's on the same samples, likewise.
        margin_percent: the growth that is tolerated, in percent of the float model's mean loss.
        resamples: how many draws of n samples.
        seed: of the draws.

    Raises:
        ValueError: losses that are not as above, or a margin that is not above 0.
    """
    if reference.shape != losses.shape or reference.ndim != 1 or len(reference) == 0:
        raise ValueError(f"losses of shapes {reference.shape} and {losses.shape}, expected (n,)")
    if not (np.isfinite([reference, losses]).all() and min(reference.min(), losses.min()) >= 0):
        raise ValueError("losses must be finite and not negative")
    if not 0 < margin_percent < math.inf:
        raise ValueError(f"a margin must be above 0 percent, got {margin_percent}")
    n, margin = len(reference), margin_percent / 100
    change = losses - reference
    growth = float(_growth(reference.sum(), change.sum()))
    low, one_low, one_high, high = _bca_ends(reference, change, growth, resamples, seed)
    verdict, n_to_settle = Verdict.INCONCLUSIVE, None
    if n >= LEAST_SAMPLES and one_high < margin:
        verdict = Verdict.PASS
    elif n >= LEAST_SAMPLES and one_low > margin:
        verdict = Verdict.FAIL
    elif growth != margin:
        # An interval's width falls with the square root of n.
        reach = one_high - growth if growth < margin else growth - one_low
        ratio = reach / abs(growth - margin)
        wanted = n * ratio * ratio
        n_to_settle = max(LEAST_SAMPLES, math.ceil(wanted)) if wanted < MOST_TO_SETTLE else None
    return LossGrowth(
        n=n,
        float_loss=float(reference.mean()),
        artifact_loss=float(losses.mean()),
        growth_percent=_percent(growth),
        low_percent=_percent(low),
        high_percent=_percent(high),
        one_sided_low_percent=_percent(one_low),
        one_sided_high_percent=_percent(one_high),
        margin_percent=margin_percent,
        resamples=resamples,
        seed=seed,
        verdict=verdict,
        n_to_settle=n_to_settle,
    )


def _bca_ends(
    reference: NDArray[np.float64],
    change: NDArray[np.float64],
    growth: float,
    resamples: int,
    seed: int,
) -> list[float]:
    """Returns the BCa interval's ends at `_LEVELS`."""
    if math.isinf(growth) or not change.any():
        # Every draw that has a loss at all has this growth.
        return [growth] * len(_LEVELS)
    drawn = _draw_growths(reference, change, resamples, seed)
    below = float(((drawn < growth).sum() + (drawn == growth).sum() / 2) / resamples)
    normal, least = NormalDist(), 1 / (2 * resamples)
    bias = normal.inv_cdf(min(max(below, least), 1 - least))
    # Each sample's empirical influence on the growth, up to a factor.
    influence = change - growth * reference
    influence /= np.abs(influence).max() or 1.0
    spread = float((influence**2).sum()) ** 1.5
    acceleration = float((influence**3).sum()) / (6 * spread) if spread else 0.0
    ends = []
    for level in _LEVELS:
        shifted = bias + normal.inv_cdf(level)
        room = 1 - acceleration * shifted
        corrected = normal.cdf(bias + shifted / room) if room > 0 else float(shifted > 0)
        ends.append(float(np.quantile(drawn, corrected, method="inverted_cdf")))
    return ends


def _draw_growths(
    reference: NDArray[np.float64], change: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Returns the growth in each of many draws of n samples with replacement."""
    random = np.random.default_rng(seed)
    n, growths = len(reference), np.empty(resamples)
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = random.integers(n, size=(rows, n))
        growths[start : start + rows] = _growth(
            reference[drawn].sum(axis=1), change[drawn].sum(axis=1)
        )
    return growths


def _growth(reference: NDArray[np.float64], change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns change / reference; where the reference is 0, 0 for no change, else infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = np.where(change == 0, 0.0, change / reference)
    return ratio


def _percent(share: float) -> float | None:
    return 100 * share if math.isfinite(share) else None

"""The paired comparison of two classifiers on the same samples.

For each sample either classifier is right or wrong. `b` counts the samples that only the first
(the float model) gets right, `c` those that only the second (the artifact) gets right. All of
the evidence on their difference in accuracy, (c − b) / n, lies in those two counts.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

# Standard normal quantiles: 95 % one-sided, and 95 % two-sided.
Z_ONE_SIDED = 1.6448536269514722
Z_TWO_SIDED = 1.959963984540054
# Nobody has as many samples: beyond it, no number of them settles a verdict.
MOST_TO_SETTLE = 1e15


class Verdict(StrEnum):
    """What a check came to."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_RUN = "NOT_RUN"


def require_verdict(verdict: str, known: Iterable[Verdict] = Verdict) -> None:
    """Raises unless a word is a verdict.

    Args:
        verdict: the word.
        known: the verdicts that it may be.

    Raises:
        ValueError: it is another.
    """
    if verdict not in tuple(known):
        raise ValueError(f"unknown verdict {verdict!r}; known: {', '.join(known)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedResult:
    """The difference in accuracy of an artifact and its float model. All `_pt` are points.

    Attributes:
        n: samples.
        b: float right, artifact wrong.
        c: float wrong, artifact right.
        delta_pt: artifact's accuracy less the float model's.
        low_pt: lower end of the two-sided 95 % interval.
        high_pt: upper end.
        one_sided_low_pt: lower end of the one-sided 95 % interval, compared with −margin.
        one_sided_high_pt: upper end of the other one-sided 95 % interval.
        mcnemar_p: exact two-sided p-value of McNemar's test that b and c are equally likely.
        margin_pt: the loss that is tolerated.
        verdict: PASS, FAIL or INCONCLUSIVE.
        n_to_settle: if inconclusive, how many samples would decide it if b and c kept their
            shares; None if decided, or if delta is −margin to the letter.
    """

    n: int
    b: int
    c: int
    delta_pt: float
    low_pt: float
    high_pt: float
    one_sided_low_pt: float
    one_sided_high_pt: float
    mcnemar_p: float
    margin_pt: float
    verdict: str
    n_to_settle: int | None


def compare_paired(*, n: int, b: int, c: int, margin_pt: float) -> PairedResult:
    """Judges a difference in accuracy against a margin.

    PASS when the one-sided 95 % lower end lies above −margin, FAIL when the one-sided 95 %
    upper end lies below it, else INCONCLUSIVE.

    Raises:
        ValueError: counts that no n samples can give, or a margin outside (0, 100).
    """
    if n < 1 or b < 0 or c < 0 or b + c > n:
        raise ValueError(f"impossible counts: n={n}, b={b}, c={c}")
    if not 0 < margin_pt < 100:
        raise ValueError(f"a margin must lie between 0 and 100 points, got {margin_pt}")
    low, high = score_interval(n=n, b=b, c=c, z=Z_TWO_SIDED)
    one_low, one_high = score_interval(n=n, b=b, c=c, z=Z_ONE_SIDED)
    verdict, n_to_settle = Verdict.INCONCLUSIVE, None
    if one_low > -margin_pt / 100:
        verdict = Verdict.PASS
    elif one_high < -margin_pt / 100:
        verdict = Verdict.FAIL
    else:
        # With fixed shares of b and c the score grows with the square root of n.
        score = score_statistic(n=n, b=b, c=c, difference=-margin_pt / 100)
        ratio = Z_ONE_SIDED / abs(score) if score else math.inf
        wanted = n * ratio * ratio
        # Fewer than there are: next to 0, a score is what rounding makes it.
        n_to_settle = math.ceil(wanted) if n <= wanted < MOST_TO_SETTLE else None
    return PairedResult(
        n=n,
        b=b,
        c=c,
        delta_pt=100 * (c - b) / n,
        low_pt=100 * low,
        high_pt=100 * high,
        one_sided_low_pt=100 * one_low,
        one_sided_high_pt=100 * one_high,
        mcnemar_p=mcnemar_exact(b=b, c=c),
        margin_pt=margin_pt,
        verdict=verdict,
        n_to_settle=n_to_settle,
    )


def score_statistic(*, n: int, b: int, c: int, difference: float) -> float:
    """Returns Tango's score statistic for a true difference (c − b) / n of `difference`.

    Under that difference it is about standard normal. `difference` lies in (−1, 1). Source:
    Tango, Statistics in Medicine 17:891–908 (1998), eq. 26 and 28, whose b is our c.
    """
    linear = -(b + c) + (2 * n + b - c) * difference
    constant = -b * difference * (1 - difference)
    # The maximum-likelihood share of `b` under the null: the larger root of
    # 2n·q² + linear·q + constant.
    share = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    distance = c - b - n * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def score_interval(*, n: int, b: int, c: int, z: float) -> tuple[float, float]:
    """Returns Tango's score interval for the difference (c − b) / n.

    Args:
        n: samples.
        b: only the first right.
        c: only the second right.
        z: the standard normal quantile of the coverage: each end excludes what lies beyond it
            at the level of a one-sided test with this quantile.
    """
    estimate = (c - b) / n
    return (
        _solve(lambda d: score_statistic(n=n, b=b, c=c, difference=d) - z, -1.0, estimate),
        _solve(lambda d: score_statistic(n=n, b=b, c=c, difference=d) + z, estimate, 1.0),
    )


def mcnemar_exact(*, b: int, c: int) -> float:
    """Returns the exact two-sided p-value of McNemar's test: binomial, b + c trials at ½."""
    trials, fewer = b + c, min(b, c)
    tail = ways = 1
    for k in range(fewer):
        ways = ways * (trials - k) // (k + 1)
        tail += ways
    return float(min(1.0, 2 * tail / 2**trials))


def _solve(function: Callable[[float], float], low: float, high: float) -> float:
    """Returns the root of a decreasing function by bisection, or the end where it has none."""
    for _ in range(60):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGrowth:
    """How the number of errors grew, given the float model's errors on these samples.

    A loss of 0.3 points sounds small; on a model that is 92 % right it is 4 % more errors.

    Attributes:
        float_errors: the float model's.
        artifact_errors: the artifact's.
        growth: artifact_errors / float_errors − 1; None if the float model makes none.
        low: lower end of its 95 % interval: Tango's for delta, over the float model's errors.
        high: upper end.
    """

    float_errors: int
    artifact_errors: int
    growth: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChange:
    """How one class's recall changed.

    Attributes:
        label: the class's name.
        n: samples of the class.
        b: of those, float right and artifact wrong.
        c: float wrong and artifact right.
        recall_change_pt: 100 · (c − b) / n; None for a class without samples.
        mcnemar_p: exact two-sided p-value.
        holm_p: the same, corrected for looking at every class (Holm 1979).
        falls: the recall fell, and holm_p is below 0.05.
    """

    label: str
    n: int
    b: int
    c: int
    recall_change_pt: float | None
    mcnemar_p: float
    holm_p: float
    falls: bool


def measure_error_growth(paired: PairedResult, float_errors: int) -> ErrorGrowth:
    """Returns the growth of the error count that a paired result means."""
    scale = -paired.n / 100 / float_errors if float_errors else None
    return ErrorGrowth(
        float_errors=float_errors,
        artifact_errors=float_errors + paired.b - paired.c,
        growth=None if scale is None else scale * paired.delta_pt + 0.0,
        low=None if scale is None else scale * paired.high_pt,
        high=None if scale is None else scale * paired.low_pt,
    )


def compare_classes(
    float_right: NDArray[np.bool_],
    right: NDArray[np.bool_],
    labels: NDArray[np.int64],
    names: Sequence[str],
) -> tuple[ClassChange, ...]:
    """Compares recall class by class, so that a class that loses shows in a good total.

    Args:
        float_right: bool (n,), where the float model is right.
        right: bool (n,), where the artifact is.
        labels: int64 (n,).
        names: of the classes.
    """
    counts = [
        (
            int((labels == k).sum()),
            int((float_right & ~right & (labels == k)).sum()),
            int((~float_right & right & (labels == k)).sum()),
        )
        for k in range(len(names))
    ]
    p_values = [mcnemar_exact(b=b, c=c) for _, b, c in counts]
    return tuple(
        ClassChange(
            label=name,
            n=n,
            b=b,
            c=c,
            recall_change_pt=100 * (c - b) / n if n else None,
            mcnemar_p=p,
            holm_p=corrected,
            falls=c < b and corrected < 0.05,
        )
        for name, (n, b, c), p, corrected in zip(
            names, counts, p_values, holm(p_values), strict=True
        )
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number, in their order.

    Source: Holm, Scandinavian Journal of Statistics 6:65–70 (1979).
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, position in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        corrected[position] = largest
    return corrected

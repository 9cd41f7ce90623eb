"""Is a quantized file faster than its float file here, or only smaller?

Both were timed in the same rounds, so each round gives one ratio of medians, free of the
machine's slow drift. The interval is the percentile bootstrap's over rounds. Source: Efron and
Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hemline.bench import BenchReport, FileBench, Latency
from hemline.manifest import Artifact

FASTER = "faster"
SIZE_ONLY = "size only"

# A gain that a user could notice. Two files of one speed may differ by less.
_LEAST_GAIN = 1.05
_RESAMPLES = 2000
_SEED = 0
# What a file is measured against: the first of these recipes that its engine has.
_FLOAT_RECIPES = ("float32", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One file's speed against the float file of the same engine.

    Attributes:
        file: its file name.
        reference: the float file's.
        ratio: the float file's median latency over this file's: above 1 is faster.
        low: lower end of its two-sided 95 % interval.
        high: upper end.
        verdict: `faster` if all of the interval is above 1.05, else `size only`.
    """

    file: str
    reference: str
    ratio: float
    low: float
    high: float
    verdict: str


def judge_speeds(artifacts: Sequence[Artifact], report: BenchReport) -> tuple[Speed, ...]:
    """Judges each timed artifact whose engine has a float file that was timed with it.

    Args:
        artifacts: those of one folder.
        report: what `bench` measured of them; Core ML by its first compute units.
    """
    timed: dict[str, FileBench] = {}
    for file in report.files:
        timed.setdefault(file.sha256, file)
    found = []
    for artifact in artifacts:
        references = [
            other
            for recipe in _FLOAT_RECIPES
            for other in artifacts
            if (other.facts.engine, other.facts.recipe) == (artifact.facts.engine, recipe)
        ]
        if not references or artifact in references[:1]:
            continue
        one, other = timed.get(references[0].sha256), timed.get(artifact.sha256)
        if one is None or other is None:
            continue
        ratio, low, high = compare_rounds(
            one.predict or one.bare, other.predict or other.bare, report.rounds
        )
        found.append(
            Speed(
                file=artifact.file,
                reference=references[0].file,
                ratio=ratio,
                low=low,
                high=high,
                verdict=FASTER if low > _LEAST_GAIN else SIZE_ONLY,
            )
        )
    return tuple(found)


def compare_rounds(slow: Latency, fast: Latency, rounds: int) -> tuple[float, float, float]:
    """Returns the median over rounds of slow/fast, and its 95 % interval.

    Args:
        slow: of the float file.
        fast: of the quantized file.
        rounds: how often they took turns; each latency has as many samples for every turn.
    """
    before, after = (
        np.median(np.reshape(latency.samples_ns, (rounds, -1)), axis=1) for latency in (slow, fast)
    )
    ratios = before / after
    draws = np.random.default_rng(_SEED).integers(0, rounds, (_RESAMPLES, rounds))
    low, high = np.percentile(np.median(ratios[draws], axis=1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)

"""Is a quantized file faster than its float file here, or only smaller?"""

from dataclasses import dataclass

from hemline.benchmark.latency import Ratio

FASTER = "faster"
SIZE_ONLY = "size only"

# What a file is measured against: the first of these recipes that its engine has.
FLOAT_RECIPES = ("float32", "float16")
# A gain that a user could notice. Two files of one speed may differ by less.
_LEAST_GAIN = 1.05


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

    def __post_init__(self) -> None:
        if self.verdict not in (FASTER, SIZE_ONLY):
            raise ValueError(
                f"unknown verdict of speed {self.verdict!r}; known: {FASTER}, {SIZE_ONLY}"
            )


def judge_speed(file: str, reference: str, found: Ratio) -> Speed | None:
    """Judges how often a file's latency goes into its float file's; None without an interval."""
    if found.low is None or found.high is None:
        return None
    return Speed(
        file=file,
        reference=reference,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        verdict=FASTER if found.low > _LEAST_GAIN else SIZE_ONLY,
    )

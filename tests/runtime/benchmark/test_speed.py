import pytest

from hemline.benchmark.latency import Ratio
from hemline.benchmark.speed import Speed, judge_speed
from hemline.report import format_speed


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.06, 3.0, "faster"), (1.05, 3.0, "size only"), (0.5, 0.7, "size only")],
)
def test_faster_beyond_what_a_user_could_miss(low: float, high: float, verdict: str) -> None:
    found = judge_speed("a.int8.tflite", "a.float32.tflite", Ratio(ratio=2.987, low=low, high=high))
    assert found == Speed(
        file="a.int8.tflite",
        reference="a.float32.tflite",
        ratio=2.987,
        low=low,
        high=high,
        verdict=verdict,
    )
    assert format_speed(found) == f"2.99× {verdict}"


def test_no_interval_no_verdict() -> None:
    assert judge_speed("a", "b", Ratio(ratio=2.0, low=None, high=None)) is None

from itertools import accumulate, cycle
from typing import Any

import pytest

from hemline.benchmark import timing
from hemline.benchmark.timing import Call, Case, Schedule, describe_clock, take_turns


class Clock:
    """Stands still but for the calls, which it lists by name."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now

    def call(self, name: str, takes_ns: int) -> Call:
        def made(argument: Any) -> None:
            assert argument == f"of {name}"
            self.calls.append(name)
            self.now += takes_ns

        return Call(made, f"of {name}")


def run(clock: Clock, schedule: Schedule, *cases: Case) -> list[str]:
    told: list[str] = []
    take_turns(cases, schedule, clock, told.append)
    return told


def test_cases_take_turns_and_each_starts_a_round() -> None:
    clock = Clock()
    cases = [
        Case(name, {kind: clock.call(f"{name} {kind}", 1) for kind in ("predict", "bare")})
        for name in "abc"
    ]
    told = run(clock, Schedule(warmup_calls=1, calls_per_round=2, rounds=4), *cases)
    warmup = [
        call for name in "abc" for call in (f"{name} predict", f"{name} predict", f"{name} bare")
    ]
    a, b, c = ([f"{n} predict", f"{n} predict", f"{n} bare", f"{n} bare"] for n in "abc")
    assert clock.calls == [*warmup, *a, *b, *c, *b, *c, *a, *c, *a, *b, *a, *b, *c]
    assert told == ["warm up a", "warm up b", "warm up c"] + [
        f"round {turn}, 3 of 3 to go" for turn in (1, 2, 3, 4)
    ]


def test_the_cold_call_and_the_warm_up_are_kept_apart() -> None:
    clock = Clock()
    case = Case("a", {"predict": clock.call("predict", 1000), "bare": clock.call("bare", 100)})
    run(clock, Schedule(warmup_calls=3, calls_per_round=4, rounds=5), case)
    assert case.cold_ns == 1000
    assert clock.calls[:7] == ["predict"] * 4 + ["bare"] * 3
    found = case.latencies()
    assert found["predict"].warmup_ns == (1000,) * 3
    assert found["predict"].samples_ns == (1000,) * 20
    assert found["bare"].warmup_ns == (100,) * 3
    assert found["bare"].samples_ns == (100,) * 20
    assert found["predict"].rounds == found["bare"].rounds == 5


def test_two_thousand_calls_are_enough() -> None:
    clock = Clock()
    case = Case("a", {"bare": clock.call("a", 1000)})
    run(clock, Schedule(), case)
    latency = case.latencies()["bare"]
    assert (len(latency.warmup_ns), len(latency.samples_ns), latency.rounds) == (50, 2000, 40)


def test_ten_seconds_are_enough() -> None:
    clock = Clock()
    slow = Case("slow", {"a": clock.call("a", 30_000_000), "b": clock.call("b", 20_000_000)})
    fast = Case("fast", {"bare": clock.call("fast", 1000)})
    told = run(clock, Schedule(), slow, fast)
    latency = slow.latencies()["a"]
    # A quarter of a second is a round's share of them.
    assert (len(latency.samples_ns), latency.rounds) == (200, 40)
    assert sum(latency.samples_ns) + sum(slow.latencies()["b"].samples_ns) == timing.ENOUGH_NS
    assert told[-1] == "round 40, 2 of 2 to go"


def test_a_case_makes_one_call_in_a_round_at_least() -> None:
    clock = Clock()
    case = Case("a", {"bare": clock.call("a", 1_000_000_000)})
    fast = Case("fast", {"bare": clock.call("fast", 1000)})
    run(clock, Schedule(warmup_calls=1), case, fast)
    assert case.latencies()["bare"].rounds == len(case.latencies()["bare"].samples_ns) == 10
    # Those that are not done go on without it.
    assert clock.calls[-50:] == ["fast"] * 50


def test_a_case_slower_than_its_warm_up_promised_takes_fewer_rounds() -> None:
    clock = Clock()
    times = iter([1000] * 51 + [100_000_000] * 1000)
    case = Case("a", {"bare": Call(lambda _: setattr(clock, "now", clock.now + next(times)), None)})
    run(clock, Schedule(), case)
    assert case.latencies()["bare"].rounds == 2


def test_a_clock_is_measured() -> None:
    # Two readings together are 40 or 60 apart, and 10 from the next two.
    steps = cycle([10, 40, 10, 60])
    readings = accumulate(steps)
    clock = describe_clock(lambda: next(readings))
    assert clock.name == "time.perf_counter_ns"
    assert (clock.resolution_ns, clock.overhead_ns) == (10.0, 50.0)


def test_a_coarse_clock_steps_seldom() -> None:
    # One step of 100 in every ten readings.
    times = iter(100 * (reading // 10) for reading in range(10**9))
    clock = describe_clock(lambda: next(times))
    assert (clock.resolution_ns, clock.overhead_ns) == (100.0, 0.0)


def test_a_clock_that_never_steps_is_as_fine_as_the_system_says() -> None:
    clock = describe_clock(lambda: 7)
    assert clock.resolution_ns > 0
    assert clock.overhead_ns == 0.0


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_number_of_rounds_is_kept_to(rounds: int) -> None:
    clock = Clock()
    case = Case("a", {"bare": clock.call("a", 1)})
    run(clock, Schedule(rounds=rounds), case)
    assert len(case.latencies()["bare"].samples_ns) == 50 * rounds


@pytest.mark.parametrize(
    "counts",
    [{"warmup_calls": 0}, {"calls_per_round": 0}, {"rounds": 0}, {"rounds": 1_000_001}],
)
def test_impossible_schedules(counts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="calls and rounds are 1 to 1,000,000"):
        Schedule(**counts)

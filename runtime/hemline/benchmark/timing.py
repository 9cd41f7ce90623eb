"""Calls timed against each other: once cold, then to warm up, then in rounds of turns.

The clock is read around the call alone. In each round every case makes its calls, a batch of one
kind after the other, and each round starts with another case, so that drift of the machine meets
them all alike.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hemline.benchmark.latency import Latency, summarize_latency
from hemline.limits import ROUNDS

# A case is measured until it has made so many calls of each kind, or for so long.
ENOUGH_CALLS = 2_000
ENOUGH_NS = 10_000_000_000

_CLOCK_READINGS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How many calls to make.

    Attributes:
        warmup_calls: of each kind, before the first round.
        calls_per_round: of each kind, fewer where they would take longer than a round's share of
            `ENOUGH_NS`.
        rounds: how often each case takes its turn; None for as often as it needs to make
            `ENOUGH_CALLS` or to measure for `ENOUGH_NS`, whichever comes first.
    """

    warmup_calls: int = 50
    calls_per_round: int = 50
    rounds: int | None = None

    def __post_init__(self) -> None:
        calls, rounds = (self.warmup_calls, self.calls_per_round), self.rounds
        if not (
            1 <= min(calls) <= max(calls) <= ROUNDS and (rounds is None or 1 <= rounds <= ROUNDS)
        ):
            raise ValueError(f"calls and rounds are 1 to {ROUNDS:,}, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What a clock can tell, in nanoseconds.

    Attributes:
        name: Python's name of it.
        resolution_ns: the least step seen from one reading to the next; what the system states if
            it never moved.
        overhead_ns: the median time from one reading to another right after it, which is in every
            sample. It is not subtracted.
    """

    name: str
    resolution_ns: float
    overhead_ns: float


@dataclass(frozen=True, slots=True)
class Call:
    """A function and what it is called with."""

    function: Callable[[Any], object]
    argument: Any


class Case:
    """What is timed in one turn.

    Attributes:
        name: what to call it in progress.
        cold_ns: the time of the very first call, of the first kind.
    """

    def __init__(self, name: str, calls: Mapping[str, Call]) -> None:
        self.name = name
        self.cold_ns = 0
        self._calls = calls
        self._warmups: dict[str, list[int]] = {kind: [] for kind in calls}
        self._samples: dict[str, list[int]] = {kind: [] for kind in calls}
        self._calls_per_round = 1
        self._rounds = 0

    def warm_up(self, schedule: Schedule, clock: Callable[[], int]) -> None:
        """Makes the cold call and those that are not counted."""
        first = next(iter(self._calls.values()))
        cold: list[int] = []
        _measure(first, 1, clock, cold)
        self.cold_ns = cold[0]
        for kind, call in self._calls.items():
            _measure(call, schedule.warmup_calls, clock, self._warmups[kind])
        warm_ns = sum(float(np.median(times)) for times in self._warmups.values())
        share_ns = ENOUGH_NS * schedule.calls_per_round / ENOUGH_CALLS
        fit = round(share_ns / warm_ns) if warm_ns else schedule.calls_per_round
        self._calls_per_round = min(max(fit, 1), schedule.calls_per_round)

    def take_turn(self, clock: Callable[[], int]) -> None:
        """Makes the calls of one round."""
        for kind, call in self._calls.items():
            _measure(call, self._calls_per_round, clock, self._samples[kind])
        self._rounds += 1

    def is_done(self, schedule: Schedule) -> bool:
        """Says whether it has taken all of its turns."""
        if schedule.rounds is not None:
            return self._rounds >= schedule.rounds
        return (
            self._rounds * self._calls_per_round >= ENOUGH_CALLS
            or sum(map(sum, self._samples.values())) >= ENOUGH_NS
        )

    def latencies(self) -> dict[str, Latency]:
        """Returns what was measured, by kind."""
        return {
            kind: summarize_latency(self._warmups[kind], self._samples[kind], self._rounds)
            for kind in self._calls
        }


def take_turns(
    cases: Sequence[Case],
    schedule: Schedule,
    clock: Callable[[], int],
    progress: Callable[[str], None],
) -> None:
    """Times cases against each other until all are done."""
    for case in cases:
        progress(f"warm up {case.name}")
        case.warm_up(schedule, clock)
    turn = 0
    while waiting := [case for case in cases if not case.is_done(schedule)]:
        progress(f"round {turn + 1}, {len(waiting)} of {len(cases)} to go")
        start = turn % len(waiting)
        for case in waiting[start:] + waiting[:start]:
            case.take_turn(clock)
        turn += 1


def describe_clock(clock: Callable[[], int]) -> Clock:
    """Measures a clock by reading it many times, two readings together."""
    readings: list[int] = []
    for _ in range(_CLOCK_READINGS):
        start = clock()
        readings += (start, clock())
    steps = np.diff(readings)
    stated_ns = time.get_clock_info("perf_counter").resolution * 1e9
    return Clock(
        name="time.perf_counter_ns",
        resolution_ns=float(min(steps[steps > 0], default=stated_ns)),
        overhead_ns=float(np.median(steps[::2])),
    )


def _measure(call: Call, count: int, clock: Callable[[], int], times_ns: list[int]) -> None:
    function, argument = call.function, call.argument
    for _ in range(count):
        start = clock()
        function(argument)
        times_ns.append(clock() - start)

"""The integer audit: how much of a model file really computes in integers.

A file called int8 may hold float operators between a DEQUANTIZE and a QUANTIZE; each such
island costs two conversions, and its arithmetic is what the recipe promised to be rid of.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hemline.artifact_facts import IntegerPromise
from hemline.engines.structure import Arithmetic, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Island:
    """Float operators that hand each other their values, in a file that has integer ones.

    Attributes:
        operators: the kind and the name of each, in the file's order.
        macs: their multiply-accumulates.
    """

    operators: tuple[str, ...]
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What a file computes in. Conversions are counted apart, as they compute nothing.

    Attributes:
        operators: how many there are, conversions left out.
        integer_operators: those in integers.
        macs: multiply-accumulates for one sample.
        integer_macs: those in integers.
        mixed_macs: those with weights stored as integers and values in floating point.
        conversions: operators from integers to floating point or back, or that unpack weights.
        islands: of float operators; none in a file without integer operators.
    """

    operators: int
    integer_operators: int
    macs: int
    integer_macs: int
    mixed_macs: int
    conversions: int
    islands: tuple[Island, ...]

    def explain_breach(self, promise: IntegerPromise) -> str | None:
        """Returns how the file breaks a promise, in a clause, or None if it keeps it."""
        kept = (
            self.integer_operators >= promise.operators * self.operators
            and self.integer_macs >= promise.macs * self.macs
        )
        if kept:
            return None
        islands = "; ".join(", ".join(island.operators) for island in self.islands)
        return (
            f"{self.integer_operators} of {self.operators} operators and {self.integer_macs:,} of "
            f"{self.macs:,} multiply-accumulates are in integers, where the recipe promises "
            f"{promise.operators:.0%} and {promise.macs:.0%}"
            + (f"; in floating point: {islands}" if islands else "")
        )


def audit(operations: Sequence[Operation]) -> Audit:
    """Counts what operators compute in, and finds the islands in floating point."""
    working = [o for o in operations if o.arithmetic != Arithmetic.CONVERSION]
    integers = [o for o in working if o.arithmetic == Arithmetic.INTEGER]
    return Audit(
        operators=len(working),
        integer_operators=len(integers),
        macs=sum(o.macs for o in working),
        integer_macs=sum(o.macs for o in integers),
        mixed_macs=sum(o.macs for o in working if o.arithmetic == Arithmetic.MIXED),
        conversions=len(operations) - len(working),
        islands=_find_islands(working) if integers else (),
    )


def _find_islands(working: Sequence[Operation]) -> tuple[Island, ...]:
    islands: list[list[Operation]] = []
    for operation in working:
        if operation.arithmetic == Arithmetic.INTEGER:
            continue
        # A file's operators stand in the order in which they run.
        joined = [
            island
            for island in islands
            if any(set(other.writes) & set(operation.reads) for other in island)
        ]
        islands = [island for island in islands if island not in joined]
        islands.append([*(other for island in joined for other in island), operation])
    return tuple(
        Island(
            operators=tuple(f"{operation.kind} {operation.name}" for operation in island),
            macs=sum(operation.macs for operation in island),
        )
        for island in islands
    )

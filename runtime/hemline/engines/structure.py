"""What a model file's operators are, as the readers of each format tell it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from hemline.facts import TensorSpec


class Arithmetic(StrEnum):
    """What an operator computes in."""

    INTEGER = "integer"
    # Weights stored as integers or a palette, values in floating point.
    MIXED = "mixed"
    FLOAT = "float"
    # From one type or form to another: no arithmetic of the model's own.
    CONVERSION = "conversion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operator of a model file.

    Attributes:
        kind: the format's name of it, such as `CONV_2D`.
        name: of its first output.
        arithmetic: what it computes in.
        macs: multiply-accumulates for one sample: those of convolutions, matrix products and
            recurrent layers; 0 for all else.
        reads: the values it takes, constants left out.
        writes: the values it makes.
    """

    kind: str
    name: str
    arithmetic: Arithmetic
    macs: int
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStructure:
    """What a model file says of itself.

    Attributes:
        inputs: its input tensors, in order.
        outputs: its output tensors, in order.
        operations: its operators, in order.
        embedded_facts: the facts document inside it, or None if it has none.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operations: tuple[Operation, ...]
    embedded_facts: bytes | None

    @property
    def operators(self) -> Mapping[str, int]:
        """How often each kind of operator stands in the file."""
        return Counter(operation.kind for operation in self.operations)

"""What Hemline asks of an engine."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from hemline.errors import ModelFileError
from hemline.facts import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStructure:
    """What a model file says of itself.

    Attributes:
        input: its input tensor.
        output: its output tensor.
        operators: how often each operator stands in it.
        embedded_facts: the facts document inside it, or None if it has none.
    """

    input: TensorSpec
    output: TensorSpec
    operators: Mapping[str, int]
    embedded_facts: bytes | None


class Engine(ABC):
    """A model file opened by one engine: one input tensor, one output tensor.

    Attributes:
        name: the engine's name in manifests.
        compute_units: what it can be told to run on, its default first; none for most engines.
        input: the file's input, as the engine sees it.
        output: the file's output.
    """

    name: ClassVar[str]
    compute_units: ClassVar[tuple[str, ...]] = ()
    input: TensorSpec
    output: TensorSpec

    @abstractmethod
    def __init__(self, path: Path, threads: int, compute_units: str | None = None) -> None:
        """Opens a file.

        Args:
            path: the file.
            threads: how many the engine may use.
            compute_units: one of the class's, None for its default. An engine that lists none
                need not take the argument.

        Raises:
            EngineUnavailableError: the engine is not installed or not for this system.
            ModelFileError: it refuses the file.
        """

    @abstractmethod
    def run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Runs the model once on a tensor of exactly the input's shape and dtype."""

    @abstractmethod
    def embedded_facts(self) -> bytes | None:
        """Returns the facts document inside the file, or None if it has none."""

    @classmethod
    def read_facts(cls, path: Path) -> bytes | None:
        """Returns the facts document inside a file, with as few packages as that takes.

        Raises:
            EngineUnavailableError: a package that reads this kind of file is not installed.
            ModelFileError: it is not such a file.
        """
        return cls(path, threads=1).embedded_facts()

    @classmethod
    @abstractmethod
    def structure(cls, path: Path) -> FileStructure:
        """Reads a file's structure, which may need other packages than running it does.

        Raises:
            EngineUnavailableError: a package that reads this kind of file is not installed.
            ModelFileError: it is not such a file.
        """

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Returns the engine's own version."""


def require_one(path: Path, kind: str, found: list[Any]) -> Any:
    """Returns the only item of a list of inputs or outputs.

    Raises:
        ModelFileError: there are none, or several.
    """
    if len(found) != 1:
        raise ModelFileError(f"{path} has {len(found)} {kind}s, expected exactly one")
    return found[0]

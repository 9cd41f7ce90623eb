"""What Hemline asks of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from hemline.errors import ModelFileError
from hemline.facts import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hemline.engines.structure import FileStructure

T = TypeVar("T")


class Engine(ABC):
    """A model file opened by one engine.

    Attributes:
        name: the engine's name in manifests.
        compute_units: what it can be told to run on, its default first; none for most engines.
        takes_bytes: whether it can be given a file's content, so that what was checked is what is
            opened.
        trial_limit_s: how long a file from anywhere may take to be opened and run once.
        inputs: the file's input tensors, in order, as the engine sees them.
        outputs: the file's output tensors, in order.
    """

    name: ClassVar[str]
    compute_units: ClassVar[tuple[str, ...]] = ()
    takes_bytes: ClassVar[bool] = False
    trial_limit_s: ClassVar[float] = 30.0
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abstractmethod
    def __init__(
        self,
        path: Path,
        threads: int,
        compute_units: str | None = None,
        content: bytes | None = None,
    ) -> None:
        """Opens a file.

        Args:
            path: the file.
            threads: how many the engine may use.
            compute_units: one of the class's, None for its default. An engine that lists none
                need not take the argument.
            content: of the file, if it was read already. An engine that does not take bytes need
                not take the argument.

        Raises:
            EngineUnavailableError: the engine is not installed or not for this system.
            ModelFileError: it refuses the file.
        """

    @abstractmethod
    def run_all(self, tensors: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Runs the model once, and returns each output.

        Args:
            tensors: one for each input, of exactly its shape and dtype.
        """

    def run(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Runs a model of one input once, and returns its first output."""
        return self.run_all([tensor])[0]

    def peer_calls(self) -> dict[str, Callable[[NDArray[Any]], object]]:
        """Returns the other calls by which users run such a file, by name.

        `hemline bench --peer` compares with them.
        """
        return {}

    @abstractmethod
    def embedded_facts(self) -> bytes | None:
        """Returns the facts document inside the file, or None if it has none."""

    @classmethod
    def read_facts(cls, path: Path, content: bytes | None = None) -> bytes | None:
        """Returns the facts document inside a file, with as few packages as that takes.

        Args:
            path: the file.
            content: as for the constructor.

        Raises:
            EngineUnavailableError: a package that reads this kind of file is not installed.
            ModelFileError: it is not such a file.
        """
        given: dict[str, Any] = {"content": content} if cls.takes_bytes else {}
        return cls(path, threads=1, **given).embedded_facts()

    @classmethod
    @abstractmethod
    def structure(cls, path: Path, content: bytes | None = None) -> FileStructure:
        """Reads a file's structure, which may need other packages than running it does.

        Args:
            path: the file.
            content: as for the constructor.

        Raises:
            EngineUnavailableError: a package that reads this kind of file is not installed.
            ModelFileError: it is not such a file.
        """

    @classmethod
    def why_unavailable(cls) -> str | None:
        """Returns why the engine cannot run here, or None.

        An engine whose package is missing says so when its module is imported.
        """
        return None

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Returns the engine's own version."""


def require_one(path: Path, kind: str, found: Sequence[T]) -> T:
    """Returns the only item of a list of inputs or outputs.

    Raises:
        ModelFileError: there are none, or several.
    """
    if len(found) != 1:
        raise ModelFileError(f"{path} has {len(found)} {kind}s, expected exactly one")
    return found[0]

"""Showing a training run's progress on stderr: a bar in a terminal, else a line an epoch."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """What one epoch came to; `epoch` counts from 0, losses are in nats."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float

    def describe(self, epochs: int) -> str:
        """Returns one line for people."""
        return (
            f"epoch {self.epoch + 1}/{epochs}  loss {self.loss:.4f}  accuracy {self.accuracy:.4f}"
            f"  val_loss {self.val_loss:.4f}  val_accuracy {self.val_accuracy:.4f}"
            f"  learning_rate {self.learning_rate:.3g}"
        )


class Progress(Protocol):
    """What is told of a run's course."""

    def start_epoch(self, epoch: int, batches: int) -> None:
        """An epoch, counted from 0, begins; it has so many batches."""

    def finish_batch(self) -> None:
        """A batch is done."""

    def finish_epoch(self, result: EpochResult) -> None:
        """An epoch is done."""


class LineProgress:
    """Writes one line an epoch to stderr."""

    def __init__(self, title: str, epochs: int) -> None:
        self._title, self._epochs = title, epochs

    def start_epoch(self, epoch: int, batches: int) -> None:
        """Writes nothing."""

    def finish_batch(self) -> None:
        """Writes nothing."""

    def finish_epoch(self, result: EpochResult) -> None:
        """Writes the epoch's line."""
        print(f"{self._title}: {result.describe(self._epochs)}", file=sys.stderr, flush=True)


@contextmanager
def show_progress(title: str, epochs: int) -> Iterator[Progress]:
    """Gives a display on stderr that suits it: a moving bar in a terminal, else lines."""
    if not sys.stderr.isatty():
        yield LineProgress(title, epochs)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with RichProgress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        yield _BarProgress(bar, title, epochs)


class _BarProgress:
    def __init__(self, bar: "RichProgress", title: str, epochs: int) -> None:
        self._bar, self._title, self._epochs = bar, title, epochs
        self._task = bar.add_task(title)

    def start_epoch(self, epoch: int, batches: int) -> None:
        title = f"{self._title}: epoch {epoch + 1}/{self._epochs}"
        self._bar.reset(self._task, description=title, total=batches)

    def finish_batch(self) -> None:
        self._bar.advance(self._task)

    def finish_epoch(self, result: EpochResult) -> None:
        self._bar.console.print(f"{self._title}: {result.describe(self._epochs)}", highlight=False)

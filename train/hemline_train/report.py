"""`training.json`: how a float model came to be, and how good it is."""

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path

from hemline.documents import to_json
from hemline.errors import EngineUnavailableError
from hemline.facts import ModelFacts
from hemline.host import Host
from hemline.paths import require_plain_name
from hemline_train.evaluate import Evaluation
from hemline_train.settings import TrainSettings

SCHEMA = "hemline.training/1"
FILE_NAME = "training.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What each epoch came to, in order; losses in nats, accuracies in [0, 1]."""

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    val_loss: tuple[float, ...]
    val_accuracy: tuple[float, ...]
    learning_rate: tuple[float, ...]

    @property
    def best_epoch(self) -> int:
        """The epoch, from 0, whose weights are kept: the first with the least validation loss."""
        return min(range(len(self.val_loss)), key=self.val_loss.__getitem__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """What `training.json` holds.

    Attributes:
        facts: what every artifact of this model shares.
        fingerprint: SHA-256 of all that the weights depend on; see `compute_fingerprint`.
        keras_file: the model's file name, in the same folder.
        keras_sha256: of that file.
        weights_sha256: of the weights' bytes; the same for the same fingerprint and machine.
        dataset_sha256: of all images and labels.
        parameters: how many numbers the model has.
        preset: `quick` or `full`.
        settings: the training protocol's numbers.
        curves: what each epoch came to.
        best_epoch: the epoch, from 0, whose weights were kept.
        epochs_run: how many epochs ran before early stopping.
        seconds: what fitting took.
        evaluation: on the test samples.
        versions: of Python and the packages that had a part in it.
        host: the machine.
    """

    facts: ModelFacts
    fingerprint: str
    keras_file: str
    keras_sha256: str
    weights_sha256: str
    dataset_sha256: str
    parameters: int
    preset: str
    settings: TrainSettings
    curves: Curves
    best_epoch: int
    epochs_run: int
    seconds: float
    evaluation: Evaluation
    versions: dict[str, str]
    host: Host

    def __post_init__(self) -> None:
        require_plain_name(self.keras_file)
        if not 0 <= self.best_epoch < len(self.curves.val_loss):
            raise ValueError(
                f"the best epoch is {self.best_epoch} of {len(self.curves.val_loss)}, from 0"
            )

    def summarize(self) -> str:
        """Returns a few lines for people."""
        facts, result = self.facts, self.evaluation
        best, worst = (
            next(score for score in result.classes if score.label == label)
            for label in (result.best_class, result.worst_class)
        )
        source = facts.dataset.name if facts.dataset else "unknown data"
        floor = "" if facts.floor_accuracy is None else f" (floor {facts.floor_accuracy})"
        return (
            f"{facts.model} on {source}, {self.preset}, seed {self.settings.seed}: "
            f"{self.epochs_run} epochs, weights of epoch {self.best_epoch + 1}\n"
            f"test accuracy  {result.accuracy:.4f}{floor}\n"
            f"test loss      {result.loss:.4f} "
            f"(validation {self.curves.val_loss[self.best_epoch]:.4f})\n"
            f"right / wrong  {result.right} / {result.wrong} of {result.samples}\n"
            f"best class     {best.label} (F1 {best.f1:.2f})\n"
            f"worst class    {worst.label} (F1 {worst.f1:.2f}, recall {worst.recall:.2f})"
        )


def read_versions() -> dict[str, str]:
    """Returns the versions that a run depends on, without importing any of the packages.

    Raises:
        EngineUnavailableError: one of them is not installed.
    """
    try:
        packages = {
            name: importlib.metadata.version(name) for name in ("keras", "numpy", "tensorflow")
        }
    except importlib.metadata.PackageNotFoundError as error:
        raise EngineUnavailableError(
            f"training needs {error.name}, which is not installed: pip install 'hemline[train]'"
        ) from error
    return {"python": platform.python_version()} | packages


def compute_fingerprint(
    model_name: str,
    preset: str,
    settings: TrainSettings,
    dataset_sha256: str,
    versions: dict[str, str],
) -> str:
    """Returns one SHA-256 of this package's code, the data, the settings and the versions."""
    code = {
        source.name: hashlib.sha256(source.read_bytes()).hexdigest()
        for source in Path(__file__).parent.glob("*.py")
    }
    content = [model_name, preset, to_json(settings), dataset_sha256, versions, code]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

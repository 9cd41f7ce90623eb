"""What `test_kill.py` kills: one export or training of a tiny model, in a process of its own.

`python victim.py export|train FOLDER VERSION CALL` says `started` when TensorFlow is imported, and
kills itself at its CALL-th call of the system that opens, renames or syncs (0: at none). At its end
it says how many such calls there were.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hemline.errors import HemlineError
from hemline.facts import Preprocessing
from hemline_export.export import Described, export
from hemline_export.recipes import RECIPES, Choices
from hemline_train.backend import keras
from hemline_train.dataset import Dataset
from hemline_train.fashion_mnist import LABELS
from hemline_train.fit import fit  # noqa: F401 - so that `started` comes after all imports
from hemline_train.garments import draw_garments
from hemline_train.models import REFERENCE_MODELS, ReferenceModel
from hemline_train.settings import TrainSettings
from hemline_train.training import train

CALLS = ("mkdir", "open", "fsync", "rename", "replace", "unlink", "rmdir")
# The package is a folder; int8 comes last, so that old and new differ in more than one file.
EXPORTED = ("float32.tflite", "float16.mlpackage", "int8.tflite")


def build() -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.AveragePooling2D(7),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


SMALL = ReferenceModel(
    name="small",
    build=build,
    loss="categorical_crossentropy",
    one_hot=True,
    learning_rate=0.01,
    decay_rate=0.1,
    seed=0,
    floor_accuracy=0.9,
)


def run_export(folder: Path, version: int) -> None:
    export(
        folder / "small.float.keras",
        str(folder.parent / "train.npz"),
        folder,
        recipes=[recipe for recipe in RECIPES if recipe.name + recipe.suffix in EXPORTED],
        described=Described(labels=LABELS, preprocessing=Preprocessing(mean=0.0, std=255.0)),
        choices=Choices(calibration_count=50, calibration_seed=version),
    )


def run_train(folder: Path, version: int) -> None:
    images, labels = draw_garments(200, 1)
    dataset = Dataset(
        name="synthetic",
        train_images=images,
        train_labels=labels,
        test_images=images[:50],
        test_labels=labels[:50],
        labels=LABELS,
    )
    settings = TrainSettings(epochs=1, learning_rate=0.01, decay_rate=0.1, seed=version)
    REFERENCE_MODELS["small"] = SMALL
    train("small", preset="quick", dataset=dataset, settings=settings, out=folder)


RUNS = {"export": run_export, "train": run_train}


def count_calls(kill_at: int) -> list[int]:
    """Counts the calls of the system that change names or sync; kills this process at one."""
    calls = [0]

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counted

    for name in CALLS:
        setattr(os, name, counting(getattr(os, name)))
    return calls


def main(stage: str, folder: str, version: str, call: str) -> int:
    print("started", flush=True)
    calls = count_calls(int(call))
    try:
        RUNS[stage](Path(folder), int(version))
    except HemlineError as error:
        print(error, file=sys.stderr)
        return 2
    print(calls[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

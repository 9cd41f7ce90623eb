"""`hemline train`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from hemline.documents import read_content, read_document
from hemline.errors import HemlineError
from hemline.terminal import show
from hemline_train.dataset import AUTO, NAMES, load_dataset
from hemline_train.models import REFERENCE_MODELS
from hemline_train.report import SCHEMA, TrainingReport
from hemline_train.settings import PRESET_EPOCHS, TrainSettings
from hemline_train.training import train


def add_command(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Adds `train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a reference model",
        description="Train a reference model on Fashion-MNIST and test it.",
    )
    parser.add_argument("model", choices=sorted(REFERENCE_MODELS))
    parser.add_argument(
        "--preset",
        choices=sorted(PRESET_EPOCHS),
        default="full",
        help="quick: 5 epochs, to screen ideas; full: up to 20 (default)",
    )
    parser.add_argument(
        "--dataset",
        choices=NAMES,
        default=AUTO,
        help="auto (default): Fashion-MNIST, else drawn garments if it cannot be had",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder of Fashion-MNIST")
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, shuffling and dropout")
    parser.add_argument("--learning-rate", type=float, metavar="X", help="of the first epochs")
    parser.add_argument("--decay-rate", type=float, metavar="X", help="of the epochs after them")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the preset's")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="default: build/DATASET/MODEL, for quick build/quick/MODEL",
    )
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Trains as the command line asks, and prints the result; returns the exit code.

    Raises:
        HemlineError: it cannot be done; nothing was printed on stdout.
    """
    settings = _choose_settings(arguments)
    dataset = load_dataset(arguments.dataset, arguments.data)
    folder = "quick" if arguments.preset == "quick" else dataset.name
    report_path = train(
        arguments.model,
        preset=arguments.preset,
        dataset=dataset,
        settings=settings,
        out=arguments.out or Path("build") / folder / arguments.model,
    )
    if arguments.json:
        sys.stdout.write(read_content(report_path).decode())
        return 0
    report = read_document(report_path, SCHEMA, TrainingReport)
    for line in report.summarize().split("\n"):
        show(line)
    show(f"file           {report_path.parent / report.keras_file}")
    return 0


def _choose_settings(arguments: argparse.Namespace) -> TrainSettings:
    reference = REFERENCE_MODELS[arguments.model]
    chosen = {
        "epochs": PRESET_EPOCHS[arguments.preset],
        "learning_rate": reference.learning_rate,
        "decay_rate": reference.decay_rate,
        "seed": reference.seed,
    }
    asked = {name: getattr(arguments, name) for name in chosen}
    try:
        return TrainSettings(**chosen | {k: v for k, v in asked.items() if v is not None})
    except ValueError as error:
        raise HemlineError(f"cannot train so: {error}") from error

"""`hemline export`, plugged into the command line through the group `hemline.commands`."""

import argparse
from pathlib import Path

from hemline.cli import Commands, end_progress, show_progress
from hemline.errors import ExportError
from hemline.facts import Preprocessing
from hemline.manifest import Artifact


def add_command(commands: Commands) -> None:
    """Adds `export` to the subcommands. TensorFlow is imported when it runs."""
    parser = commands.add_parser(
        "export", help="a float Keras model as TFLite, ONNX and Core ML artifacts"
    )
    parser.add_argument("file", type=Path, metavar="FILE.keras")
    parser.add_argument(
        "--calibration",
        metavar="DATA",
        help="training samples: an .npz file with images and labels, a data set's name, or the "
        "folder of the model's own data set (default: the data set that training.json names)",
    )
    parser.add_argument(
        "--recipes",
        help="all, or names with commas between (default: all that need no training)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: the Keras file's folder")
    parser.add_argument("--calibration-count", type=int, default=500, metavar="N")
    parser.add_argument("--calibration-seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--sparsity",
        type=float,
        default=0.5,
        metavar="S",
        help="int8-pruned: the share of weights set to zero (default 0.5)",
    )
    parser.add_argument(
        "--clusters",
        type=int,
        default=16,
        metavar="N",
        help="int8-clustered: how many different weights a kernel may have (default 16)",
    )
    described = parser.add_argument_group(
        "a model that no training.json describes", "what only its author knows"
    )
    described.add_argument(
        "--labels", type=Path, metavar="FILE", help="a text file, one class name a line"
    )
    described.add_argument(
        "--input-mean", type=float, metavar="M", help="uint8 pixels become (pixel − M) / S"
    )
    described.add_argument("--input-std", type=float, metavar="S")
    described.add_argument(
        "--floor", type=float, metavar="A", help="the least test accuracy of the float model"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from hemline_export.export import Described, export
    from hemline_export.recipes import select_recipes

    out = options.out or options.file.parent
    manifest = export(
        options.file,
        options.calibration,
        out,
        recipes=select_recipes(options.recipes),
        described=Described(
            labels=_read_labels(options.labels),
            preprocessing=_preprocessing(options.input_mean, options.input_std),
            floor_accuracy=options.floor,
        ),
        calibration_count=options.calibration_count,
        calibration_seed=options.calibration_seed,
        sparsity=options.sparsity,
        clusters=options.clusters,
        progress=show_progress,
    )
    end_progress()
    for artifact in manifest.artifacts:
        print(f"{out / artifact.file}: {artifact.size_bytes:,} bytes{_compressed(artifact)}")
    for recipe, reason in manifest.omitted.items():
        print(f"{recipe}: not made: {reason}")
    return 0


def _compressed(artifact: Artifact) -> str:
    settings = artifact.facts.settings
    if "compressed_bytes" not in settings:
        return ""
    own, plain = int(settings["compressed_bytes"]), int(settings["int8_compressed_bytes"])
    return f", {own:,} compressed (int8: {plain:,})"


def _read_labels(path: Path | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read labels from {path}: {error}") from error


def _preprocessing(mean: float | None, std: float | None) -> Preprocessing | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ExportError("--input-mean and --input-std go together")
    try:
        return Preprocessing(mean=mean, std=std)
    except ValueError as error:
        raise ExportError(str(error)) from error

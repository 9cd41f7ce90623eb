"""`hemline export` and `hemline debug`, plugged in through the group `hemline.commands`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemline.console import (
    Commands,
    add_trust,
    end_progress,
    points,
    positive,
    show_progress,
)
from hemline.documents import write_document
from hemline.errors import ExportError
from hemline.facts import Preprocessing, Task
from hemline.files import read_regular
from hemline.limits import LABELS_BYTES
from hemline.manifest import Artifact
from hemline.ownership import require_record
from hemline.report import format_table
from hemline.terminal import show
from hemline_export.calibration import Ranges

if TYPE_CHECKING:
    from hemline_export.ladder import Ladder


def add_command(commands: Commands) -> None:
    """Adds `export` and `debug` to the subcommands. TensorFlow is imported when they run."""
    _add_debug(commands)
    parser = commands.add_parser(
        "export", help="a float Keras model as TFLite, ONNX and Core ML artifacts"
    )
    parser.add_argument("file", type=Path, metavar="FILE.keras")
    parser.add_argument(
        "--calibration",
        metavar="DATA",
        help="training samples: an .npz file with images, a data set's name, or the "
        "folder of the model's own data set (default: the data set that training.json names)",
    )
    parser.add_argument(
        "--recipes",
        metavar="NAMES",
        help="all, or names with commas between, -NAME to leave one out (default: all that need "
        "no training)",
    )
    parser.add_argument(
        "--list-recipes", action=_ListRecipes, nargs=0, help="say what each recipe makes, and exit"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: the Keras file's folder")
    _add_allow_lambda(parser)
    add_trust(parser)
    parser.add_argument("--calibration-count", type=int, default=500, metavar="N")
    parser.add_argument("--calibration-seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--calibration-method",
        choices=tuple(Ranges),
        default=Ranges.MINMAX,
        help="int8.onnx: how ranges are taken (default minmax, which the other recipes always use)",
    )
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
    parser.add_argument(
        "--keep-float",
        type=positive,
        default=1,
        metavar="N",
        help="int8-selective: how many operators stay in floating point (default 1)",
    )
    parser.add_argument(
        "--target-drop",
        type=points,
        metavar="POINTS",
        help="instead of --recipes: the first of int8, int8 with other calibration, int8-qat, "
        "int8-selective, int16x8, dynamic and float16 that costs less accuracy than this on "
        "validation samples; exit 1 with the best of them if none does",
    )
    parser.add_argument(
        "--validation",
        metavar="DATA",
        help="what --target-drop judges on (default: the data set's validation split, or a tenth "
        "held out of an .npz file)",
    )
    described = parser.add_argument_group(
        "a model that no training.json describes", "what only its author knows"
    )
    described.add_argument(
        "--task",
        choices=tuple(Task),
        help="what the model is for (default: as training.json says, else classification)",
    )
    described.add_argument(
        "--labels", type=Path, metavar="FILE", help="a text file, one class name a line"
    )
    described.add_argument(
        "--input-mean", type=float, metavar="M", help="uint8 pixels become (pixel − M) / S"
    )
    described.add_argument("--input-std", type=float, metavar="S")
    described.add_argument(
        "--input-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="of a model that takes float32 values (default: the calibration samples' own)",
    )
    described.add_argument(
        "--floor", type=float, metavar="A", help="the least test accuracy of the float model"
    )
    described.add_argument(
        "--ceiling-loss",
        type=float,
        metavar="L",
        help="the greatest mean squared error of the float model, for regression and autoencoders",
    )
    parser.set_defaults(run=_run)


def _add_allow_lambda(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-lambda",
        action="store_true",
        help="run the code of Lambda layers in the Keras file, which can do whatever you can",
    )


class _ListRecipes(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from hemline_export.recipes import describe_recipes

        print(describe_recipes())
        parser.exit()


def _add_debug(commands: Commands) -> None:
    parser = commands.add_parser(
        "debug", help="a quantized file against its float model, tensor by tensor, worst first"
    )
    parser.add_argument("keras_file", type=Path, metavar="FILE.keras")
    parser.add_argument("file", type=Path, metavar="FILE", help="a .tflite or .onnx file")
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="training samples, as for export (default: the data set the model was made from)",
    )
    parser.add_argument("--samples", type=positive, default=50, metavar="N")
    parser.add_argument("--top", type=positive, default=20, help="tensors to show (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of them there")
    _add_allow_lambda(parser)
    add_trust(parser)
    parser.set_defaults(run=_debug)


def _debug(options: argparse.Namespace) -> int:
    from hemline_export.debug import SCHEMA, TensorError, debug
    from hemline_export.keras_file import lambda_layers

    if options.json:
        require_record(options.json)
    with lambda_layers(options.allow_lambda or None):
        report = debug(
            options.keras_file,
            options.file,
            options.data,
            count=options.samples,
            trust=options.trust,
        )
    if options.json:
        write_document(options.json, SCHEMA, report)

    def cells(error: TensorError) -> list[str]:
        grid = error.grid_minimum, error.grid_maximum
        return [
            error.tensor,
            error.operator,
            "equal" if error.sqnr_db is None else f"{error.sqnr_db:.1f}",
            "" if error.grid_sqnr_db is None else f"{error.grid_sqnr_db:.1f}",
            f"{error.minimum:.4g} … {error.maximum:.4g}",
            "" if None in grid else f"{grid[0]:.4g} … {grid[1]:.4g}",
            f"{error.clipped:.2%}" if error.clipped else "",
            error.layer or "",
        ]

    header = ("tensor", "operator", "SQNR dB", "grid dB", "range", "grid", "clipped", "layer")
    show(
        f"{report.file} on {report.count} training samples: {report.compared} of "
        f"{report.tensors} tensors have a counterpart in the float model"
    )
    print(format_table(header, [cells(error) for error in report.errors[: options.top]]))
    return 0


def _run(options: argparse.Namespace) -> int:
    from hemline_export.keras_file import lambda_layers

    with lambda_layers(options.allow_lambda or None):
        return _export(options)


def _export(options: argparse.Namespace) -> int:
    from hemline_export.export import Described, export
    from hemline_export.ladder import export_within
    from hemline_export.recipes import Choices, select_recipes

    out = options.out or options.file.parent
    given: dict[str, Any] = {
        "described": Described(
            task=options.task,
            labels=_read_labels(options.labels),
            preprocessing=_preprocessing(options.input_mean, options.input_std),
            input_range=tuple(options.input_range) if options.input_range else None,
            floor_accuracy=options.floor,
            ceiling_loss=options.ceiling_loss,
        ),
        "choices": Choices(
            calibration_count=options.calibration_count,
            calibration_seed=options.calibration_seed,
            calibration_method=Ranges(options.calibration_method),
            sparsity=options.sparsity,
            clusters=options.clusters,
            kept_float=options.keep_float,
        ),
        "trust": options.trust,
        "progress": show_progress,
    }
    ladder: Ladder | None = None
    if options.target_drop is None:
        manifest = export(
            options.file,
            options.calibration,
            out,
            recipes=select_recipes(options.recipes),
            leave_out=options.recipes is None or "all" in options.recipes.split(","),
            **given,
        )
    else:
        if options.recipes is not None:
            raise ExportError("--target-drop chooses the recipe itself: leave out --recipes")
        manifest, ladder = export_within(
            options.target_drop,
            options.file,
            options.calibration,
            out,
            validation=options.validation,
            **given,
        )
    end_progress()
    if ladder is not None:
        for line in _describe_ladder(ladder).split("\n"):
            show(line)
    for artifact in manifest.artifacts:
        show(f"{out / artifact.file}: {artifact.size_bytes:,} bytes{_compressed(artifact)}")
    for file, reason in manifest.omitted.items():
        show(f"{file}: not made: {reason}")
    return int(ladder is not None and not ladder.clears)


def _describe_ladder(ladder: "Ladder") -> str:
    rows = [
        (
            rung.name,
            "" if rung.size_bytes is None else f"{rung.size_bytes:,}",
            "" if rung.paired is None else f"{rung.paired.delta_pt:+.2f}",
            "" if rung.paired is None else f"{rung.paired.one_sided_low_pt:+.3f}",
            "yes" if rung.clears else "no",
        )
        for rung in ladder.rungs
    ]
    header = ("rung", "bytes", "delta pt", "one-sided 95 %", f"within {ladder.target_drop_pt:g}")
    refusals = [f"{rung.name}: {rung.reason}" for rung in ladder.rungs if rung.paired is None]
    outcome = "" if ladder.clears else ": none stays within the target, this is the best"
    return "\n".join(
        [
            f"on {ladder.count:,} validation samples ({ladder.validation}), float accuracy "
            f"{ladder.float_accuracy:.4f}",
            format_table(header, rows),
            *refusals,
            f"chosen: {ladder.chosen}{outcome}",
        ]
    )


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
        return tuple(read_regular(path, LABELS_BYTES, ExportError).decode().splitlines())
    except (ExportError, ValueError) as error:
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

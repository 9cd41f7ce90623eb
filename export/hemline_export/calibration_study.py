"""What calibration is worth: int8 accuracy on validation samples by method, count and draw.

Run by `make calibration-study`. Ranges come from training samples, and the test samples are left
for `hemline verify`. TensorFlow's converter takes least and greatest values only; ONNX Runtime's
quantizer has other methods as well. Those keep every activation of every sample: the last line
says how much memory that took.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hemline.console import end_progress, run_safely, show_progress
from hemline.errors import ExportError
from hemline.facts import Task
from hemline.host import peak_memory_bytes
from hemline.parity.paired import PairedResult
from hemline.report import format_table
from hemline.terminal import show
from hemline_export.calibration import DEFAULT_COUNT, Ranges
from hemline_export.export import Prepared, make_artifact, prepare
from hemline_export.keras_file import lambda_layers
from hemline_export.recipes import RECIPES, TOLERANCES, Choices, Recipe
from hemline_export.validation import ValidationJudge, split_validation

COUNTS = (10, 50, 100, DEFAULT_COUNT, 2000)
SEEDS = (0, 1, 2)
# By engine.
_METHODS = {"litert": (Ranges.MINMAX,), "onnxruntime": tuple(Ranges)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one way to calibrate came to.

    Attributes:
        recipe: the recipe's name and suffix.
        method: how ranges were taken.
        count: from how many samples.
        draws: by the seed of their draw, the accuracy against the float model's.
    """

    recipe: str
    method: Ranges
    count: int
    draws: dict[int, PairedResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What calibration is worth to one model.

    Attributes:
        model: its name.
        validation: where the validation samples come from.
        count: how many there are.
        float_accuracy: the float model's on them, in [0, 1].
        cells: each way to calibrate.
        left_out: what was not tried, and why.
    """

    model: str
    validation: str
    count: int
    float_accuracy: float
    cells: tuple[Cell, ...]
    left_out: tuple[str, ...]


@lambda_layers()
def study_calibration(
    keras_file: Path,
    data: str | None,
    *,
    counts: Sequence[int] = COUNTS,
    seeds: Sequence[int] = SEEDS,
    progress: Callable[[str], None] = lambda _: None,
) -> Study:
    """Makes a model's int8 files with each method, count and draw, and judges them.

    Args:
        keras_file: a float classifier, as for `hemline_export.export.export`.
        data: training samples, likewise; a part of an .npz file is held out to judge on.
        counts: of calibration samples.
        seeds: of their draws.
        progress: is told what is being tried.

    Raises:
        ExportError: the model is no classifier.
        HemlineError: as `export`.
    """
    prepared = prepare(keras_file, data)
    if prepared.facts.task != Task.CLASSIFICATION:
        raise ExportError(
            f"the calibration study compares accuracies, and {prepared.facts.model} is for the "
            f"task {prepared.facts.task}: give a classifier"
        )
    prepared, samples, source = split_validation(prepared, data, None)
    judge = ValidationJudge(prepared, samples)
    available = len(prepared.samples)
    left_out = [
        f"{count} samples: there are {available} to calibrate with"
        for count in counts
        if count > available
    ]
    cells: list[Cell] = []
    for recipe in RECIPES:
        if recipe.name != "int8":
            continue
        file = recipe.name + recipe.suffix
        try:
            if not _takes_ranges(prepared, recipe):
                left_out.append(f"{file}: it stores weights as integers and takes no ranges")
                continue
        except ExportError as error:
            left_out.append(f"{file}: not made: {error}")
            continue
        methods = _METHODS[recipe.engine]
        if methods == (Ranges.MINMAX,):
            left_out.append(f"{file}: its converter has no method but {Ranges.MINMAX}")
        for method in methods:
            for count in counts:
                if count > available:
                    continue
                progress(f"{prepared.facts.model}: {file}, {method}, {count} samples")
                draws = {
                    seed: _measure(prepared, recipe, method, count, seed, judge) for seed in seeds
                }
                cells.append(Cell(recipe=file, method=method, count=count, draws=draws))
    return Study(
        model=prepared.facts.model,
        validation=source,
        count=judge.count,
        float_accuracy=judge.float_accuracy,
        cells=tuple(cells),
        left_out=tuple(left_out),
    )


def describe_study(study: Study) -> str:
    """Returns a study for people: its table, its default's interval, and what was left out."""
    header = ("model", "recipe", "method", "samples", "accuracy", "delta pt", "least … greatest")
    default = Choices()
    rows, defaults = [], []
    for cell in study.cells:
        deltas = [paired.delta_pt for paired in cell.draws.values()]
        mean = float(np.mean(deltas))
        rows.append(
            (
                study.model,
                cell.recipe,
                cell.method.value,
                f"{cell.count:,}",
                f"{study.float_accuracy + mean / 100:.4f}",
                f"{mean:+.3f}",
                f"{min(deltas):+.3f} … {max(deltas):+.3f}",
            )
        )
        paired = cell.draws.get(default.calibration_seed)
        if paired and (cell.method, cell.count) == (
            default.calibration_method,
            default.calibration_count,
        ):
            defaults.append(
                f"default, {study.model} {cell.recipe} ({cell.method}, {cell.count} samples, seed "
                f"{default.calibration_seed}): delta {paired.delta_pt:+.3f} points, 95 % interval "
                f"{paired.low_pt:+.3f} … {paired.high_pt:+.3f}"
            )
    draws = max((len(cell.draws) for cell in study.cells), default=0)
    return "\n".join(
        [
            f"{study.model} on {study.count:,} validation samples ({study.validation}), float "
            f"accuracy {study.float_accuracy:.4f}; mean and range of {draws} draws",
            *([format_table(header, rows)] if rows else []),
            *defaults,
            *(f"left out, {study.model} {reason}" for reason in study.left_out),
        ]
    )


def _takes_ranges(prepared: Prepared, recipe: Recipe) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        return make_artifact(prepared, recipe, Path(folder)).facts.calibration is not None


def _measure(
    prepared: Prepared,
    recipe: Recipe,
    method: Ranges,
    count: int,
    seed: int,
    judge: ValidationJudge,
) -> PairedResult:
    drawn = prepared.recalibrate(count=count, seed=seed)
    choices = replace(drawn.sources.choices, calibration_method=method)
    variant = replace(drawn, sources=replace(drawn.sources, choices=choices))
    with tempfile.TemporaryDirectory() as folder:
        artifact = make_artifact(variant, recipe, Path(folder))
        return judge.compare(Path(folder) / artifact.file, TOLERANCES[recipe.name].margin_pt)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a study of each file, and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hemline_export.calibration_study", description=__doc__
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.keras")
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="training samples, as for `hemline export --calibration` (default: the data set that "
        "training.json names)",
    )
    parsed = parser.parse_args(arguments)

    def run() -> int:
        start = time.perf_counter()
        for file in parsed.files:
            study = study_calibration(file, parsed.data, progress=show_progress)
            end_progress()
            for line in describe_study(study).split("\n"):
                show(line)
            print(flush=True)
        peak = peak_memory_bytes()
        memory = "" if peak is None else f", peak memory {peak / 2**30:.1f} GiB"
        print(f"took {time.perf_counter() - start:.0f} s{memory}")
        return 0

    return run_safely(run, program="calibration_study")


if __name__ == "__main__":
    sys.exit(main())

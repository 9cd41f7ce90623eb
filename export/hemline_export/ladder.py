"""`hemline export --target-drop`: the first int8 file, or next to it, that keeps the accuracy.

Each rung is a recipe, tried in order from the smallest and fastest file on. A rung clears if the
one-sided 95 % interval of its accuracy, paired with the float model's on validation samples, lies
above the target; the first that does is exported. The test samples are left for `hemline verify`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hemline.commit import writing
from hemline.documents import write_document
from hemline.errors import ExportError
from hemline.facts import Task
from hemline.manifest import Artifact, Manifest
from hemline.parity.paired import PairedResult, Verdict
from hemline_export.export import (
    LADDER,
    Described,
    Prepared,
    make_artifact,
    prepare,
    publish,
)
from hemline_export.keras_file import lambda_layers
from hemline_export.recipes import RECIPES, Choices, Recipe
from hemline_export.validation import ValidationJudge, split_validation

SCHEMA = "hemline.ladder/1"

# What "other calibration" is: more samples, drawn with another seed.
_OTHER_CALIBRATION = 2000
_KEPT_FLOAT = (1, 4, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """What one recipe came to on the validation samples.

    Attributes:
        name: what was tried.
        recipe: the recipe.
        size_bytes: of its file; None if it made none.
        paired: its accuracy against the float model's; None likewise.
        clears: whether it is the one, or would have been.
        reason: why it does or does not.
    """

    name: str
    recipe: str
    size_bytes: int | None
    paired: PairedResult | None
    clears: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """How an artifact was chosen.

    Attributes:
        target_drop_pt: the accuracy that it might cost, in percentage points.
        validation: where the validation samples come from.
        count: how many there are.
        float_accuracy: the float model's on them, in [0, 1].
        rungs: what was tried, in order.
        chosen: the rung whose file was exported: the first that clears, else the best.
        clears: whether it does.
    """

    target_drop_pt: float
    validation: str
    count: int
    float_accuracy: float
    rungs: tuple[Rung, ...]
    chosen: str
    clears: bool


@lambda_layers()
def export_within(
    target_drop_pt: float,
    keras_file: Path,
    calibration: str | None,
    out: Path,
    *,
    validation: str | None = None,
    described: Described | None = None,
    choices: Choices | None = None,
    trust: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Manifest, Ladder]:
    """Exports the float32 file, and the first rung that costs less than the target.

    Where none does, the best is exported: the one whose interval reaches lowest the least.
    ladder.json in the folder records all that were tried.

    Args:
        target_drop_pt: the accuracy that a file may cost, in percentage points.
        keras_file: as for `export`.
        calibration: as for `export`.
        out: as for `export`.
        validation: samples to judge on; None for the data set's own validation split.
        described: as for `export`.
        choices: as for `export`.
        trust: as for `export`.
        progress: is told what is being tried.

    Raises:
        ExportError: the model is no classifier, or no rung makes a file.
        HemlineError: as `export`; or there are no validation samples.
    """
    with writing(out) as stage:
        progress(f"load {keras_file.name}")
        prepared = prepare(
            keras_file, calibration, described=described, choices=choices, trust=trust
        )
        if prepared.facts.task != Task.CLASSIFICATION:
            raise ExportError(
                f"a target drop of accuracy is for classifiers, and {prepared.facts.model} is for "
                f"the task {prepared.facts.task}: choose recipes by --recipes"
            )
        prepared, samples, source = split_validation(prepared, calibration, validation)
        judge = ValidationJudge(prepared, samples)
        rungs: list[Rung] = []
        made: dict[str, tuple[Prepared, Artifact, Path]] = {}
        for name, recipe, variant in _list_rungs(prepared):
            progress(f"try {name}")
            folder = stage / str(len(rungs))
            folder.mkdir()
            try:
                artifact = make_artifact(variant, recipe, folder)
            except ExportError as error:
                rungs.append(_refused(name, recipe, str(error)))
                continue
            paired = judge.compare(folder / artifact.file, target_drop_pt)
            rungs.append(_rung(name, artifact, paired))
            made[name] = variant, artifact, folder
            if rungs[-1].clears:
                break
        if not made:
            raise ExportError(f"no rung makes a file: {rungs[0].reason}")
        best = max((rung for rung in rungs if rung.paired), key=_lower_end)
        ladder = Ladder(
            target_drop_pt=target_drop_pt,
            validation=source,
            count=judge.count,
            float_accuracy=judge.float_accuracy,
            rungs=tuple(rungs),
            chosen=rungs[-1].name if rungs[-1].clears else best.name,
            clears=rungs[-1].clears,
        )
        variant, artifact, folder = made[ladder.chosen]
        final = stage / "final"
        final.mkdir()
        float32 = next(r for r in RECIPES if (r.name, r.engine) == ("float32", "litert"))
        artifacts = [make_artifact(variant, float32, final), artifact]
        (folder / artifact.file).rename(final / artifact.file)
        write_document(final / LADDER, SCHEMA, ladder)
        manifest = publish(variant, artifacts, final, out, omitted={})
    return manifest, ladder


def _list_rungs(prepared: Prepared) -> Iterator[tuple[str, Recipe, Prepared]]:
    """Yields each rung's name, its recipe and the model as it is prepared for it."""
    recipes = {recipe.name: recipe for recipe in RECIPES if recipe.engine == "litert"}
    yield "int8", recipes["int8"], prepared
    count = min(_OTHER_CALIBRATION, len(prepared.samples))
    other = prepared.recalibrate(count=count, seed=prepared.calibration.seed + 1)
    yield f"int8, {count} other calibration samples", recipes["int8"], other
    yield "int8-qat", recipes["int8-qat"], prepared
    for kept in _KEPT_FLOAT:
        choices = replace(prepared.sources.choices, kept_float=kept)
        variant = replace(prepared, sources=replace(prepared.sources, choices=choices))
        yield f"int8-selective, {kept} in float", recipes["int8-selective"], variant
    for name in ("int16x8", "dynamic", "float16"):
        yield name, recipes[name], prepared


def _rung(name: str, artifact: Artifact, paired: PairedResult) -> Rung:
    return Rung(
        name=name,
        recipe=artifact.facts.recipe,
        size_bytes=artifact.size_bytes,
        paired=paired,
        clears=paired.verdict == Verdict.PASS,
        reason=f"with 95 % confidence delta is above {paired.one_sided_low_pt:+.3f} points",
    )


def _refused(name: str, recipe: Recipe, reason: str) -> Rung:
    return Rung(
        name=name, recipe=recipe.name, size_bytes=None, paired=None, clears=False, reason=reason
    )


def _lower_end(rung: Rung) -> float:
    return -np.inf if rung.paired is None else rung.paired.one_sided_low_pt

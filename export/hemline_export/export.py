"""The export stage: a float Keras file in, a folder of artifacts with its manifest out."""

import functools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline import golden
from hemline.artifact_facts import EMBEDDED_SCHEMA, ArtifactFacts, CalibrationFacts, EmbeddedFacts
from hemline.commit import commit, newest, require_room, writing
from hemline.documents import encode, from_json, write_document
from hemline.engines import engine_for, stand_in
from hemline.engines.base import require_one
from hemline.errors import (
    DataError,
    EngineUnavailableError,
    ExportError,
    ManifestError,
    UnknownOperationError,
)
from hemline.facts import InputFacts, ModelFacts, Preprocessing, Task
from hemline.files import is_full, read_regular, sha256, size_bytes
from hemline.limits import DOCUMENT_BYTES
from hemline.listing import FILE_NAME as MANIFEST
from hemline.manifest import Artifact, FloatModel, Manifest, write_manifest
from hemline.model import Model, load
from hemline.parity.judgement import labels_of
from hemline.parity.verify import FLOAT_PREDICTIONS
from hemline.samples import Samples, resolve_samples
from hemline.snapshot import Snapshot
from hemline_export.calibration import (
    draw_calibration,
    preprocess,
    require_untested,
)
from hemline_export.freeze import freeze
from hemline_export.keras_engine import KerasEngine
from hemline_export.keras_file import lambda_layers, open_keras
from hemline_export.recipes import (
    TOLERANCES,
    Choices,
    Recipe,
    Sources,
    make_file,
    select_recipes,
)
from hemline_export.recurrent import restore_recurrent_loop, unroll_recurrent
from hemline_export.reorder import pool_before_activation
from hemline_export.tuning import TuningSamples, hold_out

# Written by `hemline train` beside the Keras file: its `facts` say what only training knows.
TRAINING = "training.json"
# Written by `hemline_export.ladder`: how an artifact was chosen.
LADDER = "ladder.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the user says of a model that no training.json describes. None: not said.

    Attributes:
        task: one of `hemline.facts.Task`; classification if nobody says.
        labels: a name for each class.
        preprocessing: from uint8 pixels to the model's values.
        input_range: the least and the greatest value of a model that takes no pixels; the
            calibration samples' own if nobody says.
        floor_accuracy: the least test accuracy of the float model that is no failure.
        ceiling_loss: the greatest test loss of the float model that is no failure.
    """

    task: str | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    input_range: tuple[float, float] | None = None
    floor_accuracy: float | None = None
    ceiling_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A model that is ready for its recipes.

    Attributes:
        keras_file: where it lies.
        snapshot: what was read of it.
        facts: what is known of it.
        parameters: how many it has.
        samples: the training samples.
        drawn: those of them that calibration sees.
        calibration: which those are.
        sources: what recipes work from.
    """

    keras_file: Path
    snapshot: Snapshot
    facts: ModelFacts
    parameters: int
    samples: Samples
    drawn: Samples
    calibration: CalibrationFacts
    sources: Sources

    def recalibrate(self, *, count: int, seed: int) -> "Prepared":
        """Returns it with another draw of calibration samples.

        Raises:
            DataError: as `draw_calibration`.
        """
        drawn, calibration = draw_calibration(self.samples, count=count, seed=seed)
        sources = replace(self.sources, calibration=_values(self.facts, drawn))
        return replace(self, drawn=drawn, calibration=calibration, sources=sources)


@lambda_layers()
def export(
    keras_file: Path,
    calibration: str | None,
    out: Path,
    *,
    recipes: Sequence[Recipe] | None = None,
    described: Described | None = None,
    choices: Choices | None = None,
    leave_out: bool | None = None,
    trust: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Makes artifacts and their manifest. Nothing is written unless all of them succeed.

    A recipe that nobody asked for by name may be left out: the manifest then says why.

    Args:
        keras_file: a float Keras 3 file, `NAME.float.keras` or `NAME.keras`.
        calibration: training samples, as `hemline.samples.resolve_samples` takes them.
        out: the folder to write; the Keras file is copied there if it lies elsewhere.
        recipes: what to make; None for every recipe that needs no training.
        described: what to say of the model where training.json does not.
        choices: what the recipes leave to choose.
        leave_out: go on without a recipe that does not take the model; None: if `recipes` is.
        trust: opens a Keras file that nothing beside it records at once, not first in a child
            process.
        progress: is told what is being made.

    Raises:
        ModelFileError: the Keras file is none that export takes.
        DataError: the calibration samples are missing, too few, or do not fit the model, or its
            data set tests on some of them.
        ExportError: a converter refuses the model.
        OutputError: `out` cannot be written, or holds something of an artifact's name that Hemline
            did not make.
    """
    leave_out = recipes is None if leave_out is None else leave_out
    recipes = select_recipes() if recipes is None else recipes
    with writing(out) as stage:
        progress(f"load {keras_file.name}")
        prepared = prepare(
            keras_file, calibration, described=described, choices=choices, trust=trust
        )
        # Before the minutes that making them may take.
        require_room(out, _list_names(prepared, recipes, out))
        artifacts: list[Artifact] = []
        omitted: dict[str, str] = {}
        for recipe in recipes:
            progress(f"export {recipe.name}{recipe.suffix}")
            try:
                artifacts.append(make_artifact(prepared, recipe, stage))
            except ExportError as error:
                if not leave_out or is_full(error):
                    raise
                omitted[f"{recipe.name}{recipe.suffix}"] = str(error)
        if not artifacts:
            raise ExportError("; ".join(omitted.values()) or "no recipes")
        progress(f"run the golden inputs for {golden.FILE_NAME}")
        return publish(prepared, artifacts, stage, out, omitted=omitted)


def prepare(
    keras_file: Path,
    calibration: str | None,
    *,
    described: Described | None = None,
    choices: Choices | None = None,
    trust: bool = False,
) -> Prepared:
    """Opens a Keras file and freezes it, and draws the calibration samples.

    Args and errors are those of `export`.
    """
    choices = choices or Choices()
    model, snapshot = open_keras(keras_file, trust=trust)
    known = _read_training_facts(newest(keras_file.parent / TRAINING))
    samples = resolve_samples(calibration, known.dataset if known else None, "train")
    drawn, calibration_facts = draw_calibration(
        samples, count=choices.calibration_count, seed=choices.calibration_seed
    )
    facts = _model_facts(keras_file, model, known, described or Described(), drawn)
    values = _values(facts, drawn)
    require_untested(drawn, facts)
    if facts.task == Task.CLASSIFICATION:
        _require_probabilities(keras_file, model, values)
    unrolled, looped = unroll_recurrent(model), restore_recurrent_loop(model)
    names = {"input_name": facts.input.name, "output_name": facts.output_name}
    frozen = pool_before_activation(freeze(unrolled, **names))
    return Prepared(
        keras_file=keras_file,
        snapshot=snapshot,
        facts=facts,
        parameters=int(model.count_params()),
        samples=samples,
        drawn=drawn,
        calibration=calibration_facts,
        sources=Sources(
            unrolled=frozen,
            looped=(
                frozen if looped is unrolled else pool_before_activation(freeze(looped, **names))
            ),
            labels=facts.labels,
            calibration=values,
            model=model,
            tuning=functools.cache(lambda: _tuning_samples(facts, samples, calibration)),
            choices=choices,
        ),
    )


def make_artifact(prepared: Prepared, recipe: Recipe, folder: Path) -> Artifact:
    """Makes one recipe's file in a folder, with its facts inside.

    Raises:
        ExportError: a converter refuses the model.
    """
    path = folder / f"{prepared.facts.model}.{recipe.name}{recipe.suffix}"
    settings = make_file(recipe, prepared.sources, path)
    structure = engine_for(path).structure(path)
    # Weights stored as integers take no ranges, and promise nothing of the arithmetic.
    stored_only = settings.get("ranges") == "none"
    facts = ArtifactFacts(
        recipe=recipe.name,
        engine=recipe.engine,
        parent_sha256=prepared.snapshot.sha256,
        input=require_one(path, "input", structure.inputs),
        output=require_one(path, "output", structure.outputs),
        **TOLERANCES[recipe.name].for_task(prepared.facts.task),
        integers=None if stored_only else recipe.integers,
        calibration=prepared.calibration if recipe.calibrated and not stored_only else None,
        settings=settings,
        toolchain={package: version(package) for package in ("hemline", *recipe.packages)},
    )
    embedded = EmbeddedFacts(model=prepared.facts, artifact=facts)
    recipe.embed(path, encode(EMBEDDED_SCHEMA, embedded))
    return Artifact(file=path.name, sha256=sha256(path), size_bytes=size_bytes(path), facts=facts)


def publish(
    prepared: Prepared,
    artifacts: Sequence[Artifact],
    stage: Path,
    out: Path,
    *,
    omitted: Mapping[str, str],
) -> Manifest:
    """Moves artifacts from where they were made to their folder, with golden.json and manifest.

    Args:
        prepared: their model.
        artifacts: the files, which lie in `stage`.
        stage: a folder that `hemline.commit.writing` gave for `out`, or one inside it.
        out: the folder to write.
        omitted: for each recipe that was asked for and not made, the reason.

    Raises:
        OutputError: `out` cannot be written.
    """
    keras_file, facts = prepared.keras_file, prepared.facts
    float_file = stage / f"{facts.model}.float.keras"
    shutil.copyfile(prepared.snapshot.opened, float_file)
    float_model = FloatModel(
        file=float_file.name,
        sha256=prepared.snapshot.sha256,
        size_bytes=prepared.snapshot.size_bytes,
        parameters=prepared.parameters,
    )
    golden_file = stage / golden.FILE_NAME
    write_document(golden_file, golden.SCHEMA, _make_golden(stage, facts, float_model, artifacts))
    was_calibrated = any(artifact.facts.calibration for artifact in artifacts)
    manifest = Manifest(
        model=facts,
        float_model=float_model,
        calibration_sample_sha256=prepared.drawn.sample_sha256() if was_calibrated else (),
        artifacts=tuple(artifacts),
        omitted=dict(omitted),
        golden_sha256=sha256(golden_file),
    )
    write_manifest(stage, manifest)
    if _is_same_file(out / float_model.file, keras_file):
        float_file.unlink()
    # Those are of the model that was here before.
    commit(stage, out, remove=(FLOAT_PREDICTIONS, LADDER))
    return manifest


def _list_names(prepared: Prepared, recipes: Sequence[Recipe], out: Path) -> list[str]:
    """Returns the names that an export writes, but for a float model that is there already."""
    name = prepared.facts.model
    names = [f"{name}.{recipe.name}{recipe.suffix}" for recipe in recipes]
    float_file = out / f"{name}.float.keras"
    is_there = float_file.is_file() and sha256(float_file) == prepared.snapshot.sha256
    return [*names, *([] if is_there else [float_file.name]), golden.FILE_NAME, MANIFEST]


def _make_golden(
    folder: Path, facts: ModelFacts, float_model: FloatModel, artifacts: Sequence[Artifact]
) -> golden.Golden:
    """Runs the golden inputs through the float model and each artifact that runs here."""
    inputs = golden.draw_inputs(facts.input)
    reference = Model(
        folder / float_model.file, KerasEngine(folder / float_model.file, threads=1), facts
    )
    expected = reference.outputs(inputs)
    scale = golden.output_scale(facts, expected)
    answers = []
    for artifact in artifacts:
        try:
            path = folder / artifact.file
            model = load(path, engine=stand_in(artifact.facts.engine), trust=True)
        except (EngineUnavailableError, UnknownOperationError):
            continue
        answers.append(golden.golden_of_artifact(artifact, model, inputs, scale))
    return golden.Golden(
        seed=golden.SEED,
        count=golden.COUNT,
        inputs_sha256=golden.inputs_sha256(inputs),
        float_model=golden.golden_of_float(float_model, expected, scale),
        artifacts=tuple(answers),
    )


def _read_training_facts(path: Path) -> ModelFacts | None:
    if not path.exists():
        return None
    try:
        facts = json.loads(read_regular(path, DOCUMENT_BYTES, ManifestError))["facts"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(f"{path} is damaged ({error}); delete it, or train again") from error
    return from_json(ModelFacts, facts, f"{path}: facts")


def _model_facts(
    keras_file: Path, model: Any, known: ModelFacts | None, described: Described, drawn: Samples
) -> ModelFacts:
    """Puts together what is known of a model; what the user says goes before training.json."""
    shape, output_shape = (tuple(t.shape[1:]) for t in (model.inputs[0], model.outputs[0]))
    task = described.task or (known.task if known else Task.CLASSIFICATION)
    if task == Task.CLASSIFICATION and len(output_shape) != 1:
        raise ExportError(
            f"{keras_file} gives {output_shape} for each sample, and a classifier gives "
            "(classes,): choose another --task"
        )
    try:
        if known is None:
            low, high = described.input_range or _value_range(drawn, described.preprocessing)
            of_classes = task == Task.CLASSIFICATION
            known = ModelFacts(
                model=keras_file.name.partition(".")[0],
                task=task,
                labels=tuple(f"class {i}" for i in range(output_shape[0])) if of_classes else (),
                input=InputFacts(
                    name="image",
                    shape=shape,
                    minimum=low,
                    maximum=high,
                    preprocessing=described.preprocessing,
                ),
                output_name="probabilities" if of_classes else "values",
                output_shape=output_shape,
                dataset=None,
                floor_accuracy=None,
                ceiling_loss=None,
            )
        labels = described.labels or known.labels
        if (known.input.shape, known.output_shape) != (shape, output_shape) or (
            labels and len(labels) != output_shape[0]
        ):
            raise ExportError(
                f"{keras_file} takes {shape} and gives {output_shape}, but is described as taking "
                f"{known.input.shape}, giving {known.output_shape} and naming {len(labels)} classes"
            )
        floor, ceiling = described.floor_accuracy, described.ceiling_loss
        return replace(
            known,
            task=task,
            labels=labels,
            floor_accuracy=known.floor_accuracy if floor is None else floor,
            ceiling_loss=known.ceiling_loss if ceiling is None else ceiling,
        )
    except ValueError as error:
        raise ExportError(str(error)) from error


def _value_range(samples: Samples, preprocessing: Preprocessing | None) -> tuple[float, float]:
    values = preprocess(samples, preprocessing) if preprocessing is None else preprocessing.table()
    return float(values.min()), float(values.max())


def _tuning_samples(facts: ModelFacts, samples: Samples, calibration: str | None) -> TuningSamples:
    if facts.task != Task.CLASSIFICATION:
        raise ExportError(
            f"training on is for classifiers, and {facts.model} is for the task {facts.task}: "
            "leave out int8-qat, int8-pruned and int8-clustered"
        )
    train, validation, source = hold_out(samples, calibration, facts.dataset)
    return TuningSamples(
        values=_values(facts, train),
        labels=labels_of(facts, train),
        validation_values=_values(facts, validation),
        validation_labels=labels_of(facts, validation),
        validation_source=source,
    )


def _values(facts: ModelFacts, drawn: Samples) -> NDArray[np.float32]:
    values = preprocess(drawn, facts.input.preprocessing)
    if values.ndim == len(facts.input.shape) and facts.input.shape[-1] == 1:
        values = values[..., np.newaxis]
    if values.shape[1:] != facts.input.shape:
        raise DataError(
            f"{drawn.source}: samples are {values.shape[1:]}, the model takes {facts.input.shape}"
        )
    return values


def _require_probabilities(keras_file: Path, model: Any, values: NDArray[np.float32]) -> None:
    outputs = np.asarray(model(values[:16], training=False))
    if not np.allclose(outputs.sum(axis=1), 1, atol=1e-3) or outputs.min() < 0:
        raise ExportError(
            f"{keras_file} does not give class probabilities (the first sample's outputs sum to "
            f"{outputs[0].sum():g}): end the model with a softmax"
        )


def _is_same_file(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)

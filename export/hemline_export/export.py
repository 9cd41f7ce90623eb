"""The export stage: a float Keras file in, a folder of artifacts with its manifest out."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline import golden
from hemline.documents import encode, from_json, write_document
from hemline.engines import engine_for, stand_in
from hemline.errors import DataError, EngineUnavailableError, ExportError, ManifestError
from hemline.facts import (
    CLASSIFICATION,
    EMBEDDED_SCHEMA,
    ArtifactFacts,
    CalibrationFacts,
    EmbeddedFacts,
    InputFacts,
    ModelFacts,
    Preprocessing,
)
from hemline.files import replacing, sha256, size_bytes, staging
from hemline.manifest import Artifact, FloatModel, Manifest, write_manifest
from hemline.model import Model, load
from hemline.parity import FLOAT_PREDICTIONS
from hemline.samples import Samples, resolve_samples
from hemline_export.calibration import (
    DEFAULT_COUNT,
    draw_calibration,
    preprocess,
    require_untested,
)
from hemline_export.freeze import freeze
from hemline_export.keras_engine import KerasEngine
from hemline_export.keras_file import load_keras
from hemline_export.recipes import Recipe, Sources, make_file, select_recipes
from hemline_export.recurrent import restore_recurrent_loop, unroll_recurrent
from hemline_export.reorder import pool_before_activation

# Written by `hemline train` beside the Keras file: its `facts` say what only training knows.
TRAINING = "training.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the user says of a model that no training.json describes. None: not said.

    Attributes:
        labels: a name for each class.
        preprocessing: from uint8 pixels to the model's values.
        floor_accuracy: the least test accuracy of the float model that is no failure.
    """

    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    floor_accuracy: float | None = None


def export(
    keras_file: Path,
    calibration: str | None,
    out: Path,
    *,
    recipes: Sequence[Recipe] | None = None,
    described: Described | None = None,
    calibration_count: int = DEFAULT_COUNT,
    calibration_seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Makes artifacts and their manifest. Nothing is written unless all of them succeed.

    Args:
        keras_file: a float Keras 3 file, `NAME.float.keras` or `NAME.keras`.
        calibration: training samples, as `hemline.samples.resolve_samples` takes them.
        out: the folder to write; the Keras file is copied there if it lies elsewhere.
        recipes: what to make; None for every recipe that needs no training.
        described: what to say of the model where training.json does not.
        calibration_count: how many samples to draw.
        calibration_seed: of the draw.
        progress: is told what is being made.

    Raises:
        ModelFileError: the Keras file is none that export takes.
        DataError: the calibration samples are missing, too few, or do not fit the model, or its
            data set tests on some of them.
        ExportError: a converter refuses the model.
        OutputError: `out` cannot be written.
    """
    recipes = select_recipes() if recipes is None else recipes
    with staging(out) as stage:
        progress(f"load {keras_file.name}")
        model = load_keras(keras_file)
        known = _read_training_facts(keras_file.parent / TRAINING)
        samples = resolve_samples(calibration, known.dataset if known else None, "train")
        drawn, calibration_facts = draw_calibration(
            samples, count=calibration_count, seed=calibration_seed
        )
        facts = _model_facts(keras_file, model, known, described or Described(), drawn)
        values = _calibration_values(facts, drawn)
        require_untested(drawn, facts)
        _require_probabilities(keras_file, model, values)
        unrolled, looped = unroll_recurrent(model), restore_recurrent_loop(model)
        names = {"input_name": facts.input.name, "output_name": facts.output_name}
        frozen = pool_before_activation(freeze(unrolled, **names))
        sources = Sources(
            unrolled=frozen,
            looped=(
                frozen if looped is unrolled else pool_before_activation(freeze(looped, **names))
            ),
            labels=facts.labels,
            calibration=values,
        )
        float_file = stage / f"{facts.model}.float.keras"
        shutil.copyfile(keras_file, float_file)
        float_model = FloatModel(
            file=float_file.name,
            sha256=sha256(float_file),
            size_bytes=size_bytes(float_file),
            parameters=int(model.count_params()),
        )
        artifacts = []
        for recipe in recipes:
            path = stage / f"{facts.model}.{recipe.name}{recipe.suffix}"
            progress(f"export {path.name}")
            artifacts.append(
                _make(recipe, sources, path, facts, float_model.sha256, calibration_facts)
            )
        progress(f"run the golden inputs for {golden.FILE_NAME}")
        golden_file = stage / golden.FILE_NAME
        write_document(
            golden_file, golden.SCHEMA, _make_golden(stage, facts, float_model, artifacts)
        )
        manifest = Manifest(
            model=facts,
            float_model=float_model,
            calibration_sample_sha256=(
                drawn.sample_sha256() if any(r.calibrated for r in recipes) else ()
            ),
            artifacts=tuple(artifacts),
            golden_sha256=sha256(golden_file),
        )
        for path in sorted(stage.iterdir()):
            if path.name == float_model.file and _is_same_file(out / path.name, keras_file):
                continue
            with replacing(out / path.name) as temporary:
                path.rename(temporary)
        # Those of the model that was here before.
        (out / FLOAT_PREDICTIONS).unlink(missing_ok=True)
        write_manifest(out, manifest)
    return manifest


def _make(
    recipe: Recipe,
    sources: Sources,
    path: Path,
    model: ModelFacts,
    parent_sha256: str,
    calibration: CalibrationFacts,
) -> Artifact:
    settings = make_file(recipe, sources, path)
    structure = engine_for(path).structure(path)
    facts = ArtifactFacts(
        recipe=recipe.name,
        engine=recipe.engine,
        parent_sha256=parent_sha256,
        input=structure.input,
        output=structure.output,
        margin_pt=recipe.margin_pt,
        calibration=calibration if recipe.calibrated else None,
        settings=settings,
        toolchain={package: version(package) for package in ("hemline", *recipe.packages)},
    )
    recipe.embed(path, encode(EMBEDDED_SCHEMA, EmbeddedFacts(model=model, artifact=facts)))
    return Artifact(file=path.name, sha256=sha256(path), size_bytes=size_bytes(path), facts=facts)


def _make_golden(
    folder: Path, facts: ModelFacts, float_model: FloatModel, artifacts: Sequence[Artifact]
) -> golden.Golden:
    """Runs the golden inputs through the float model and each artifact that runs here."""
    inputs = golden.draw_inputs(facts.input)
    reference = Model(
        folder / float_model.file, KerasEngine(folder / float_model.file, threads=1), facts
    )
    answers = []
    for artifact in artifacts:
        try:
            model = load(folder / artifact.file, engine=stand_in(artifact.facts.engine))
        except EngineUnavailableError:
            continue
        answers.append(golden.golden_of_artifact(artifact, model, inputs))
    return golden.Golden(
        seed=golden.SEED,
        count=golden.COUNT,
        inputs_sha256=golden.inputs_sha256(inputs),
        float_model=golden.golden_of_float(float_model, reference, inputs),
        artifacts=tuple(answers),
    )


def _read_training_facts(path: Path) -> ModelFacts | None:
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_bytes())["facts"]
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} is damaged ({error}); delete it, or train again") from error
    return from_json(ModelFacts, facts, f"{path}: facts")


def _model_facts(
    keras_file: Path, model: Any, known: ModelFacts | None, described: Described, drawn: Samples
) -> ModelFacts:
    """Puts together what is known of a model; what the user says goes before training.json."""
    shape, classes = tuple(model.inputs[0].shape[1:]), int(model.outputs[0].shape[1])
    if known is None:
        low, high = _value_range(drawn, described.preprocessing)
        known = ModelFacts(
            model=keras_file.name.partition(".")[0],
            task=CLASSIFICATION,
            labels=tuple(f"class {i}" for i in range(classes)),
            input=InputFacts(
                name="image",
                shape=shape,
                minimum=low,
                maximum=high,
                preprocessing=described.preprocessing,
            ),
            output_name="probabilities",
            dataset=None,
            floor_accuracy=None,
        )
    labels = described.labels or known.labels
    if known.input.shape != shape or len(labels) != classes:
        raise ExportError(
            f"{keras_file} takes {shape} and gives {classes} classes, but is described as taking "
            f"{known.input.shape} and naming {len(labels)} classes"
        )
    floor = described.floor_accuracy
    try:
        return replace(
            known,
            labels=labels,
            floor_accuracy=known.floor_accuracy if floor is None else floor,
        )
    except ValueError as error:
        raise ExportError(str(error)) from error


def _value_range(samples: Samples, preprocessing: Preprocessing | None) -> tuple[float, float]:
    values = preprocess(samples, preprocessing) if preprocessing is None else preprocessing.table()
    return float(values.min()), float(values.max())


def _calibration_values(facts: ModelFacts, drawn: Samples) -> NDArray[np.float32]:
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

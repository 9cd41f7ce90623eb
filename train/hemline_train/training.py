"""The training stage: from a data set to `<model>.float.keras` and `training.json`."""

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

from hemline.commit import commit, newest, require_room, writing
from hemline.documents import read_document, write_document
from hemline.errors import HemlineError, ManifestError
from hemline.facts import DatasetRef, InputFacts, ModelFacts, Task
from hemline.files import sha256
from hemline.host import describe_host
from hemline.terminal import show
from hemline_train.dataset import FASHION_MNIST, PREPROCESSING, Dataset, preprocess
from hemline_train.evaluate import evaluate
from hemline_train.models import (
    INPUT_NAME,
    INPUT_SHAPE,
    OUTPUT_NAME,
    REFERENCE_MODELS,
    ReferenceModel,
)
from hemline_train.progress import show_progress
from hemline_train.report import (
    FILE_NAME,
    SCHEMA,
    TrainingReport,
    compute_fingerprint,
    read_versions,
)
from hemline_train.settings import Preset, TrainSettings


def train(
    model_name: str, *, preset: Preset, dataset: Dataset, settings: TrainSettings, out: Path
) -> Path:
    """Trains a reference model, tests it, and writes its file and then its report.

    Does nothing if `out` already holds the outcome of the same code, data and settings.

    Args:
        model_name: a key of `REFERENCE_MODELS`.
        preset: what the run is for; only a `full` one on Fashion-MNIST has to reach the floor.
        dataset: what to train and test on.
        settings: the training protocol's numbers.
        out: the folder for `<model>.float.keras` and `training.json`; made if need be.

    Returns:
        The path of `training.json`.

    Raises:
        OutputError: `out` cannot be written, or holds a file of these names that Hemline did not
            make; found out before training.
        HemlineError: training failed.
    """
    if model_name not in REFERENCE_MODELS:
        raise HemlineError(
            f"unknown model {model_name!r}, expected one of {', '.join(REFERENCE_MODELS)}"
        )
    report_path, keras_path = newest(out / FILE_NAME), newest(out / f"{model_name}.float.keras")
    versions = read_versions()
    fingerprint = compute_fingerprint(model_name, preset, settings, dataset.sha256, versions)
    if _is_up_to_date(report_path, keras_path, fingerprint):
        show(f"{model_name}: up to date (same code, data and settings)", file=sys.stderr)
        return report_path
    with writing(out) as stage:
        require_room(out, [FILE_NAME, f"{model_name}.float.keras"])
        _fit_and_save(model_name, preset, dataset, settings, fingerprint, versions, stage)
        commit(stage, out)
    return out / FILE_NAME


def _fit_and_save(
    model_name: str,
    preset: Preset,
    dataset: Dataset,
    settings: TrainSettings,
    fingerprint: str,
    versions: dict[str, str],
    folder: Path,
) -> None:
    from hemline_train.fit import fit

    reference = REFERENCE_MODELS[model_name]
    started_ns = time.perf_counter_ns()
    with show_progress(model_name, settings.epochs) as progress:
        model, curves = fit(reference, dataset, settings, progress)
    seconds = (time.perf_counter_ns() - started_ns) / 1e9
    probabilities = model.predict(preprocess(dataset.test_images), batch_size=500, verbose=0)
    evaluation = evaluate(probabilities, dataset.test_labels, dataset.labels)
    keras_path = folder / f"{model_name}.float.keras"
    _save_weights_only(model, reference, keras_path)
    report = TrainingReport(
        facts=_describe_model(reference, preset, dataset, settings),
        fingerprint=fingerprint,
        keras_file=keras_path.name,
        keras_sha256=sha256(keras_path),
        weights_sha256=hash_weights(model),
        dataset_sha256=dataset.sha256,
        parameters=int(model.count_params()),
        preset=preset,
        settings=settings,
        curves=curves,
        best_epoch=curves.best_epoch,
        epochs_run=len(curves.loss),
        seconds=round(seconds, 3),
        evaluation=evaluation,
        versions=versions,
        host=describe_host(),
    )
    write_document(folder / FILE_NAME, SCHEMA, report)


def hash_weights(model: Any) -> str:
    """Returns the SHA-256 of a Keras model's weights: shapes and bytes, in their order."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(weight.tobytes())
    return digest.hexdigest()


def _is_up_to_date(report_path: Path, keras_path: Path, fingerprint: str) -> bool:
    try:
        report = read_document(report_path, SCHEMA, TrainingReport)
    except ManifestError:
        return False
    return (
        report.fingerprint == fingerprint
        and keras_path.is_file()
        and sha256(keras_path) == report.keras_sha256
    )


def _save_weights_only(model: Any, reference: ReferenceModel, path: Path) -> None:
    # A compiled model takes its optimizer's state along, three times the bytes.
    bare = reference.build()
    bare.set_weights(model.get_weights())
    bare.save(path)


def _describe_model(
    reference: ReferenceModel, preset: Preset, dataset: Dataset, settings: TrainSettings
) -> ModelFacts:
    has_floor = preset == "full" and dataset.name == FASHION_MNIST
    return ModelFacts(
        model=reference.name,
        task=Task.CLASSIFICATION,
        labels=dataset.labels,
        input=InputFacts(
            name=INPUT_NAME,
            shape=INPUT_SHAPE,
            minimum=0.0,
            maximum=1.0,
            preprocessing=PREPROCESSING,
        ),
        output_name=OUTPUT_NAME,
        output_shape=(len(dataset.labels),),
        dataset=DatasetRef(name=dataset.name, split_seed=settings.split_seed),
        floor_accuracy=reference.floor_accuracy if has_floor else None,
        ceiling_loss=None,
    )

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hemline.documents import read_document
from hemline.errors import HemlineError, OutputError
from hemline.files import sha256
from hemline_train import fit as fit_module
from hemline_train import training
from hemline_train.backend import keras
from hemline_train.dataset import Dataset, preprocess
from hemline_train.evaluate import evaluate
from hemline_train.models import REFERENCE_MODELS, ReferenceModel
from hemline_train.report import SCHEMA, Curves, TrainingReport, compute_fingerprint
from hemline_train.settings import TrainSettings
from hemline_train.training import train

SETTINGS = TrainSettings(epochs=2, learning_rate=0.01, decay_rate=0.1, seed=0)
CURVES = Curves(
    loss=(0.9, 0.6, 0.5),
    accuracy=(0.5, 0.6, 0.7),
    val_loss=(0.8, 0.7, 0.75),
    val_accuracy=(0.5, 0.6, 0.6),
    learning_rate=(0.01, 0.01, 0.01),
)
Train = Callable[..., TrainingReport]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, small_reference: ReferenceModel) -> list[int]:
    """The seeds of the runs that were not skipped; fitting `small` only draws its weights."""
    seeds: list[int] = []

    def fit_nothing(reference, dataset, settings, progress):
        del dataset, progress
        seeds.append(settings.seed)
        keras.utils.set_random_seed(settings.seed)
        model = reference.build()
        model.compile(optimizer="adam", loss=reference.loss)
        model.optimizer.build(model.trainable_variables)
        return model, CURVES

    monkeypatch.setattr(fit_module, "fit", fit_nothing)
    monkeypatch.setitem(REFERENCE_MODELS, "small", small_reference)
    return seeds


@pytest.fixture
def train_small(tmp_path: Path, small_dataset: Dataset, runs: list[int]) -> Train:
    del runs

    def run(settings: TrainSettings = SETTINGS) -> TrainingReport:
        out = tmp_path / "out"
        path = train("small", preset="quick", dataset=small_dataset, settings=settings, out=out)
        assert path == out / "training.json"
        return read_document(path, SCHEMA, TrainingReport)

    return run


def test_the_files_are_whole_and_agree(
    tmp_path: Path, train_small: Train, small_dataset: Dataset
) -> None:
    report = train_small()
    path = tmp_path / "out/small.float.keras"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "small.float.keras",
        "training.json",
    ]
    assert report.keras_file == path.name
    assert report.keras_sha256 == sha256(path)
    assert report.facts.model == "small"
    assert report.facts.floor_accuracy is None
    assert report.facts.dataset is not None
    assert report.facts.dataset.name == "synthetic"
    assert report.parameters == 500
    assert report.curves == CURVES
    assert (report.epochs_run, report.best_epoch) == (3, 1)
    assert set(report.versions) == {"python", "keras", "numpy", "tensorflow"}
    model = keras.saving.load_model(path)
    assert training.hash_weights(model) == report.weights_sha256
    probabilities = model.predict(preprocess(small_dataset.test_images), verbose=0)
    scores = evaluate(probabilities, small_dataset.test_labels, small_dataset.labels)
    assert scores.confusion == report.evaluation.confusion


def test_the_keras_file_carries_no_optimizer(tmp_path: Path, train_small: Train) -> None:
    train_small()
    with zipfile.ZipFile(tmp_path / "out/small.float.keras") as archive:
        assert json.loads(archive.read("config.json"))["compile_config"] == {}
        assert len(archive.read("model.weights.h5")) < 20_000
    assert not keras.saving.load_model(tmp_path / "out/small.float.keras").compiled


def test_the_same_again_does_not_train(
    train_small: Train, runs: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    first = train_small()
    capsys.readouterr()
    assert train_small() == first
    assert runs == [0]
    assert capsys.readouterr().err == "small: up to date (same code, data and settings)\n"


def test_another_seed_trains(train_small: Train, runs: list[int]) -> None:
    first = train_small()
    second = train_small(dataclasses.replace(SETTINGS, seed=1))
    assert runs == [0, 1]
    assert first.weights_sha256 != second.weights_sha256


def test_a_file_that_is_gone_is_made_again(
    tmp_path: Path, train_small: Train, runs: list[int]
) -> None:
    first = train_small()
    (tmp_path / "out" / "small.float.keras").unlink()
    assert train_small().weights_sha256 == first.weights_sha256
    (tmp_path / "out" / "training.json").unlink()
    # Nothing says any longer that the model is Hemline's own.
    with pytest.raises(OutputError, match=r"small\.float\.keras is there already"):
        train_small()
    assert runs == [0, 0]


def test_a_file_that_was_changed_is_not_replaced(
    tmp_path: Path, train_small: Train, runs: list[int]
) -> None:
    train_small()
    for name in ("small.float.keras", "training.json"):
        path = tmp_path / "out" / name
        before = path.read_bytes()
        path.write_bytes(b"{}")
        message = rf"{name} is there already, and is nothing that Hemline made, or was changed"
        # Before any training.
        with pytest.raises(OutputError, match=message):
            train_small()
        assert path.read_bytes() == b"{}"
        path.write_bytes(before)
    assert runs == [0]


def test_everything_that_matters_is_in_the_fingerprint() -> None:
    def fingerprint(model="cnn", preset="full", settings=SETTINGS, data="0", versions="2.21.0"):
        return compute_fingerprint(model, preset, settings, data, {"tensorflow": versions})

    others = [
        fingerprint(model="gru"),
        fingerprint(preset="quick"),
        fingerprint(settings=dataclasses.replace(SETTINGS, decay_rate=0.2)),
        fingerprint(data="1"),
        fingerprint(versions="2.22.0"),
    ]
    assert fingerprint() == fingerprint()
    assert len({fingerprint(), *others}) == 6


def test_only_a_full_run_on_the_real_data_has_a_floor(
    small_dataset: Dataset, small_reference: ReferenceModel
) -> None:
    real = Dataset(
        name="fashion_mnist",
        train_images=small_dataset.train_images,
        train_labels=small_dataset.train_labels,
        test_images=small_dataset.test_images,
        test_labels=small_dataset.test_labels,
        labels=small_dataset.labels,
    )

    def floor(preset, dataset):
        facts = training._describe_model(small_reference, preset, dataset, SETTINGS)
        return facts.floor_accuracy

    assert floor("full", real) == 0.9
    assert floor("quick", real) is None
    assert floor("full", small_dataset) is None


def test_a_folder_that_cannot_be_written_is_found_out_before_training(
    tmp_path: Path, small_dataset: Dataset, runs: list[int]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot write in .*file/out: Not a directory"):
        train(
            "small",
            preset="quick",
            dataset=small_dataset,
            settings=SETTINGS,
            out=tmp_path / "file/out",
        )
    assert runs == []


def test_a_failed_save_leaves_the_old_files(
    tmp_path: Path, train_small: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    digest = hashlib.sha256(b"old model").hexdigest()
    report = {
        "schema": "hemline.training/1",
        "keras_file": "small.float.keras",
        "keras_sha256": digest,
    }
    before = {"small.float.keras": b"old model", "training.json": json.dumps(report).encode()}
    for name, content in before.items():
        (out / name).write_bytes(content)

    def fail(_model, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Sequential, "save", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        train_small()
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_an_unknown_model_is_refused(tmp_path: Path, small_dataset: Dataset) -> None:
    with pytest.raises(HemlineError, match="unknown model 'rnn', expected one of cnn, gru"):
        train("rnn", preset="full", dataset=small_dataset, settings=SETTINGS, out=tmp_path)

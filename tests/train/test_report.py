import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

from hemline.documents import read_document
from hemline.errors import EngineUnavailableError
from hemline_train.report import SCHEMA, Curves, TrainingReport, read_versions

RELEASED = Path(__file__).parents[2] / "artifacts/fashion_mnist/cnn/training.json"


@pytest.mark.parametrize("epoch", [-1, 10**6])
def test_a_best_epoch_that_was_never_run(epoch: int) -> None:
    report = read_document(RELEASED, SCHEMA, TrainingReport)
    with pytest.raises(ValueError, match=f"the best epoch is {epoch} of "):
        replace(report, best_epoch=epoch)
    with pytest.raises(ValueError, match="must be a plain file name"):
        replace(report, keras_file="../x.keras")


def test_the_best_epoch_is_the_first_with_the_least_validation_loss() -> None:
    zeros = (0.0,) * 4
    curves = Curves(
        loss=zeros,
        accuracy=zeros,
        val_loss=(0.5, 0.3, 0.4, 0.3),
        val_accuracy=zeros,
        learning_rate=zeros,
    )
    assert curves.best_epoch == 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", fail)
    with pytest.raises(EngineUnavailableError, match=r"needs keras, .* 'hemline\[train\]'"):
        read_versions()

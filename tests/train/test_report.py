import importlib.metadata

import pytest

from hemline.errors import EngineUnavailableError
from hemline_train.report import Curves, read_versions


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

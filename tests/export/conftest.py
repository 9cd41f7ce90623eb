"""Small Keras models that the tests of export share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hemline_export.backend import keras

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves layers as a Keras file that takes `shape`, and returns its path."""

    def save(*layers: Any, shape: tuple[int | None, ...] = (8, 8, 1), name: str = "m") -> Path:
        path = tmp_path / f"{name}.keras"
        keras.Sequential([keras.Input(shape), *layers]).save(path)
        return path

    return save

"""What the tests of all packages share: the real data's folder and one small exported model."""

import os
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from hemline.facts import Preprocessing
from hemline_export.export import Described, export
from hemline_export.recipes import RECIPES, Choices
from hemline_train.backend import keras
from hemline_train.fashion_mnist import LABELS, DatasetUnavailableError, find_folder
from hemline_train.garments import draw_garments

EXPORTED = ("float32.tflite", "int8.tflite", "float32.onnx", "float16.mlpackage")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds how much is done under stress: a look in `make test`, more in targets of their own."""
    parser.addoption(
        "--mutations", type=int, default=60, help="damaged files per engine (make fuzz: 500)"
    )
    parser.addoption(
        "--kills", type=int, default=2, help="kills of export and of train (make crashtest: 20)"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
    call: pytest.CallInfo[None],  # noqa: ARG001 - pytest passes by name
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fails a skip that gives no reason, so that none goes unnoticed."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped").strip(": ")
        if reason in ("", "unconditional skip"):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped without a reason"
    return report


@pytest.fixture(scope="session")
def real_data_folder() -> Path:
    """The folder of the real Fashion-MNIST; HEMLINE_REQUIRE_DATA=1 makes its absence an error."""
    try:
        return find_folder(addresses=()).resolve()
    except DatasetUnavailableError as error:
        if os.environ.get("HEMLINE_REQUIRE_DATA") == "1":
            raise
        pytest.skip(f"the real data set is not here: {error}")


@pytest.fixture(scope="session")
def garments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.npz (2,000 samples) and test.npz (6,000) of synthetic garments."""
    folder = tmp_path_factory.mktemp("garments")
    for name, count, seed in (("train", 2_000, 1), ("test", 6_000, 2)):
        images, labels = draw_garments(count, seed)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
    return folder


@pytest.fixture(scope="session")
def separable_keras(garments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained depthwise-separable CNN: neither reference model, with other kinds of layers."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(6.0),
            layers.Conv2D(16, 1, use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(6.0),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    with np.load(garments / "train.npz") as data:
        model.fit(data["images"] / np.float32(255), data["labels"], 64, 10, verbose=0)
    path = tmp_path_factory.mktemp("keras") / "separable.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def exported(
    separable_keras: Path, garments: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the separable CNN, a file for each engine. Copy it before changing it."""
    out = tmp_path_factory.mktemp("exported")
    export(
        separable_keras,
        str(garments / "train.npz"),
        out,
        recipes=[recipe for recipe in RECIPES if recipe.name + recipe.suffix in EXPORTED],
        described=Described(
            labels=LABELS, preprocessing=Preprocessing(mean=0.0, std=255.0), floor_accuracy=0.5
        ),
        choices=Choices(calibration_count=100),
    )
    return out

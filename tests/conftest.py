"""What the tests of all packages share: the real data's folder and one small exported model."""

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemline.facts import Preprocessing
from hemline_export import keras_file
from hemline_export.export import Described, export
from hemline_export.recipes import RECIPES, Choices
from hemline_train.backend import keras
from hemline_train.fashion_mnist import LABELS, DatasetUnavailableError, find_folder
from hemline_train.garments import draw_garments

MODELS = Path(__file__).parent / "models"
EXPORTED = ("float32.tflite", "int8.tflite", "float32.onnx", "float16.mlpackage")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds how much is done, and on which models: a look in `make test`, more in other targets."""
    parser.addoption(
        "--mutations",
        type=int,
        default=60,
        help="damaged files per engine and kind (make fuzz: 500)",
    )
    parser.addoption(
        "--kills", type=int, default=2, help="kills of export and of train (make crashtest: 20)"
    )
    parser.addoption(
        "--model-seed",
        type=int,
        help="train the tests' models anew with this seed (make test-seeds: 1 to 5)",
    )
    parser.addoption(
        "--save-models", action="store_true", help="keep what --model-seed trained in tests/models"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --model-seed, leaves the tests that use a model trained with it."""
    if config.getoption("--model-seed") is None:
        return
    chosen = [item for item in items if {"trained", "model_seed"} & set(item.fixturenames)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


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


@pytest.fixture(scope="session", autouse=True)
def recorded_keras_files() -> Iterator[None]:
    """Spares each export the child process that tries a Keras file which nothing records.

    It starts TensorFlow. tests/export/test_keras_file.py has the real thing.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras_file, "is_recorded", lambda _: True)
        yield


@pytest.fixture(scope="session")
def garments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.npz (2,000 samples) and test.npz (6,000) of synthetic garments."""
    folder = tmp_path_factory.mktemp("garments")
    for name, count, seed in (("train", 2_000, 1), ("test", 6_000, 2)):
        images, labels = draw_garments(count, seed)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
    return folder


@pytest.fixture(scope="session")
def model_seed(pytestconfig: pytest.Config) -> int:
    """The seed of a model whose training is what a test is about: --model-seed, or 0."""
    return pytestconfig.getoption("--model-seed") or 0


@pytest.fixture(scope="session")
def trained(pytestconfig: pytest.Config) -> Callable[..., Any]:
    """Builds a small model with committed weights: `trained(name, build, fit)`.

    What training gives differs by processor, so the weights lie in tests/models. They were made by
    `pytest --model-seed 0 --save-models`. With --model-seed alone, the model is trained for this
    run, to show that the tests do not hold for one model only.
    """
    seed = pytestconfig.getoption("--model-seed")

    def build_trained(name: str, build: Callable[[], Any], fit: Callable[[Any], object]) -> Any:
        path = MODELS / f"{name}.npz"
        if seed is None:
            model = build()
            with np.load(path) as weights:
                model.set_weights(list(weights.values()))
            return model
        # Before the layers are made: each draws the seed of its weights then.
        keras.utils.set_random_seed(seed)
        model = build()
        fit(model)
        if pytestconfig.getoption("--save-models"):
            np.savez_compressed(path, *model.get_weights())
        return model

    return build_trained


def build_separable() -> Any:
    layers = keras.layers
    return keras.Sequential(
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


@pytest.fixture(scope="session")
def fit_garments(garments: Path) -> Callable[[Any], None]:
    """Trains a classifier on the synthetic garments."""

    def fit(model: Any) -> None:
        # A rate that falls to nothing leaves less to luck: with a constant one, a seed's accuracy
        # may be anything from 0.57 to 0.73.
        rate = keras.optimizers.schedules.CosineDecay(0.02, decay_steps=12 * 63)
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        with np.load(garments / "train.npz") as data:
            model.fit(data["images"] / np.float32(255), data["labels"], 32, 12, verbose=0)

    return fit


@pytest.fixture(scope="session")
def separable_keras(
    trained: Callable[..., Any],
    fit_garments: Callable[[Any], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A trained depthwise-separable CNN: neither reference model, with other kinds of layers."""
    path = tmp_path_factory.mktemp("keras") / "separable.keras"
    trained("separable", build_separable, fit_garments).save(path)
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

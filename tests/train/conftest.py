"""Small data sets and models that the tests of the training share."""

from typing import Any

import pytest

from hemline_train.dataset import Dataset
from hemline_train.fashion_mnist import LABELS
from hemline_train.garments import draw_garments
from hemline_train.models import ReferenceModel


@pytest.fixture(scope="session")
def small_dataset() -> Dataset:
    train_images, train_labels = draw_garments(300, 1)
    test_images, test_labels = draw_garments(100, 2)
    return Dataset(
        name="synthetic",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        labels=LABELS,
    )


def build_small() -> Any:
    from hemline_train.backend import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.AveragePooling2D(4),
            layers.Flatten(),
            layers.Dropout(0.1),
            layers.Dense(10, activation="softmax"),
        ]
    )


@pytest.fixture
def small_reference() -> ReferenceModel:
    return ReferenceModel(
        name="small",
        build=build_small,
        loss="categorical_crossentropy",
        one_hot=True,
        learning_rate=0.01,
        decay_rate=0.1,
        seed=0,
        floor_accuracy=0.9,
    )

"""The two reference models, and what each is trained with.

Keras is imported when a model is built, so that the table can be read without TensorFlow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

INPUT_NAME = "image"
INPUT_SHAPE = (28, 28, 1)
OUTPUT_NAME = "probabilities"
CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceModel:
    """A reference model.

    Attributes:
        name: the first part of its files' names.
        build: makes the untrained Keras model: float32 (n, 28, 28, 1) to (n, 10).
        loss: Keras's name of the loss.
        one_hot: whether the loss takes one-hot labels, not class numbers.
        learning_rate: Adam's, found by validation loss.
        decay_rate: of the learning rate after the constant epochs, found likewise.
        seed: of the released weights.
        floor_accuracy: the published test accuracy on Fashion-MNIST, to be reached by a full run.
    """

    name: str
    build: Callable[[], Any]
    loss: str
    one_hot: bool
    learning_rate: float
    decay_rate: float
    seed: int
    floor_accuracy: float


def build_cnn() -> Any:
    """Builds the CNN: three rounds of convolution, rectifier, pooling and dropout; two dense."""
    from hemline_train.backend import keras

    layers = keras.layers
    stack = [keras.Input(INPUT_SHAPE, name=INPUT_NAME)]
    for filters in (32, 64, 128):
        stack += [
            layers.Conv2D(filters, 3, padding="same"),
            layers.LeakyReLU(negative_slope=0.1),
            layers.MaxPooling2D(2, padding="same"),
            layers.Dropout(0.25),
        ]
    stack += [
        layers.Flatten(),
        layers.Dense(128),
        layers.LeakyReLU(negative_slope=0.1),
        layers.Dropout(0.25),
        layers.Dense(CLASSES, activation="softmax", name=OUTPUT_NAME),
    ]
    return keras.Sequential(stack, name="cnn")


def build_gru() -> Any:
    """Builds the GRU: an image is read as 28 rows of 28, and the last state goes to two dense."""
    from hemline_train.backend import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(INPUT_SHAPE, name=INPUT_NAME),
            layers.Reshape(INPUT_SHAPE[:2]),
            layers.GRU(128),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.LeakyReLU(negative_slope=0.1),
            layers.Dropout(0.25),
            layers.Dense(CLASSES, activation="softmax", name=OUTPUT_NAME),
        ],
        name="gru",
    )


REFERENCE_MODELS = {
    model.name: model
    for model in (
        ReferenceModel(
            name="cnn",
            build=build_cnn,
            loss="categorical_crossentropy",
            one_hot=True,
            learning_rate=0.001,
            decay_rate=0.2,
            seed=0,
            floor_accuracy=0.919,
        ),
        ReferenceModel(
            name="gru",
            build=build_gru,
            loss="sparse_categorical_crossentropy",
            one_hot=False,
            learning_rate=0.0015,
            decay_rate=0.3,
            seed=0,
            floor_accuracy=0.897,
        ),
    )
}

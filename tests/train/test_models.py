from typing import Any

import numpy as np
import pytest

from hemline_train.models import REFERENCE_MODELS, build_cnn, build_gru

CNN = [
    ("Conv2D", (28, 28, 32), 320),
    ("LeakyReLU", (28, 28, 32), 0),
    ("MaxPooling2D", (14, 14, 32), 0),
    ("Dropout", (14, 14, 32), 0),
    ("Conv2D", (14, 14, 64), 18_496),
    ("LeakyReLU", (14, 14, 64), 0),
    ("MaxPooling2D", (7, 7, 64), 0),
    ("Dropout", (7, 7, 64), 0),
    ("Conv2D", (7, 7, 128), 73_856),
    ("LeakyReLU", (7, 7, 128), 0),
    ("MaxPooling2D", (4, 4, 128), 0),
    ("Dropout", (4, 4, 128), 0),
    ("Flatten", (2048,), 0),
    ("Dense", (128,), 262_272),
    ("LeakyReLU", (128,), 0),
    ("Dropout", (128,), 0),
    ("Dense", (10,), 1_290),
]
GRU = [
    ("Reshape", (28, 28), 0),
    ("GRU", (128,), 60_672),
    ("Flatten", (128,), 0),
    ("Dense", (128,), 16_512),
    ("LeakyReLU", (128,), 0),
    ("Dropout", (128,), 0),
    ("Dense", (10,), 1_290),
]


@pytest.mark.parametrize(
    ("build", "layers", "parameters"), [(build_cnn, CNN, 356_234), (build_gru, GRU, 78_474)]
)
def test_every_layer_is_as_specified(
    build: Any, layers: list[tuple[str, tuple[int, ...], int]], parameters: int
) -> None:
    model = build()
    found = [(type(x).__name__, x.output.shape[1:], x.count_params()) for x in model.layers]
    assert found == layers
    assert model.count_params() == parameters
    assert model.input_shape == (None, 28, 28, 1)
    assert model.inputs[0].name == "image"
    assert {x.rate for x in model.layers if type(x).__name__ == "Dropout"} == {0.25}
    assert {x.negative_slope for x in model.layers if type(x).__name__ == "LeakyReLU"} == {0.1}
    assert model.layers[-1].activation.__name__ == "softmax"


def test_the_cnns_convolutions_and_pools() -> None:
    layers = build_cnn().layers
    convolutions = [x for x in layers if type(x).__name__ == "Conv2D"]
    assert {(x.kernel_size, x.strides, x.padding) for x in convolutions} == {
        ((3, 3), (1, 1), "same")
    }
    pools = [x for x in layers if type(x).__name__ == "MaxPooling2D"]
    assert {(x.pool_size, x.strides, x.padding) for x in pools} == {((2, 2), (2, 2), "same")}
    assert {x.activation.__name__ for x in convolutions} == {"linear"}


def test_the_grus_layer() -> None:
    layer = build_gru().layers[1]
    assert layer.activation.__name__ == "tanh"
    assert layer.recurrent_activation.__name__ == "sigmoid"
    assert layer.return_sequences is False


def test_the_gru_reads_rows() -> None:
    reshape = build_gru().layers[0]
    image = np.arange(784, dtype=np.float32).reshape(1, 28, 28, 1)
    assert np.asarray(reshape(image))[0, 1].tolist() == list(range(28, 56))


def test_the_table() -> None:
    assert list(REFERENCE_MODELS) == ["cnn", "gru"]
    cnn, gru = REFERENCE_MODELS.values()
    assert (cnn.loss, cnn.one_hot, cnn.floor_accuracy) == ("categorical_crossentropy", True, 0.919)
    assert gru.loss == "sparse_categorical_crossentropy"
    assert (gru.one_hot, gru.floor_accuracy) == (False, 0.897)

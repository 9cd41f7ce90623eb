from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.numpy_helper import to_array

from hemline.engines.onnxruntime import EXACT_INTEGERS
from hemline.errors import ExportError
from hemline_export.backend import keras
from hemline_export.calibration import Ranges
from hemline_export.freeze import freeze
from hemline_export.onnx_file import onnx_from_frozen
from hemline_export.onnx_quantize import (
    int8_onnx_from_float,
    is_recurrent,
    quantize_symmetric,
)
from hemline_export.recurrent import restore_recurrent_loop

layers = keras.layers
Samples = NDArray[np.float32]


def build(shape: tuple[int, ...], *stack: Any) -> tuple[Any, bytes]:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input(shape), *stack])
    for weight in model.trainable_weights:
        # A fresh bias of zeros leaves no trace in the graph.
        if "bias" in weight.name:
            weight.assign(np.random.default_rng(1).normal(0, 0.3, weight.shape))
    frozen = freeze(restore_recurrent_loop(model), input_name="x", output_name="probabilities")
    return model, onnx_from_frozen(frozen)


def draw(count: int, shape: tuple[int, ...]) -> Samples:
    return np.random.default_rng(3).random((count, *shape), np.float32)


def run(content: bytes, samples: Samples) -> Samples:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*EXACT_INTEGERS)
    session = onnxruntime.InferenceSession(content, options)
    return np.concatenate([session.run(None, {"x": x[np.newaxis]})[0] for x in samples])


def operators_at_work(content: bytes, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of a file when it opens it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(content, options)
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def constants(content: bytes) -> dict[str, NDArray[Any]]:
    graph = onnx.load_from_string(content).graph
    return {tensor.name: to_array(tensor) for tensor in graph.initializer}


@pytest.fixture(scope="module")
def cnn() -> tuple[Any, bytes]:
    return build(
        (8, 8, 1),
        layers.Conv2D(6, 3, padding="same"),
        layers.MaxPooling2D(2),
        layers.LeakyReLU(0.1),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.Flatten(),
        layers.Dense(12, "relu"),
        layers.Dense(4, "softmax"),
    )


@pytest.fixture(scope="module")
def int8_cnn(cnn: tuple[Any, bytes]) -> bytes:
    content, settings = int8_onnx_from_float(cnn[1], draw(50, (8, 8, 1)))
    assert settings == {"form": "int8 weights and arithmetic", "ranges": "minmax"}
    return content


def test_a_convolutional_model_computes_in_integers_up_to_its_logits(
    int8_cnn: bytes, tmp_path: Path
) -> None:
    operators = operators_at_work(int8_cnn, tmp_path)
    assert operators["QLinearConv"] == operators["QGemm"] == 2
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "LeakyRelu", "Relu"} & set(
        operators
    )
    assert (operators["QuantizeLinear"], operators["DequantizeLinear"]) == (1, 0)
    assert operators["Softmax"] == 1


@pytest.mark.parametrize("keepdims", [False, True])
def test_global_average_pooling_stays_in_integers(keepdims: bool, tmp_path: Path) -> None:
    model, content = build(
        (8, 8, 1),
        layers.Conv2D(6, 3, activation="relu"),
        layers.GlobalAveragePooling2D(keepdims=keepdims),
        layers.Flatten(),
        layers.Dense(4, "softmax"),
    )
    quantized, _ = int8_onnx_from_float(content, draw(50, (8, 8, 1)))
    assert operators_at_work(quantized, tmp_path)["QLinearGlobalAveragePool"] == 1
    samples = draw(20, (8, 8, 1))
    np.testing.assert_allclose(run(quantized, samples), np.asarray(model(samples)), atol=0.02)


def test_its_answers_are_probabilities_near_the_float_model_s(
    cnn: tuple[Any, bytes], int8_cnn: bytes
) -> None:
    samples = draw(20, (8, 8, 1))
    answers = run(int8_cnn, samples)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(answers, np.asarray(cnn[0](samples)), atol=0.02)


def test_its_weights_have_a_scale_per_channel(int8_cnn: bytes) -> None:
    values = constants(int8_cnn)
    kernels = {
        name: value for name, value in values.items() if value.dtype == np.int8 and value.ndim > 1
    }
    channels = []
    for name, kernel in kernels.items():
        assert np.abs(kernel.astype(int)).max() == 127
        channels.append(len(values[f"{name.removesuffix('_quantized')}_scale"]))
    assert sorted(channels) == [4, 6, 6, 12]


def test_the_same_input_gives_the_same_file(cnn: tuple[Any, bytes], int8_cnn: bytes) -> None:
    assert int8_onnx_from_float(cnn[1], draw(50, (8, 8, 1)))[0] == int8_cnn


def test_ranges_that_leave_out_an_outlier_are_narrower(cnn: tuple[Any, bytes]) -> None:
    samples = draw(400, (8, 8, 1))
    samples[0, 0, 0, 0] = 50
    scales = {}
    for ranges in Ranges:
        content, settings = int8_onnx_from_float(cnn[1], samples, ranges)
        assert settings["ranges"] == ranges.value
        model = onnx.load_from_string(content)
        first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
        scales[ranges] = float(constants(content)[first.input[1]])
    assert scales[Ranges.MINMAX] == pytest.approx(50 / 255)
    assert scales[Ranges.PERCENTILE] < 5 / 255
    assert scales[Ranges.ENTROPY] < 45 / 255


def test_nothing_is_written_to_the_terminal(
    cnn: tuple[Any, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    for ranges in Ranges:
        int8_onnx_from_float(cnn[1], draw(5, (8, 8, 1)), ranges)
    assert capfd.readouterr() == ("", "")


def test_an_operator_without_an_integer_form_is_named() -> None:
    _, content = build(
        (8, 8, 1),
        layers.Conv2D(2, 3),
        layers.ELU(name="soft"),
        layers.Flatten(),
        layers.Dense(2, "softmax"),
    )
    with pytest.raises(ExportError, match=r"no integer form of Elu \(.*soft.*\); the float32"):
        int8_onnx_from_float(content, draw(5, (8, 8, 1)))


@pytest.mark.parametrize("settings", [{}, {"reset_after": False}])
def test_a_recurrent_model_stores_int8_and_runs_as_its_float_file(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    model, content = build(
        (6, 8),
        layers.GRU(32, **settings),
        layers.Dense(16, "relu"),
        layers.Dense(4, "softmax"),
    )
    quantized, recorded = int8_onnx_from_float(content, draw(5, (6, 8)))
    assert recorded == {"form": "int8 weights, float arithmetic", "ranges": "none"}
    matrices = [value for value in constants(quantized).values() if value.size > 200]
    assert len(matrices) >= 3
    assert {value.dtype for value in matrices} == {np.dtype(np.int8)}
    # That is, nothing is left of the decompression when the file is open.
    at_work = operators_at_work(quantized, tmp_path)
    assert at_work == operators_at_work(content, tmp_path)
    assert not {"Cast", "DequantizeLinear"} & set(at_work)
    samples = draw(20, (6, 8))
    np.testing.assert_allclose(run(quantized, samples), np.asarray(model(samples)), atol=0.005)


def test_a_weight_that_steps_share_makes_a_model_recurrent(cnn: tuple[Any, bytes]) -> None:
    _, gru = build((6, 8), layers.GRU(3))
    _, unrolled = build((6, 8), layers.GRU(3, activation="relu"))
    found = [is_recurrent(onnx.load_from_string(content)) for content in (gru, unrolled, cnn[1])]
    assert found == [True, True, False]


def test_symmetric_int8() -> None:
    weights = np.array([[1.27, -0.64, 0.0], [254.0, 127.0, -254.0], [0.0, 0.0, 0.0]], np.float32)
    values, scales = quantize_symmetric(weights, axis=0)
    assert values.tolist() == [[127, -64, 0], [127, 64, -127], [0, 0, 0]]
    np.testing.assert_allclose(scales, [[0.01], [2], [1]], rtol=1e-6)
    assert (values.dtype, scales.dtype) == (np.int8, np.float32)
    assert quantize_symmetric(weights, axis=-1)[1].shape == (1, 3)

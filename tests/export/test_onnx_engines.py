"""The same ONNX file in three engines: ONNX Runtime, OpenVINO and onnx's reference evaluator.

Only the first is an engine of Hemline's. The others show that the files say what they mean, and
do not lean on what one engine makes of them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from hemline.engines.onnxruntime import EXACT_INTEGERS
from hemline.golden import TOLERANCES
from hemline.manifest import read_manifest
from hemline.samples import resolve_samples
from hemline_export.backend import keras
from hemline_export.calibration import preprocess
from hemline_export.freeze import freeze
from hemline_export.onnx_file import onnx_from_frozen
from hemline_export.onnx_quantize import int8_onnx_from_float
from hemline_export.recurrent import restore_recurrent_loop

layers = keras.layers
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]

RELEASED = Path(__file__).parents[2] / "artifacts" / "fashion_mnist"


def run_in_onnxruntime(content: bytes) -> Run:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*EXACT_INTEGERS)
    session = onnxruntime.InferenceSession(content, options)
    name = session.get_inputs()[0].name
    return lambda sample: session.run(None, {name: sample})[0]


def run_in_openvino(content: bytes) -> Run:
    core = openvino.Core()
    model = core.read_model(content)
    # Where the processor has bfloat16, OpenVINO else computes in it.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda sample: np.array(compiled(sample)[0])


def run_in_reference(content: bytes) -> Run:
    evaluator = ReferenceEvaluator(onnx.load_from_string(content))
    return lambda sample: evaluator.run(None, {evaluator.input_names[0]: sample})[0]


ENGINES = [run_in_onnxruntime, run_in_openvino, run_in_reference]


def run_all(run: Run, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([run(sample[np.newaxis]) for sample in samples])


def check_in_all_engines(model: Any) -> list[str]:
    """Exports, holds each engine's answers to Keras's, and returns the operators."""
    random = np.random.default_rng(5)
    for weight in model.trainable_weights:
        # Fresh biases are all zero, and a mistake in them would not show.
        if "bias" in weight.name:
            weight.assign(random.normal(0, 0.3, weight.shape))
    content = onnx_from_frozen(
        freeze(restore_recurrent_loop(model), input_name="x", output_name="y")
    )
    samples = random.normal(size=(4, *model.inputs[0].shape[1:])).astype(np.float32)
    expected = np.asarray(model(samples))
    for engine in ENGINES:
        answers = run_all(engine(content), samples)
        np.testing.assert_allclose(answers, expected, atol=2e-6, err_msg=engine.__name__)
    return [node.op_type for node in onnx.load_from_string(content).graph.node]


@pytest.mark.parametrize("units", [1, 5, 32])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"return_sequences": True},
        {"go_backwards": True, "use_bias": False},
        {"go_backwards": True, "return_sequences": True},
    ],
)
def test_a_gru_of_default_kind_is_one_node_that_all_read_right(
    units: int, settings: dict[str, Any]
) -> None:
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((9, 4)), layers.GRU(units, **settings)])
    assert check_in_all_engines(model).count("GRU") == 1


@pytest.mark.parametrize(
    ("units", "settings"),
    [
        (1, {"reset_after": False, "use_bias": False}),
        (5, {"reset_after": False, "go_backwards": True}),
        (32, {"reset_after": False, "return_sequences": True, "activation": "relu"}),
        (5, {"activation": "relu", "use_bias": False}),
        (5, {"recurrent_activation": "hard_sigmoid", "go_backwards": True}),
        (1, {"activation": "linear", "return_sequences": True, "go_backwards": True}),
    ],
)
def test_a_gru_of_another_kind_is_unrolled_and_all_read_it_right(
    units: int, settings: dict[str, Any]
) -> None:
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((6, 4)), layers.GRU(units, **settings)])
    assert not {"GRU", "Loop"} & set(check_in_all_engines(model))


def test_stacked_grus_between_other_layers() -> None:
    keras.utils.set_random_seed(7)
    stack = [
        layers.Reshape((6, 4)),
        layers.GRU(5, return_sequences=True),
        layers.GRU(3, return_sequences=True, activation="relu"),
        layers.GRU(4),
        layers.Dense(8, "relu"),
        layers.LeakyReLU(0.1),
        layers.Dense(3, "softmax"),
    ]
    operators = check_in_all_engines(keras.Sequential([keras.Input((6, 4, 1)), *stack]))
    assert operators.count("GRU") == 2


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [1, 2])
def test_a_convolutional_model(padding: str, strides: int) -> None:
    keras.utils.set_random_seed(7)
    stack = [
        layers.Conv2D(4, 3, strides=strides, padding=padding),
        layers.LeakyReLU(0.1),
        layers.MaxPooling2D(2, padding=padding),
        layers.DepthwiseConv2D(2, padding=padding, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.Flatten(),
        layers.Dense(3, "softmax"),
    ]
    operators = check_in_all_engines(keras.Sequential([keras.Input((11, 9, 2)), *stack]))
    assert operators.count("Conv") == 2


@pytest.mark.parametrize(
    ("shape", "stack", "tolerance"),
    [
        # Engines round an activation to its grid each in its own place.
        ((8, 8, 1), [layers.Conv2D(4, 3), layers.LeakyReLU(0.1), layers.Flatten()], 0.01),
        ((6, 4), [layers.GRU(8)], 2e-6),
        ((6, 4), [layers.GRU(8, activation="relu")], 2e-6),
    ],
    ids=["integers", "weights", "weights-unrolled"],
)
def test_an_int8_file(shape: tuple[int, ...], stack: list[Any], tolerance: float) -> None:
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input(shape), *stack, layers.Dense(3, "softmax")])
    frozen = freeze(restore_recurrent_loop(model), input_name="x", output_name="y")
    samples = np.random.default_rng(5).random((20, *shape), np.float32)
    content, _ = int8_onnx_from_float(onnx_from_frozen(frozen), samples)
    answers = [run_all(engine(content), samples) for engine in ENGINES]
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], atol=tolerance)


def test_why_other_activations_are_not_left_to_the_operator() -> None:
    """onnx's reference evaluator takes tanh whatever a GRU node says.

    If this fails, onnx reads the attribute now, and such a layer may become one node.
    """
    random = np.random.default_rng(1)
    weights = [
        onnx.numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in [("W", (1, 6, 3)), ("R", (1, 6, 2))]
    ]
    outputs = []
    for activation in ("Relu", "Tanh"):
        node = onnx.helper.make_node(
            "GRU", ["x", "W", "R"], ["y"], hidden_size=2, activations=["Sigmoid", activation]
        )
        ends = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in ("x", "y")
        ]
        graph = onnx.helper.make_graph([node], "gru", ends[:1], ends[1:], weights)
        evaluator = ReferenceEvaluator(onnx.helper.make_model(graph))
        outputs.append(evaluator.run(None, {"x": np.ones((4, 1, 3), np.float32)})[0])
    np.testing.assert_array_equal(*outputs)


@pytest.mark.data
@pytest.mark.parametrize("path", sorted(RELEASED.glob("*/*.onnx")), ids=lambda path: str(path.name))
def test_a_released_file_gives_the_same_answers_in_all_engines(
    path: Path, real_data_folder: Path
) -> None:
    manifest = read_manifest(path.parent)
    (artifact,) = [part for part in manifest.artifacts if part.file == path.name]
    samples = resolve_samples(str(real_data_folder), manifest.model.dataset, "test")
    values = preprocess(samples, manifest.model.input.preprocessing)[:1000]
    values = values.reshape(-1, *manifest.model.input.shape)
    content = path.read_bytes()
    expected = run_all(run_in_onnxruntime(content), values)
    tolerance = TOLERANCES[artifact.facts.recipe]
    answers = run_all(run_in_openvino(content), values)
    np.testing.assert_allclose(answers, expected, atol=tolerance)
    # In NumPy a convolution takes its time.
    few = values[:10]
    answers = run_all(run_in_reference(content), few)
    np.testing.assert_allclose(answers, expected[:10], atol=tolerance)

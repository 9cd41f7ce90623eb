from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemline.benchmark.timed_calls import alone_call, bare_call, peer_calls, predict_call
from hemline.benchmark.timing import Call
from hemline.facts import TensorSpec
from hemline.model import Model, load
from hemline.quiet import quiet
from hemline_export.backend import tensorflow

FILES = ("separable.int8.tflite", "separable.float32.tflite", "separable.float32.onnx")


def make(call: Call | None) -> Any:
    assert call is not None
    return call.function(call.argument)


class Recorder:
    """An engine that keeps what it is given."""

    name = "fake"

    def __init__(self, *inputs: TensorSpec) -> None:
        self.inputs, self.outputs = inputs, (TensorSpec(name="y", shape=(1,), dtype="float32"),)
        self.given: list[Any] = []

    def run(self, tensor: NDArray[Any]) -> None:
        self.given.append(tensor)

    def run_all(self, tensors: list[NDArray[Any]]) -> None:
        self.given.append(tensors)


def foreign(*inputs: TensorSpec) -> tuple[Any, Recorder]:
    engine = Recorder(*inputs)
    return SimpleNamespace(facts=None, engine=engine), engine


@pytest.fixture
def model(exported: Path, request: pytest.FixtureRequest) -> Model:
    return load(exported / request.param)


@pytest.mark.parametrize("model", FILES, indirect=True)
@pytest.mark.parametrize("batch", [1, 3])
def test_all_calls_get_the_same_images(model: Model, batch: int) -> None:
    predict = predict_call(model, batch)
    assert predict is not None
    images = predict.argument
    assert images.dtype == np.uint8
    assert images.shape == ((28, 28, 1) if batch == 1 else (3, 28, 28, 1))
    assert len(np.unique(images)) > 200
    assert make(predict).probabilities.shape == (batch, 10)
    for call in (bare_call(model, batch), alone_call(model, 1, batch)):
        assert call is not None
        given = call.argument
        tensors = np.concatenate(given) if isinstance(given, list) else given
        assert np.array_equal(tensors, model.tensor(images))
        found = make(call)
        if batch == 1:
            assert np.array_equal(found, model.engine.run(model.tensor(images)))


@pytest.mark.parametrize("model", ["separable.int8.tflite"], indirect=True)
def test_a_fixed_batch_runs_in_a_loop(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[Any] = []
    monkeypatch.setattr(model.engine, "run", lambda tensor: shapes.append(tensor.shape))
    make(bare_call(model, 3))
    assert shapes == [(1, 28, 28, 1)] * 3


def test_a_task_other_than_classification_gives_outputs() -> None:
    facts = SimpleNamespace(
        task="tensors", input=SimpleNamespace(shape=(2,), preprocessing=None, minimum=-1, maximum=3)
    )
    model: Any = SimpleNamespace(facts=facts, predict=None, outputs=lambda values: values)
    values = make(predict_call(model, 500))
    assert (values.dtype, values.shape) == (np.float32, (500, 2))
    assert (values.min(), values.max()) == (-1.0, 3.0)


def test_a_foreign_file_gets_noise_for_each_input() -> None:
    model, engine = foreign(
        TensorSpec(name="a", shape=(None, None, 2), dtype="float32"),
        TensorSpec(name="b", shape=(), dtype="int64"),
    )
    assert predict_call(model, 1) is None
    make(bare_call(model, 1))
    (tensors,) = engine.given
    assert [(tensor.dtype, tensor.shape) for tensor in tensors] == [
        (np.float32, (1, 1, 2)),
        (np.int64, ()),
    ]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("int8", set(range(-128, 128))),
        ("uint8", set(range(256))),
        ("int32", {0, 1}),
        ("int64", {0, 1}),
        ("bool", {False, True}),
    ],
)
def test_noise_of_integers(dtype: str, values: set[int]) -> None:
    model, engine = foreign(TensorSpec(name="x", shape=(None, 9999), dtype=dtype))
    make(bare_call(model, 1))
    assert engine.given[0].dtype == dtype
    assert set(engine.given[0].ravel().tolist()) == values


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_noise_of_real_numbers(dtype: str) -> None:
    model, engine = foreign(TensorSpec(name="x", shape=(None, 9999), dtype=dtype))
    make(bare_call(model, 2))
    assert (engine.given[0].dtype, engine.given[0].shape) == (dtype, (2, 9999))
    assert (engine.given[0].min(), engine.given[0].max()) == (0, 1)


def test_a_foreign_file_of_a_fixed_batch_runs_once_for_each_image() -> None:
    model, engine = foreign(TensorSpec(name="x", shape=(1, 4), dtype="int8"))
    make(bare_call(model, 3))
    assert [tensor.shape for tensor in engine.given] == [(1, 4)] * 3
    model, engine = foreign(*[TensorSpec(name=n, shape=(1, 4), dtype="int8") for n in "ab"])
    make(bare_call(model, 3))
    assert [[tensor.shape for tensor in tensors] for tensors in engine.given] == [[(1, 4)] * 2] * 3


def test_one_fixed_input_is_enough_for_a_loop() -> None:
    model, engine = foreign(
        TensorSpec(name="a", shape=(None, 4), dtype="int8"),
        TensorSpec(name="b", shape=(1,), dtype="int8"),
    )
    make(bare_call(model, 3))
    assert [[tensor.shape for tensor in tensors] for tensors in engine.given] == [
        [(1, 4), (1,)]
    ] * 3


def test_an_engine_that_is_not_known_alone() -> None:
    model, _ = foreign(TensorSpec(name="x", shape=(1, 4), dtype="int8"))
    assert alone_call(model, 1, 1) is None


def test_a_file_of_two_inputs_has_no_peer() -> None:
    model, engine = foreign(*[TensorSpec(name=n, shape=(1, 4), dtype="int8") for n in "ab"])
    engine.name = "litert"
    assert alone_call(model, 1, 1) is None


def test_a_file_of_any_batch_takes_it_at_once(tmp_path: Path) -> None:
    function = tensorflow.function(
        lambda x: tensorflow.reduce_sum(x, axis=1),
        input_signature=[tensorflow.TensorSpec((None, 3), "float32", "x")],
    )
    concrete = function.get_concrete_function()
    with quiet():
        converter = tensorflow.lite.TFLiteConverter.from_concrete_functions([concrete], function)
        (tmp_path / "any.tflite").write_bytes(converter.convert())
    model = load(tmp_path / "any.tflite")
    for call in (bare_call(model, 4), alone_call(model, 1, 4)):
        assert call is not None
        assert call.argument.shape == (4, 3)
        assert make(call) == pytest.approx(call.argument.sum(axis=1))


def test_keras_is_called_in_two_ways(exported: Path) -> None:
    model = load(exported / "separable.float.keras")
    calls = peer_calls(model, 2)
    assert list(calls) == ["keras predict", "keras call"]
    predict = predict_call(model, 2)
    assert predict is not None
    expected = model.tensor(predict.argument)
    for call in calls.values():
        assert np.array_equal(call.argument, expected)
        np.testing.assert_allclose(make(call), model.engine.run(expected), atol=1e-6)


def test_the_engines_of_the_runtime_offer_no_other_calls(exported: Path) -> None:
    assert peer_calls(load(exported / FILES[0]), 1) == {}

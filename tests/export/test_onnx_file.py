from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from hemline.errors import ExportError
from hemline_export.backend import keras
from hemline_export.freeze import freeze
from hemline_export.onnx_file import embed_facts, onnx_from_frozen
from hemline_export.recurrent import restore_recurrent_loop

layers = keras.layers


@pytest.fixture(scope="module")
def gru() -> Any:
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [keras.Input((6, 4)), layers.GRU(5), layers.Dense(3, activation="softmax")]
    )


@pytest.fixture(scope="module")
def content(gru: Any) -> bytes:
    looped = restore_recurrent_loop(gru)
    return onnx_from_frozen(freeze(looped, input_name="rows", output_name="probabilities"))


def test_the_graph_has_fixed_named_ends_and_a_recent_opset(content: bytes) -> None:
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    (taken,), (given,) = model.graph.input, model.graph.output
    sizes = [size.dim_value for size in taken.type.tensor_type.shape.dim]
    assert (taken.name, sizes, given.name) == ("rows", [1, 6, 4], "probabilities")
    assert [(o.domain, o.version) for o in model.opset_import if o.domain == ""] == [("", 18)]


@pytest.mark.parametrize("kind", [layers.GRU, layers.LSTM])
@pytest.mark.parametrize("settings", [{}, {"return_sequences": True, "go_backwards": True}])
def test_a_recurrent_layer_becomes_one_node(kind: Any, settings: dict[str, Any]) -> None:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((6, 4)), kind(5, **settings)])
    looped = restore_recurrent_loop(model)
    content = onnx_from_frozen(freeze(looped, input_name="rows", output_name="states"))
    kinds = [node.op_type for node in onnx.load_from_string(content).graph.node]
    assert kinds.count(kind.__name__) == 1
    assert "Loop" not in kinds
    rows = np.random.default_rng(1).random((1, 6, 4), np.float32)
    (output,) = onnxruntime.InferenceSession(content).run(None, {"rows": rows})
    np.testing.assert_allclose(output, np.asarray(model(rows)), atol=1e-6)


def test_facts_ride_in_the_metadata(content: bytes) -> None:
    session = onnxruntime.InferenceSession(embed_facts(content, b'{"a": "\xc3\xa9"}'))
    assert session.get_modelmeta().custom_metadata_map == {"hemline.facts": '{"a": "é"}'}


def test_an_operator_that_onnx_lacks_is_refused() -> None:
    class Bessel(layers.Layer):
        def call(self, inputs: Any) -> Any:
            import tensorflow as tf

            return tf.math.bessel_i0(inputs)

    model = keras.Sequential([keras.Input((4,)), Bessel(), layers.Dense(2)])
    with pytest.raises(ExportError, match="ONNX: the converter refuses the model"):
        onnx_from_frozen(freeze(model, input_name="x", output_name="y"))

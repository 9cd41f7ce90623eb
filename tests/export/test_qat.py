import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from hemline.engines.litert import LiteRTEngine
from hemline.errors import ExportError
from hemline_export import qat
from hemline_export.backend import keras, load_tfmot
from hemline_export.freeze import freeze
from hemline_export.qat import lay_grids, quantize, train_quantized
from hemline_export.tflite import int8_tflite_from_frozen, int8_tflite_from_quantized
from hemline_export.tuning import TuningSamples, validation_loss
from hemline_export.twin import build_twin
from hemline_train.garments import draw_garments

layers = keras.layers


def build(*stack: Any, shape: tuple[int, ...] = (28, 28, 1)) -> Any:
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.fixture(scope="module")
def samples() -> TuningSamples:
    images, labels = draw_garments(1_500, 4)
    values = images[..., np.newaxis] if images.ndim == 3 else images
    values = values / np.float32(255)
    return TuningSamples(
        values=values[:1_000],
        labels=labels[:1_000],
        validation_values=values[1_000:],
        validation_labels=labels[1_000:],
        validation_source="the last 500",
    )


def build_dense() -> Any:
    return build(
        layers.Flatten(),
        layers.Dense(24, activation="relu"),
        layers.Dense(10, activation="softmax"),
    )


@pytest.fixture(scope="module")
def lopsided(trained: Any, samples: TuningSamples) -> Any:
    """A trained classifier whose largest hidden value is 100 times too large, to no effect."""

    def fit(model: Any) -> None:
        model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
        model.fit(samples.values, samples.labels, 64, 15, verbose=0)

    model = trained("dense", build_dense, fit)
    kernel, bias, classes, class_bias = model.get_weights()
    hidden = samples.values.reshape(len(samples.values), -1) @ kernel + bias
    largest = int(hidden.max(axis=0).argmax())
    kernel[:, largest] *= 100
    bias[largest] *= 100
    classes[largest] /= 100
    model.set_weights([kernel, bias, classes, class_bias])
    return model


def freeze_named(model: Any) -> Any:
    return freeze(model, input_name="image", output_name="probabilities")


def open_content(content: bytes, folder: Path) -> LiteRTEngine:
    path = folder / "m.tflite"
    path.write_bytes(content)
    return LiteRTEngine(path, threads=1)


def predict(engine: LiteRTEngine, values: Any) -> Any:
    taken, given = engine.inputs[0].quantization, engine.outputs[0].quantization
    assert taken is not None
    assert given is not None
    grid = np.round(values / taken.scale) + taken.zero_point
    rows = [engine.run(row[np.newaxis]) for row in np.clip(grid, -128, 127).astype(np.int8)]
    return (np.concatenate(rows).astype(np.float32) - given.zero_point) * given.scale


def lay(model: Any, values: Any) -> Any:
    quantized = quantize(build_twin(model))
    lay_grids(quantized, values)
    return quantized


def test_training_wins_back_what_quantization_cost(
    lopsided: Any, samples: TuningSamples, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(qat, "LEARNING_RATE", 0.01)
    monkeypatch.setattr(qat, "EPOCHS", 16)
    calibration = samples.values[:200]
    in_float = validation_loss(lopsided, samples)
    quantized, settings = train_quantized(lopsided, calibration, samples)
    untrained, trained = (
        float(settings[key]) for key in ("validation_loss_untrained", "validation_loss")
    )
    # Six seeds lose 3 to 9 times their loss, and win 70 to 89 % of that back.
    assert untrained > 1.5 * in_float
    assert trained < (untrained + in_float) / 2

    def accuracy(content: bytes) -> float:
        rows = predict(open_content(content, tmp_path), samples.validation_values)
        return float((rows.argmax(axis=1) == samples.validation_labels).mean())

    plain = int8_tflite_from_frozen(freeze_named(lopsided), calibration)
    assert accuracy(int8_tflite_from_quantized(freeze_named(quantized))) > accuracy(plain) + 0.02
    assert int(settings["kept_epoch"]) > 0
    names = ", ".join(layer.name for layer in lopsided.layers)
    assert settings["quantize_configs"] == f"Default8BitQuantizeConfig: {names}"


@pytest.mark.parametrize(
    "stack",
    [
        [
            layers.Conv2D(4, 3, padding="same"),
            layers.LeakyReLU(negative_slope=0.1),
            layers.MaxPooling2D(4, padding="same"),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(6, activation="relu"),
        ],
        [
            layers.Conv2D(4, 3, strides=4, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.GlobalAveragePooling2D(),
        ],
        [layers.AveragePooling2D(7), layers.Reshape((4, 4)), layers.GRU(8), layers.Dense(6)],
        [
            layers.AveragePooling2D(7),
            layers.Reshape((4, 4)),
            layers.GRU(8, return_sequences=True),
            layers.Flatten(),
        ],
    ],
)
def test_the_file_is_the_trained_model_in_integers(
    stack: list[Any], samples: TuningSamples, tmp_path: Path
) -> None:
    model = build(*stack, layers.Dense(10, activation="softmax"))
    random = np.random.default_rng(6)
    model.set_weights(
        [
            # Vectors are biases and batch statistics, of which the variance is above 0.
            random.normal(0, 0.2, w.shape) if w.ndim > 1 else random.uniform(0.1, 0.5, w.shape)
            for w in model.get_weights()
        ]
    )
    quantized = lay(model, samples.values[:200])
    content = int8_tflite_from_quantized(freeze_named(quantized))
    kinds = {t.type for t in schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0].tensors}
    assert kinds <= {schema.TensorType.INT8, schema.TensorType.INT32}
    engine = open_content(content, tmp_path)
    assert (engine.inputs[0].name, engine.outputs[0].name) == ("image", "probabilities")
    assert (engine.inputs[0].dtype, engine.outputs[0].dtype) == ("int8", "int8")
    values = samples.validation_values[:50]
    found, expected = predict(engine, values), np.asarray(quantized(values, training=False))
    # The output's own step is 1/256; kernels round each layer's result by themselves.
    assert np.abs(found - expected).max() < 3 / 256
    assert np.abs(np.asarray(model(values)) - expected).max() < 0.1


@pytest.mark.parametrize("sequences", [False, True])
def test_a_gru_on_its_grids_is_the_gru_to_a_few_steps(sequences: bool) -> None:
    model = build(layers.GRU(8, return_sequences=sequences), shape=(5, 4))
    random = np.random.default_rng(2)
    model.set_weights([random.normal(0, 0.4, w.shape) for w in model.get_weights()])
    values = random.normal(size=(64, 5, 4)).astype(np.float32)
    expected = np.asarray(model(values))
    difference = np.abs(np.asarray(lay(model, values)(values, training=False)) - expected)
    assert 0 < difference.max() < 0.1
    assert difference.mean() < 0.02
    assert np.abs(expected).mean() > 0.15


def test_grids_span_what_the_calibration_spans(lopsided: Any, samples: TuningSamples) -> None:
    calibration = samples.values[:150]
    ranges = {
        # The layer on top is numbered through in each process.
        re.sub(r"^quantize_layer.*_(m\w\w):0", r"image_\1", variable.name): variable.numpy()
        for variable in lay(lopsided, calibration).non_trainable_variables
    }
    dense = f"quant_{lopsided.layers[1].name}/post_activation"
    hidden = keras.Model(lopsided.inputs[0], lopsided.layers[1].output)(calibration)
    assert ranges["image_max"] == 1.0
    assert ranges[f"{dense}_min:0"] == 0.0
    largest = float(np.asarray(hidden).max())
    assert ranges[f"{dense}_max:0"] == pytest.approx(largest, rel=0.02)


def test_laying_grids_changes_nothing_else(samples: TuningSamples) -> None:
    model = build(
        layers.Conv2D(4, 3, strides=4),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    )
    quantized = quantize(build_twin(model))
    moving = load_tfmot().quantization.keras.quantizers.MovingAverageQuantizer.__call__

    def read() -> dict[str, Any]:
        grids = ("_min:0", "_max:0")
        return {v.name: v.numpy() for v in quantized.variables if not v.name.endswith(grids)}

    before = read()
    assert len(before) > 8
    lay_grids(quantized, samples.values[:150])
    for name, value in read().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    laid = [variable.numpy() for variable in quantized.variables]
    lay_grids(quantized, samples.values[:150])
    for variable, value in zip(quantized.variables, laid, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.name)
    assert load_tfmot().quantization.keras.quantizers.MovingAverageQuantizer.__call__ is moving


def test_the_same_training_gives_the_same_model(lopsided: Any, samples: TuningSamples) -> None:
    found = [train_quantized(lopsided, samples.values[:100], samples)[0] for _ in range(2)]
    for one, other in zip(*(model.get_weights() for model in found), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_model_itself_is_not_changed(lopsided: Any, samples: TuningSamples) -> None:
    before = lopsided.get_weights()
    train_quantized(lopsided, samples.values[:100], samples)
    for one, other in zip(lopsided.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        ([layers.Reshape((28, 28)), layers.LSTM(3, name="memory")], r"Layer memory:.*LSTM"),
        ([layers.Reshape((28, 28)), layers.Conv1D(3, 3, name="line"), layers.Flatten()], "line"),
        (
            [layers.Reshape((28, 28)), layers.GRU(3, go_backwards=True, name="back")],
            r"layer back \(GRU\) cannot be trained on integer grids with go_backwards=True",
        ),
        (
            [layers.Flatten(), layers.Dense(3, activation="elu", name="bent")],
            r"layer bent \(Dense\): tfmot has no grid for the activation elu",
        ),
    ],
)
def test_a_layer_without_grid_is_named(stack: list[Any], message: str) -> None:
    twin = build_twin(build(*stack, layers.Dense(10, activation="softmax")))
    with pytest.raises(ExportError, match=message) as refused:
        quantize(twin)
    assert "choose recipes that do not train" in str(refused.value)

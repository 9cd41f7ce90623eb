from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from hemline.errors import ExportError
from hemline_export import compression
from hemline_export.backend import keras
from hemline_export.compression import cluster, prune
from hemline_export.freeze import freeze
from hemline_export.recurrent import unroll_recurrent
from hemline_export.tflite import int8_tflite_from_frozen
from hemline_export.tuning import TuningSamples

layers = keras.layers


@pytest.fixture(scope="module")
def samples() -> TuningSamples:
    random = np.random.default_rng(0)
    values = random.random((400, 8, 8, 1), np.float32)
    labels = (values[:, :4].mean(axis=(1, 2, 3)) > values[:, 4:].mean(axis=(1, 2, 3))).astype(int)
    return TuningSamples(
        values=values[:300],
        labels=labels[:300],
        validation_values=values[300:],
        validation_labels=labels[300:],
        validation_source="the last hundred",
    )


@pytest.fixture
def model(model_seed: int) -> Any:
    keras.utils.set_random_seed(model_seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3),
            layers.BatchNormalization(),
            layers.LeakyReLU(negative_slope=0.1),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(2, activation="softmax"),
        ]
    )


@pytest.fixture
def recurrent(model_seed: int) -> Any:
    keras.utils.set_random_seed(model_seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.AveragePooling2D(2),
            layers.Reshape((4, 4)),
            layers.GRU(6),
            layers.Dense(2, activation="softmax"),
        ]
    )
    bias = model.layers[2].cell.bias
    bias.assign(np.random.default_rng(1).normal(0, 0.3, bias.shape))
    return model


def kernels(model: Any) -> list[Any]:
    return [
        np.array(variable)
        for variable in model.trainable_variables
        if variable.path.endswith("kernel")
    ]


def int8_kernels(model: Any, samples: TuningSamples) -> list[Any]:
    frozen = freeze(unroll_recurrent(model), input_name="image", output_name="probabilities")
    content = int8_tflite_from_frozen(frozen, samples.values[:50])
    file = schema.ModelT.InitFromPackedBuf(content, 0)
    return [
        file.buffers[tensor.buffer].data.view(np.int8).reshape(tensor.shape)
        for tensor in file.subgraphs[0].tensors
        if tensor.type == schema.TensorType.INT8 and file.buffers[tensor.buffer].data is not None
    ]


@pytest.mark.parametrize("sparsity", [0.3, 0.75])
def test_each_kernel_is_as_sparse_as_asked(
    model: Any, samples: TuningSamples, sparsity: float
) -> None:
    pruned, settings = prune(model, samples, sparsity)
    assert settings["sparsity"] == f"{sparsity:g}"
    for kernel in kernels(pruned):
        zeros = int((kernel == 0).sum())
        assert zeros == kernel.size - round(kernel.size * (1 - sparsity))
    shares = [float((kernel == 0).mean()) for kernel in int8_kernels(pruned, samples)]
    assert len(shares) == 2
    assert sparsity - 0.02 < min(shares) < sparsity + 0.1


def test_the_largest_weights_stay(
    model: Any, samples: TuningSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "LEARNING_RATE", 0.0)
    pruned, _ = prune(model, samples, 0.5)
    for before, after in zip(kernels(model), kernels(pruned), strict=True):
        kept = after != 0
        np.testing.assert_array_equal(after[kept], before[kept])
        assert np.abs(before[kept]).min() >= np.abs(before[~kept]).max()


def test_what_is_left_is_fine_tuned(
    model: Any, samples: TuningSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "LEARNING_RATE", 0.01)
    monkeypatch.setattr(compression, "EPOCHS", 10)
    _, settings = prune(model, samples, 0.75)
    assert float(settings["validation_loss"]) < float(settings["validation_loss_untrained"]) - 0.05


@pytest.mark.parametrize("clusters", [2, 5])
def test_a_kernel_has_no_more_weights_than_clusters(
    model: Any, samples: TuningSamples, clusters: int
) -> None:
    clustered, settings = cluster(model, samples, clusters)
    assert settings["clusters"] == str(clusters)
    for kernel in kernels(clustered):
        assert 1 < len(np.unique(kernel)) <= clusters
    for kernel in int8_kernels(clustered, samples):
        # Each channel has a scale of its own, and so its own integers.
        assert max(len(np.unique(channel)) for channel in kernel) <= clusters


def test_clusters_are_fine_tuned(
    model: Any, samples: TuningSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "LEARNING_RATE", 0.01)
    monkeypatch.setattr(compression, "EPOCHS", 10)
    _, settings = cluster(model, samples, 2)
    assert float(settings["validation_loss"]) < float(settings["validation_loss_untrained"]) - 0.05


def test_a_gru_can_be_pruned_and_clustered(recurrent: Any, samples: TuningSamples) -> None:
    pruned, _ = prune(recurrent, samples, 0.5)
    assert [(kernel == 0).mean() for kernel in kernels(pruned)] == pytest.approx([0.5] * 3)
    clustered, _ = cluster(recurrent, samples, 3)
    assert max(len(np.unique(kernel)) for kernel in kernels(clustered)) <= 3
    assert int8_kernels(pruned, samples)


def test_the_model_itself_is_not_changed(model: Any, samples: TuningSamples) -> None:
    before = model.get_weights()
    prune(model, samples, 0.5)
    cluster(model, samples, 4)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_choice_gives_the_same_weights(model: Any, samples: TuningSamples) -> None:
    for compress in (lambda: prune(model, samples, 0.5), lambda: cluster(model, samples, 4)):
        one, other = compress()[0].get_weights(), compress()[0].get_weights()
        for first, second in zip(one, other, strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.5, float("nan")])
def test_a_sparsity_that_is_no_share_is_refused(
    model: Any, samples: TuningSamples, sparsity: float
) -> None:
    with pytest.raises(ExportError, match="a sparsity must lie between 0 and 1"):
        prune(model, samples, sparsity)


def test_a_single_cluster_is_refused(model: Any, samples: TuningSamples) -> None:
    with pytest.raises(ExportError, match="2 clusters or more, got 1"):
        cluster(model, samples, 1)


@pytest.mark.parametrize("compress", [prune, cluster])
def test_a_layer_that_tfmot_does_not_know_is_named(compress: Any, samples: TuningSamples) -> None:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.GroupNormalization(1, name="groups"),
            layers.Flatten(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    with pytest.raises(ExportError, match=r"layer groups \(GroupNormalization\) is none that"):
        compress(model, samples, 0.5 if compress is prune else 4)

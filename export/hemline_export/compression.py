"""Magnitude pruning and weight clustering: models whose files compress well."""

from collections.abc import Callable
from typing import Any

from hemline.errors import ExportError
from hemline.quiet import quiet
from hemline_export.backend import keras, load_tfmot, tf_keras
from hemline_export.tuning import SEED, TuningSamples, tune
from hemline_export.twin import build_twin, copy_weights

tfmot = load_tfmot()

EPOCHS = 4
LEARNING_RATE = 1e-4


def prune(model: Any, samples: TuningSamples, sparsity: float) -> tuple[Any, dict[str, str]]:
    """Sets the smallest weights of each kernel to zero, and fine-tunes the others.

    Args:
        model: a Keras 3 classifier.
        samples: to fine-tune on.
        sparsity: the share of each kernel's weights that become zero.

    Returns:
        A pruned copy of the model, and the settings for the manifest.

    Raises:
        ExportError: the sparsity is no share, a layer has no twin in tf_keras or cannot be pruned,
            or the fine-tuning failed.
    """
    if not 0 < sparsity < 1:
        raise ExportError(f"a sparsity must lie between 0 and 1, got {sparsity:g}")
    schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, begin_step=0, frequency=1)
    pruned = _wrap(
        build_twin(model),
        lambda layer: tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule),
    )

    def draw_masks() -> None:
        for layer in pruned.layers:
            if hasattr(layer, "pruning_obj"):
                # tfmot wants a first training step to have begun.
                layer.pruning_step.assign(1)
                layer.pruning_obj.conditional_mask_update()

    settings = _tune(pruned, samples, draw_masks)
    kept = tfmot.sparsity.keras.strip_pruning(pruned)
    return _with_weights(model, kept), settings | {"sparsity": f"{sparsity:g}"}


def cluster(model: Any, samples: TuningSamples, clusters: int) -> tuple[Any, dict[str, str]]:
    """Gives each kernel a few values to choose its weights from, and fine-tunes those.

    Args:
        model: a Keras 3 classifier.
        samples: to fine-tune on.
        clusters: how many different weights a kernel may have.

    Returns:
        A clustered copy of the model, and the settings for the manifest.

    Raises:
        ExportError: there are too few clusters, a layer has no twin in tf_keras or cannot be
            clustered, or the fine-tuning failed.
    """
    if clusters < 2:
        raise ExportError(f"clustering needs 2 clusters or more, got {clusters}")
    # The first centroids are drawn from the weights.
    tf_keras.utils.set_random_seed(SEED)
    clustered = _wrap(
        build_twin(model),
        lambda layer: tfmot.clustering.keras.cluster_weights(layer, number_of_clusters=clusters),
    )
    settings = _tune(clustered, samples, lambda: None)
    kept = tfmot.clustering.keras.strip_clustering(clustered)
    return _with_weights(model, kept), settings | {"clusters": str(clusters)}


def _wrap(twin: Any, wrap: Callable[[Any], Any]) -> Any:
    def wrap_by_name(layer: Any) -> Any:
        try:
            return wrap(layer)
        except ValueError as error:
            raise ExportError(
                f"layer {layer.name} ({type(layer).__name__}) is none that tfmot can prune or "
                "cluster; choose other recipes"
            ) from error

    return tf_keras.models.clone_model(twin, clone_function=wrap_by_name)


def _tune(model: Any, samples: TuningSamples, prepare: Callable[[], None]) -> dict[str, str]:
    # TensorFlow's graph optimizer logs that it leaves a masked layer as it is.
    with quiet():
        return tune(model, samples, learning_rate=LEARNING_RATE, epochs=EPOCHS, prepare=prepare)


def _with_weights(model: Any, twin: Any) -> Any:
    copy = keras.models.clone_model(model)
    copy_weights(twin, copy)
    return copy

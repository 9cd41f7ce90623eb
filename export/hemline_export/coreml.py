"""Core ML packages from a frozen function."""

import json
import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from hemline.errors import ExportError
from hemline.facts import EMBEDDED_KEY
from hemline.ownership import replacing_package
from hemline.quiet import quiet
from hemline_export.backend import coremltools
from hemline_export.freeze import Frozen

# Weights of no more elements stay float16, as is coremltools' own choice: on validation samples a
# palette for them cost the CNN more than that for all others, and saved 1 % of the file. Where no
# weight is larger, the largest is compressed, so that the file is what its name says.
_THRESHOLD = 2048

_CONVERSION_DATE = "com.github.apple.coremltools.conversion_date"


@lru_cache(maxsize=1)
def coreml_from_frozen(frozen: Frozen, labels: tuple[str, ...]) -> Any:
    """Converts to a float16 ML program for macOS 13 and later.

    Float16 throughout, input included, since the Neural Engine takes nothing else. The last result
    is kept, for several recipes start from it.

    Args:
        frozen: the float model.
        labels: with which it becomes a classifier; none for a program that gives a plain array.

    Returns:
        A `coremltools.models.MLModel`, not loaded into Core ML.

    Raises:
        ExportError: the converter refuses the model.
    """
    try:
        with quiet():
            model = coremltools.convert(
                [frozen.function],
                source="tensorflow",
                convert_to="mlprogram",
                inputs=[coremltools.TensorType(name=frozen.input_name, shape=(1, *frozen.shape))],
                classifier_config=coremltools.ClassifierConfig(list(labels)) if labels else None,
                minimum_deployment_target=coremltools.target.macOS13,
                compute_precision=coremltools.precision.FLOAT16,
                compute_units=coremltools.ComputeUnit.CPU_AND_NE,
                skip_model_load=True,
            )
            return model if labels else _name_output(model, frozen.output_name)
    # coremltools raises whatever its frontend and passes run into.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"Core ML: the converter refuses the model: {reason}") from error


def _name_output(model: Any, name: str) -> Any:
    """Returns a model whose only output has the name that it has in the other files."""
    spec = model.get_spec()
    coremltools.utils.rename_feature(spec, spec.description.output[0].name, name)
    return coremltools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def quantize_weights(model: Any) -> tuple[Any, dict[str, str]]:
    """Stores weights as int8, symmetric, with a scale for each output channel.

    This compresses the file. Core ML computes in float16 as before: the program dequantizes.

    Returns:
        The model, and what decided the result.

    Raises:
        ExportError: the compression fails.
    """
    return _compress(
        model,
        "int8w",
        coremltools.optimize.coreml.linear_quantize_weights,
        lambda threshold: coremltools.optimize.coreml.OpLinearQuantizerConfig(
            mode="linear_symmetric",
            dtype="int8",
            granularity="per_channel",
            weight_threshold=threshold,
        ),
    )


def palettize_weights(model: Any) -> tuple[Any, dict[str, str]]:
    """Stores weights as 4-bit indices into 16 values per tensor, found by k-means from seed 0.

    This compresses the file. Core ML computes in float16 as before: the program looks up.

    Returns:
        The model, and what decided the result.

    Raises:
        ExportError: the compression fails.
    """
    # Several threads of k-means would add up in another order each time.
    with threadpool_limits(1):
        return _compress(
            model,
            "pal4",
            coremltools.optimize.coreml.palettize_weights,
            lambda threshold: coremltools.optimize.coreml.OpPalettizerConfig(
                mode="kmeans", nbits=4, weight_threshold=threshold
            ),
        )


def _compress(
    model: Any, recipe: str, compress: Callable[..., Any], configure: Callable[[int], Any]
) -> tuple[Any, dict[str, str]]:
    optimize = coremltools.optimize.coreml
    try:
        with quiet():
            sizes = [w.val.size for w in optimize.get_weights_metadata(model, 0).values()]
            threshold = min(_THRESHOLD, max(sizes, default=1) - 1)
            config = optimize.OptimizationConfig(global_config=configure(threshold))
            compressed = compress(model, config)
    # coremltools raises whatever its passes run into.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"Core ML {recipe}: the weights are not compressed: {reason}") from error
    return compressed, {
        "compression": "weights only, arithmetic in float16",
        "threshold_elements": str(threshold),
    }


def write_package(path: Path, model: Any) -> None:
    """Writes an .mlpackage folder, whole or not at all; the same model gives the same bytes."""
    model.user_defined_metadata.pop(_CONVERSION_DATE, None)
    with replacing_package(path) as temporary:
        model.save(str(temporary))
        # Protobuf's maps have no order of their own.
        program = temporary / "Data" / "com.apple.CoreML" / "model.mlmodel"
        spec = coremltools.proto.Model_pb2.Model.FromString(program.read_bytes())
        program.write_bytes(spec.SerializeToString(deterministic=True))
        # coremltools names each part of the package at random, and orders them by name.
        listing = temporary / "Manifest.json"
        package = json.loads(listing.read_bytes())
        names = {
            drawn: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"]))
            for drawn, entry in package["itemInfoEntries"].items()
        }
        package["itemInfoEntries"] = {
            names[drawn]: entry for drawn, entry in package["itemInfoEntries"].items()
        }
        package["rootModelIdentifier"] = names[package["rootModelIdentifier"]]
        listing.write_text(json.dumps(package, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def embed_facts(path: Path, facts: bytes) -> None:
    """Puts a facts document into the user-defined metadata of an .mlpackage folder."""
    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    model.user_defined_metadata[EMBEDDED_KEY] = facts.decode()
    write_package(path, model)

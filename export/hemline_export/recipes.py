"""The recipes: every way in which Hemline makes an artifact, each one entry and one function."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.errors import ExportError
from hemline.files import write_bytes
from hemline_export import coreml, onnx_file, tflite
from hemline_export.freeze import Frozen, freeze
from hemline_export.recurrent import unroll_gru
from hemline_export.tuning import TuningSamples


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a recipe works from.

    Attributes:
        unrolled: the frozen model, recurrent layers unrolled.
        looped: the frozen model, recurrent layers as loops that tf2onnx knows.
        labels: the class names.
        calibration: float32 (n, *shape), preprocessed.
        model: the Keras model.
        tuning: returns what to fine-tune on.
        sparsity: the share of weights that pruning sets to zero.
        clusters: how many different weights clustering leaves a kernel.
    """

    unrolled: Frozen
    looped: Frozen
    labels: tuple[str, ...]
    calibration: NDArray[np.float32]
    model: Any
    tuning: Callable[[], TuningSamples]
    sparsity: float
    clusters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to make an artifact.

    Attributes:
        name: the recipe's name, the middle part of the file name.
        engine: what runs the artifact.
        suffix: of the file.
        calibrated: it takes its ranges from calibration samples.
        margin_pt: how much test accuracy it may cost, in percentage points.
        packages: those whose versions decide what comes out.
        write: makes the file, without facts inside, and returns what else than the recipe's name
            decided the result.
        embed: puts a facts document into the file.
        trains: it fine-tunes the model, which takes minutes and labelled training samples.
        by_name_only: it depends on a choice that only the user can make, so `all` leaves it out.
    """

    name: str
    engine: str
    suffix: str
    calibrated: bool
    margin_pt: float
    packages: tuple[str, ...]
    write: Callable[[Sources, Path], dict[str, str]]
    embed: Callable[[Path, bytes], None]
    trains: bool = False
    by_name_only: bool = False


def select_recipes(names: str | None) -> tuple[Recipe, ...]:
    """Returns the recipes of a comma-separated list of names, of `all`, or those without training.

    Raises:
        ExportError: a name is not known.
    """
    if names is None:
        return tuple(recipe for recipe in RECIPES if not recipe.trains)
    if names == "all":
        return tuple(recipe for recipe in RECIPES if not recipe.by_name_only)
    wanted = {name.strip() for name in names.split(",")}
    known = {recipe.name for recipe in RECIPES}
    if wanted - known:
        raise ExportError(
            f"unknown recipes {sorted(wanted - known)}; known: all, {', '.join(sorted(known))}"
        )
    return tuple(recipe for recipe in RECIPES if recipe.name in wanted)


def _write_tflite(sources: Sources, path: Path) -> dict[str, str]:
    write_bytes(path, tflite.tflite_from_frozen(sources.unrolled))
    return {}


def _write_int8_tflite(sources: Sources, path: Path) -> dict[str, str]:
    write_bytes(path, tflite.int8_tflite_from_frozen(sources.unrolled, sources.calibration))
    return {}


def _write_int8_qat(sources: Sources, path: Path) -> dict[str, str]:
    # What trains is imported only then: tfmot changes what `tf.keras` is.
    from hemline_export.qat import train_quantized

    quantized, settings = train_quantized(sources.model, sources.calibration, sources.tuning())
    write_bytes(path, tflite.int8_tflite_from_quantized(_freeze(sources, quantized)))
    return settings


def _write_int8_pruned(sources: Sources, path: Path) -> dict[str, str]:
    from hemline_export.compression import prune

    model, settings = prune(sources.model, sources.tuning(), sources.sparsity)
    return settings | _write_compressible(sources, model, path)


def _write_int8_clustered(sources: Sources, path: Path) -> dict[str, str]:
    from hemline_export.compression import cluster

    model, settings = cluster(sources.model, sources.tuning(), sources.clusters)
    return settings | _write_compressible(sources, model, path)


def _write_compressible(sources: Sources, model: Any, path: Path) -> dict[str, str]:
    plain, content = (
        tflite.int8_tflite_from_frozen(frozen, sources.calibration)
        for frozen in (sources.unrolled, _freeze(sources, unroll_gru(model)))
    )
    write_bytes(path, content)
    return {
        "compressed_bytes": str(_compressed_bytes(content)),
        "int8_compressed_bytes": str(_compressed_bytes(plain)),
    }


def _compressed_bytes(content: bytes) -> int:
    # With the names that the finished file has, but without facts.
    return len(zlib.compress(tflite.embed_facts(content, b""), 9))


def _freeze(sources: Sources, model: Any) -> Frozen:
    names = sources.unrolled
    return freeze(model, input_name=names.input_name, output_name=names.output_name)


def _embed_tflite(path: Path, facts: bytes) -> None:
    write_bytes(path, tflite.embed_facts(path.read_bytes(), facts))


def _write_onnx(sources: Sources, path: Path) -> dict[str, str]:
    write_bytes(path, onnx_file.onnx_from_frozen(sources.looped))
    return {}


def _embed_onnx(path: Path, facts: bytes) -> None:
    write_bytes(path, onnx_file.embed_facts(path.read_bytes(), facts))


def _write_coreml(sources: Sources, path: Path) -> dict[str, str]:
    coreml.write_package(path, coreml.coreml_from_frozen(sources.unrolled, sources.labels))
    return {}


_TRAINING = ("tensorflow", "keras", "tf-keras", "tensorflow-model-optimization")

# Margins: float32 only reorders sums, so hardly a sample may change class; float16 keeps 11 bits
# of significand, which moves a sample only at a near tie; int8 is held to a loss that no user of
# a ten-class model would notice.
RECIPES = (
    Recipe(
        name="float32",
        engine="litert",
        suffix=".tflite",
        calibrated=False,
        margin_pt=0.05,
        packages=("tensorflow", "keras"),
        write=_write_tflite,
        embed=_embed_tflite,
    ),
    Recipe(
        name="int8",
        engine="litert",
        suffix=".tflite",
        calibrated=True,
        margin_pt=0.3,
        packages=("tensorflow", "keras"),
        write=_write_int8_tflite,
        embed=_embed_tflite,
    ),
    Recipe(
        name="float32",
        engine="onnxruntime",
        suffix=".onnx",
        calibrated=False,
        margin_pt=0.05,
        packages=("tensorflow", "keras", "tf-keras", "tf2onnx", "onnx"),
        write=_write_onnx,
        embed=_embed_onnx,
    ),
    Recipe(
        name="float16",
        engine="coreml",
        suffix=".mlpackage",
        calibrated=False,
        margin_pt=0.1,
        packages=("tensorflow", "keras", "coremltools"),
        write=_write_coreml,
        embed=coreml.embed_facts,
    ),
    Recipe(
        name="int8-qat",
        engine="litert",
        suffix=".tflite",
        calibrated=True,
        margin_pt=0.3,
        packages=_TRAINING,
        write=_write_int8_qat,
        embed=_embed_tflite,
        trains=True,
    ),
    Recipe(
        name="int8-pruned",
        engine="litert",
        suffix=".tflite",
        calibrated=True,
        margin_pt=0.3,
        packages=_TRAINING,
        write=_write_int8_pruned,
        embed=_embed_tflite,
        trains=True,
        by_name_only=True,
    ),
    Recipe(
        name="int8-clustered",
        engine="litert",
        suffix=".tflite",
        calibrated=True,
        margin_pt=0.3,
        packages=_TRAINING,
        write=_write_int8_clustered,
        embed=_embed_tflite,
        trains=True,
        by_name_only=True,
    ),
)

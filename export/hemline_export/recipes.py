"""The recipes: every way in which Hemline makes an artifact, each one entry and one function."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemline.errors import ExportError
from hemline.files import write_bytes
from hemline_export import coreml, onnx_file, tflite
from hemline_export.freeze import Frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a recipe works from.

    Attributes:
        unrolled: the frozen model, recurrent layers unrolled.
        looped: the frozen model, recurrent layers as loops that tf2onnx knows.
        labels: the class names.
        calibration: float32 (n, *shape), preprocessed.
    """

    unrolled: Frozen
    looped: Frozen
    labels: tuple[str, ...]
    calibration: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to make an artifact.

    Attributes:
        name: the recipe's name, the middle part of the file name.
        meaning: what it is, in a line.
        engine: what runs the artifact.
        suffix: of the file.
        calibrated: it takes its ranges from calibration samples.
        margin_pt: how much test accuracy it may cost, in percentage points.
        packages: those whose versions decide what comes out.
        write: makes the file, without facts inside, and returns what else than the recipe's name
            decided the result.
        embed: puts a facts document into the file.
        trains: it trains the model on, which takes minutes: made only if it is asked for.
    """

    name: str
    meaning: str
    engine: str
    suffix: str
    calibrated: bool
    margin_pt: float
    packages: tuple[str, ...]
    write: Callable[[Sources, Path], dict[str, str]]
    embed: Callable[[Path, bytes], None]
    trains: bool = False


def select_recipes(names: str | None = None) -> tuple[Recipe, ...]:
    """Returns the recipes of a comma-separated list of names, or of `all`.

    None stands for every recipe that needs no training.

    Raises:
        ExportError: a name is not known.
    """
    if names is None:
        return tuple(recipe for recipe in RECIPES if not recipe.trains)
    if names == "all":
        return RECIPES
    wanted = {name.strip() for name in names.split(",")}
    known = {recipe.name for recipe in RECIPES}
    if wanted - known:
        raise ExportError(
            f"unknown recipes {sorted(wanted - known)}; known: all, {', '.join(sorted(known))}"
        )
    return tuple(recipe for recipe in RECIPES if recipe.name in wanted)


def make_file(recipe: Recipe, sources: Sources, path: Path) -> dict[str, str]:
    """Makes a recipe's file, and returns its settings.

    Raises:
        ExportError: the recipe does not take the model; says which for the same engine do, found
            by trying them.
    """
    try:
        return recipe.write(sources, path)
    except ExportError as error:
        able = [
            other.name
            for other in RECIPES
            if other.engine == recipe.engine and other.name != recipe.name and not other.trains
            if _can_make(other, sources)
        ]
        raise ExportError(
            f"{error}; recipes that take this model as {recipe.suffix}: {', '.join(able) or 'none'}"
        ) from error


def _can_make(recipe: Recipe, sources: Sources) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            recipe.write(sources, Path(folder) / f"model{recipe.suffix}")
        except ExportError:
            return False
    return True


def describe_recipes() -> str:
    """Returns the table of recipes for people, a line for each."""
    return "\n".join(
        f"{recipe.name + recipe.suffix:<20} {recipe.meaning}{' (trains)' if recipe.trains else ''}"
        for recipe in RECIPES
    )


def _write_tflite(sources: Sources, path: Path) -> dict[str, str]:
    write_bytes(path, tflite.tflite_from_frozen(sources.unrolled))
    return {}


def _write_int8_tflite(sources: Sources, path: Path) -> dict[str, str]:
    write_bytes(path, tflite.int8_tflite_from_frozen(sources.unrolled, sources.calibration))
    return {}


def _write_float16_tflite(sources: Sources, path: Path) -> dict[str, str]:
    write_bytes(path, tflite.float16_tflite_from_frozen(sources.unrolled))
    return {"compression": "weights only, arithmetic in float32"}


def _write_dynamic_tflite(sources: Sources, path: Path) -> dict[str, str]:
    write_bytes(path, tflite.dynamic_tflite_from_frozen(sources.unrolled))
    return {}


def _write_int16x8_tflite(sources: Sources, path: Path) -> dict[str, str]:
    write_bytes(path, tflite.int16x8_tflite_from_frozen(sources.unrolled, sources.calibration))
    return {}


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


def _write_int8w_coreml(sources: Sources, path: Path) -> dict[str, str]:
    model = coreml.coreml_from_frozen(sources.unrolled, sources.labels)
    compressed, settings = coreml.quantize_weights(model)
    coreml.write_package(path, compressed)
    return settings


def _write_pal4_coreml(sources: Sources, path: Path) -> dict[str, str]:
    model = coreml.coreml_from_frozen(sources.unrolled, sources.labels)
    compressed, settings = coreml.palettize_weights(model)
    coreml.write_package(path, compressed)
    return settings


# Margins: float32 only reorders sums, so hardly a sample may change class; float16 keeps 11 bits
# of significand, which moves a sample only at a near tie; int8, in whatever part of a model, is
# held to a loss that no user of a ten-class model would notice. A palette has 16 values for a
# tensor where int8 has 255 for a channel: half of int8's size again, for up to half a point.
RECIPES = (
    Recipe(
        name="float32",
        meaning="built-in operators, float weights and arithmetic",
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
        meaning="integers from input to output; weights per channel, ranges by calibration",
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
        meaning="batch 1; a GRU or LSTM is one node",
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
        meaning="ML program for macOS 13 and later, float16 weights and arithmetic",
        engine="coreml",
        suffix=".mlpackage",
        calibrated=False,
        margin_pt=0.1,
        packages=("tensorflow", "keras", "coremltools"),
        write=_write_coreml,
        embed=coreml.embed_facts,
    ),
    Recipe(
        name="float16",
        meaning="float16 weights, float32 arithmetic: half the size, no faster",
        engine="litert",
        suffix=".tflite",
        calibrated=False,
        margin_pt=0.1,
        packages=("tensorflow", "keras"),
        write=_write_float16_tflite,
        embed=_embed_tflite,
    ),
    Recipe(
        name="dynamic",
        meaning="int8 weights, float activations put on a grid as they come; no calibration",
        engine="litert",
        suffix=".tflite",
        calibrated=False,
        margin_pt=0.3,
        packages=("tensorflow", "keras"),
        write=_write_dynamic_tflite,
        embed=_embed_tflite,
    ),
    Recipe(
        name="int16x8",
        meaning="integers from input to output: int8 weights, int16 activations; slow on most CPUs",
        engine="litert",
        suffix=".tflite",
        calibrated=True,
        margin_pt=0.3,
        packages=("tensorflow", "keras"),
        write=_write_int16x8_tflite,
        embed=_embed_tflite,
    ),
    Recipe(
        name="int8w",
        meaning="weight compression: int8 per channel, symmetric; float16 arithmetic",
        engine="coreml",
        suffix=".mlpackage",
        calibrated=False,
        margin_pt=0.3,
        packages=("tensorflow", "keras", "coremltools"),
        write=_write_int8w_coreml,
        embed=coreml.embed_facts,
    ),
    Recipe(
        name="pal4",
        meaning="weight compression: a 4-bit palette per tensor, by k-means; float16 arithmetic",
        engine="coreml",
        suffix=".mlpackage",
        calibrated=False,
        margin_pt=0.5,
        packages=("tensorflow", "keras", "coremltools", "scikit-learn"),
        write=_write_pal4_coreml,
        embed=coreml.embed_facts,
    ),
)

"""The recipes: every way in which Hemline makes an artifact, each one entry and one function."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemline.errors import ExportError
from hemline.files import write_bytes
from hemline_export import coreml, onnx_file, onnx_quantize, tflite
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
        engine: what runs the artifact.
        suffix: of the file.
        calibrated: it takes its ranges from calibration samples.
        margin_pt: how much test accuracy it may cost, in percentage points.
        packages: those whose versions decide what comes out.
        write: makes the file, without facts inside, and returns what else than the recipe's name
            decided the result.
        embed: puts a facts document into the file.
    """

    name: str
    engine: str
    suffix: str
    calibrated: bool
    margin_pt: float
    packages: tuple[str, ...]
    write: Callable[[Sources, Path], dict[str, str]]
    embed: Callable[[Path, bytes], None]


def select_recipes(names: str) -> tuple[Recipe, ...]:
    """Returns the recipes of a comma-separated list of names, or of `all`.

    Raises:
        ExportError: a name is not known.
    """
    if names == "all":
        return RECIPES
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


def _embed_tflite(path: Path, facts: bytes) -> None:
    write_bytes(path, tflite.embed_facts(path.read_bytes(), facts))


def _write_onnx(sources: Sources, path: Path) -> dict[str, str]:
    write_bytes(path, onnx_file.onnx_from_frozen(sources.looped))
    return {}


def _write_int8_onnx(sources: Sources, path: Path) -> dict[str, str]:
    content, settings = onnx_quantize.int8_onnx_from_float(
        onnx_file.onnx_from_frozen(sources.looped), sources.calibration
    )
    write_bytes(path, content)
    return settings


def _embed_onnx(path: Path, facts: bytes) -> None:
    write_bytes(path, onnx_file.embed_facts(path.read_bytes(), facts))


def _write_coreml(sources: Sources, path: Path) -> dict[str, str]:
    coreml.write_package(path, coreml.coreml_from_frozen(sources.unrolled, sources.labels))
    return {}


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
        name="int8",
        engine="onnxruntime",
        suffix=".onnx",
        calibrated=True,
        margin_pt=0.3,
        packages=("tensorflow", "keras", "tf-keras", "tf2onnx", "onnx", "onnxruntime"),
        write=_write_int8_onnx,
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
)

"""The recipes: every way in which Hemline makes an artifact, each one entry and one function."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemline.errors import ExportError
from hemline.facts import IntegerPromise, Task
from hemline.files import write_bytes
from hemline_export import coreml, onnx_file, onnx_quantize, tflite
from hemline_export.freeze import Frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a recipe works from.

    Attributes:
        unrolled: the frozen model, recurrent layers unrolled.
        looped: the frozen model, recurrent layers as loops that tf2onnx knows.
        labels: the class names; none for a task other than classification.
        calibration: float32 (n, *shape), preprocessed.
    """

    unrolled: Frozen
    looped: Frozen
    labels: tuple[str, ...]
    calibration: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a recipe may cost, for each task in its own measure: see `hemline.facts.ArtifactFacts`.

    Attributes:
        margin_pt: classification: accuracy, in percentage points.
        margin_loss_percent: regression, autoencoder: growth of the mean squared error.
        least_sqnr_db: tensors: signal to noise of all outputs.
        least_cosine: tensors: mean cosine over samples.
    """

    margin_pt: float
    margin_loss_percent: float
    least_sqnr_db: float
    least_cosine: float

    def for_task(self, task: str) -> dict[str, float | None]:
        """Returns the bounds as ArtifactFacts takes them: None where they are not the task's."""
        of_loss = task in (Task.REGRESSION, Task.AUTOENCODER)
        return {
            "margin_pt": self.margin_pt if task == Task.CLASSIFICATION else None,
            "margin_loss_percent": self.margin_loss_percent if of_loss else None,
            "least_sqnr_db": self.least_sqnr_db if task == Task.TENSORS else None,
            "least_cosine": self.least_cosine if task == Task.TENSORS else None,
        }


# By recipe name. Noise that knows nothing of a model's errors adds its power to their mean square,
# so a growth of 0.1, 1 or 10 % is noise 30, 20 or 10 dB below the model's own error. Noise at
# right angles to an output, S dB below it, leaves a cosine of (1 + 10^(−S/10))^(−1/2): each bound
# of cosine is that of the SQNR beside it, cut to its digits. It counts every sample alike, where
# SQNR counts those with large outputs most.
TOLERANCES = {
    # Sums in another order: hardly a sample may change class. Rounding normal values to float32
    # makes noise at 152 dB; at 60 dB it is another computation.
    "float32": Tolerance(
        margin_pt=0.05, margin_loss_percent=0.1, least_sqnr_db=60.0, least_cosine=0.999999
    ),
    # 11 bits of significand move a sample only at a near tie. One rounding makes noise at 74 dB;
    # the bound leaves room for many layers and for sums in float16.
    "float16": Tolerance(
        margin_pt=0.1, margin_loss_percent=1.0, least_sqnr_db=40.0, least_cosine=0.9999
    ),
    # A loss that no user of a ten-class model would notice; of a mean squared error, one of 5 % in
    # its root. Normal values on 8 bits over 3 to 10 standard deviations have noise at 43 to 33 dB,
    # every layer adds its own, and below 15 dB it is more than a sixth of the output.
    "int8": Tolerance(
        margin_pt=0.3, margin_loss_percent=10.0, least_sqnr_db=15.0, least_cosine=0.98
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to make an artifact.

    Attributes:
        name: the recipe's name, the middle part of the file name.
        engine: what runs the artifact.
        suffix: of the file.
        calibrated: it takes its ranges from calibration samples.
        packages: those whose versions decide what comes out.
        integers: how much of the file is in integers, if it promises any.
        write: makes the file, without facts inside, and returns what else than the recipe's name
            decided the result.
        embed: puts a facts document into the file.
    """

    name: str
    engine: str
    suffix: str
    calibrated: bool
    packages: tuple[str, ...]
    write: Callable[[Sources, Path], dict[str, str]]
    embed: Callable[[Path, bytes], None]
    integers: IntegerPromise | None = None


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


RECIPES = (
    Recipe(
        name="float32",
        engine="litert",
        suffix=".tflite",
        calibrated=False,
        packages=("tensorflow", "keras"),
        write=_write_tflite,
        embed=_embed_tflite,
    ),
    Recipe(
        name="int8",
        engine="litert",
        suffix=".tflite",
        calibrated=True,
        packages=("tensorflow", "keras"),
        write=_write_int8_tflite,
        embed=_embed_tflite,
        integers=IntegerPromise(operators=1.0, macs=1.0),
    ),
    Recipe(
        name="float32",
        engine="onnxruntime",
        suffix=".onnx",
        calibrated=False,
        packages=("tensorflow", "keras", "tf-keras", "tf2onnx", "onnx"),
        write=_write_onnx,
        embed=_embed_onnx,
    ),
    Recipe(
        name="int8",
        engine="onnxruntime",
        suffix=".onnx",
        calibrated=True,
        packages=("tensorflow", "keras", "tf-keras", "tf2onnx", "onnx", "onnxruntime"),
        write=_write_int8_onnx,
        embed=_embed_onnx,
        # Moving values ahead of the first grid, and the last softmax, are none.
        integers=IntegerPromise(operators=0.0, macs=1.0),
    ),
    Recipe(
        name="float16",
        engine="coreml",
        suffix=".mlpackage",
        calibrated=False,
        packages=("tensorflow", "keras", "coremltools"),
        write=_write_coreml,
        embed=coreml.embed_facts,
    ),
)

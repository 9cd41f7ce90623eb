"""The recipes: every way in which Hemline makes an artifact, each one entry and one function."""

import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.artifact_facts import EMBEDDED_SCHEMA, EmbeddedFacts, IntegerPromise
from hemline.documents import decode
from hemline.engines.c_source import read_array
from hemline.errors import ExportError, ModelFileError
from hemline.facts import Task
from hemline.files import read_regular, write_bytes
from hemline.limits import MODEL_BYTES
from hemline_export import c_source, coreml, onnx_file, onnx_quantize, tflite
from hemline_export.calibration import DEFAULT_COUNT, Ranges
from hemline_export.freeze import Frozen, freeze
from hemline_export.recurrent import unroll_recurrent
from hemline_export.reorder import pool_before_activation
from hemline_export.tuning import TuningSamples


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What recipes leave to choose.

    Attributes:
        calibration_count: how many samples ranges are taken from.
        calibration_seed: of their draw.
        calibration_method: how, where the converter has several: int8.onnx.
        sparsity: the share of weights that int8-pruned sets to zero.
        clusters: how many different weights int8-clustered leaves a kernel.
        kept_float: how many operators int8-selective leaves in floating point.
    """

    calibration_count: int = DEFAULT_COUNT
    calibration_seed: int = 0
    calibration_method: Ranges = Ranges.MINMAX
    sparsity: float = 0.5
    clusters: int = 16
    kept_float: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a recipe works from.

    Attributes:
        unrolled: the frozen model, recurrent layers unrolled.
        looped: the frozen model, recurrent layers as loops that tf2onnx knows.
        labels: the class names; none for a task other than classification.
        calibration: float32 (n, *shape), preprocessed.
        model: the Keras model.
        tuning: returns what to fine-tune on.
        choices: what the recipes leave to choose.
    """

    unrolled: Frozen
    looped: Frozen
    labels: tuple[str, ...]
    calibration: NDArray[np.float32]
    model: Any
    tuning: Callable[[], TuningSamples]
    choices: Choices


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
    # The same grids, trained for or in most of the model.
    "int8-qat": Tolerance(
        margin_pt=0.3, margin_loss_percent=10.0, least_sqnr_db=15.0, least_cosine=0.98
    ),
    "int8-selective": Tolerance(
        margin_pt=0.3, margin_loss_percent=10.0, least_sqnr_db=15.0, least_cosine=0.98
    ),
    "int8-pruned": Tolerance(
        margin_pt=0.3, margin_loss_percent=10.0, least_sqnr_db=15.0, least_cosine=0.98
    ),
    "int8-clustered": Tolerance(
        margin_pt=0.3, margin_loss_percent=10.0, least_sqnr_db=15.0, least_cosine=0.98
    ),
    # The int8 file itself.
    "micro": Tolerance(
        margin_pt=0.3, margin_loss_percent=10.0, least_sqnr_db=15.0, least_cosine=0.98
    ),
    # The weights alone are on 8 bits, or activations on 16 as well: of int8's noise its weights'.
    "dynamic": Tolerance(
        margin_pt=0.3, margin_loss_percent=10.0, least_sqnr_db=20.0, least_cosine=0.995
    ),
    "int16x8": Tolerance(
        margin_pt=0.3, margin_loss_percent=10.0, least_sqnr_db=20.0, least_cosine=0.995
    ),
    "int8w": Tolerance(
        margin_pt=0.3, margin_loss_percent=10.0, least_sqnr_db=20.0, least_cosine=0.995
    ),
    # A palette has 16 values for a tensor where int8 has 255 for a channel: half of int8's size
    # again, for up to half a point.
    "pal4": Tolerance(
        margin_pt=0.5, margin_loss_percent=20.0, least_sqnr_db=10.0, least_cosine=0.95
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to make an artifact.

    Attributes:
        name: the recipe's name, the middle part of the file name.
        meaning: what it is, in a line.
        engine: what runs the artifact.
        suffix: of the file.
        calibrated: it takes its ranges from calibration samples.
        packages: those whose versions decide what comes out.
        integers: how much of the file is in integers, if it promises any.
        write: makes the file, without facts inside, and returns what else than the recipe's name
            decided the result.
        embed: puts a facts document into the file.
        trains: it fine-tunes the model, which takes minutes and labelled training samples.
        by_name_only: it depends on a choice that only the user can make, so `all` leaves it out.
    """

    name: str
    meaning: str
    engine: str
    suffix: str
    calibrated: bool
    packages: tuple[str, ...]
    write: Callable[[Sources, Path], dict[str, str]]
    embed: Callable[[Path, bytes], None]
    integers: IntegerPromise | None = None
    trains: bool = False
    by_name_only: bool = False


def select_recipes(names: str | None = None) -> tuple[Recipe, ...]:
    """Returns the recipes of a comma-separated list of names, `all` among them.

    A name with a minus in front is left out. None stands for every recipe that needs no training
    and no choice.

    Raises:
        ExportError: a name is not known.
    """
    if names is None:
        return tuple(r for r in RECIPES if not r.trains and not r.by_name_only)
    parts = [name.strip() for name in names.split(",")]
    left_out = {part[1:] for part in parts if part.startswith("-")}
    wanted = {part for part in parts if not part.startswith("-")}
    known = {recipe.name for recipe in RECIPES}
    unknown = (wanted | left_out) - known - {"all"}
    if unknown:
        raise ExportError(
            f"unknown recipes {sorted(unknown)}; known: all, {', '.join(sorted(known))}"
        )
    if "all" in wanted:
        wanted |= {recipe.name for recipe in RECIPES if not recipe.by_name_only}
    return tuple(recipe for recipe in RECIPES if recipe.name in wanted - left_out)


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
            if other.engine == recipe.engine and other.name != recipe.name
            if not other.trains and not other.by_name_only
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


def _write_int8_qat(sources: Sources, path: Path) -> dict[str, str]:
    # What trains is imported only then: tfmot changes what `tf.keras` is.
    from hemline_export.qat import train_quantized

    quantized, settings = train_quantized(sources.model, sources.calibration, sources.tuning())
    write_bytes(path, tflite.int8_tflite_from_quantized(_freeze(sources, quantized)))
    return settings


def _write_int8_selective(sources: Sources, path: Path) -> dict[str, str]:
    content, kept = tflite.selective_tflite_from_frozen(
        sources.unrolled, sources.calibration, sources.choices.kept_float
    )
    write_bytes(path, content)
    return {"kept_float": ", ".join(kept)}


def _write_int8_pruned(sources: Sources, path: Path) -> dict[str, str]:
    from hemline_export.compression import prune

    model, settings = prune(sources.model, sources.tuning(), sources.choices.sparsity)
    return settings | _write_compressible(sources, model, path)


def _write_micro(sources: Sources, path: Path) -> dict[str, str]:
    content = tflite.int8_tflite_from_frozen(sources.unrolled, sources.calibration)
    try:
        # Measured of the file with the metadata that it will have.
        settings = c_source.measure_arena(path, tflite.embed_facts(content, b""))
    except ModelFileError as error:
        raise ExportError(str(error)) from error
    c_source.write_c_source(path, content)
    return settings


def _embed_c_source(path: Path, facts: bytes) -> None:
    content = tflite.embed_facts(read_array(path), facts)
    stated = decode(EMBEDDED_SCHEMA, EmbeddedFacts, facts, str(path))
    c_source.write_c_source(path, content, stated)


def _write_int8_clustered(sources: Sources, path: Path) -> dict[str, str]:
    from hemline_export.compression import cluster

    model, settings = cluster(sources.model, sources.tuning(), sources.choices.clusters)
    return settings | _write_compressible(sources, model, path)


def _write_compressible(sources: Sources, model: Any, path: Path) -> dict[str, str]:
    plain, content = (
        tflite.int8_tflite_from_frozen(frozen, sources.calibration)
        for frozen in (sources.unrolled, _freeze(sources, unroll_recurrent(model)))
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
    frozen = freeze(model, input_name=names.input_name, output_name=names.output_name)
    return pool_before_activation(frozen)


def _embed_tflite(path: Path, facts: bytes) -> None:
    write_bytes(path, tflite.embed_facts(read_regular(path, MODEL_BYTES), facts))


def _write_onnx(sources: Sources, path: Path) -> dict[str, str]:
    write_bytes(path, onnx_file.onnx_from_frozen(sources.looped))
    return {}


def _write_int8_onnx(sources: Sources, path: Path) -> dict[str, str]:
    content, settings = onnx_quantize.int8_onnx_from_float(
        onnx_file.onnx_from_frozen(sources.looped),
        sources.calibration,
        sources.choices.calibration_method,
    )
    write_bytes(path, content)
    return settings


def _embed_onnx(path: Path, facts: bytes) -> None:
    write_bytes(path, onnx_file.embed_facts(read_regular(path, MODEL_BYTES), facts))


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


_TRAINING = ("tensorflow", "keras", "tf-keras", "tensorflow-model-optimization")

RECIPES = (
    Recipe(
        name="float32",
        meaning="built-in operators, float weights and arithmetic",
        engine="litert",
        suffix=".tflite",
        calibrated=False,
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
        packages=("tensorflow", "keras"),
        write=_write_int8_tflite,
        embed=_embed_tflite,
        integers=IntegerPromise(operators=1.0, macs=1.0),
    ),
    Recipe(
        name="float32",
        meaning="batch 1; a GRU or LSTM is one node",
        engine="onnxruntime",
        suffix=".onnx",
        calibrated=False,
        packages=("tensorflow", "keras", "tf-keras", "tf2onnx", "onnx"),
        write=_write_onnx,
        embed=_embed_onnx,
    ),
    Recipe(
        name="int8",
        meaning="multiply-accumulates in integers; of a recurrent model the weights only",
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
        meaning="ML program for macOS 13 and later, float16 weights and arithmetic",
        engine="coreml",
        suffix=".mlpackage",
        calibrated=False,
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
        packages=("tensorflow", "keras"),
        write=_write_int16x8_tflite,
        embed=_embed_tflite,
        integers=IntegerPromise(operators=1.0, macs=1.0),
    ),
    Recipe(
        name="int8w",
        meaning="weight compression: int8 per channel, symmetric; float16 arithmetic",
        engine="coreml",
        suffix=".mlpackage",
        calibrated=False,
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
        packages=("tensorflow", "keras", "coremltools", "scikit-learn"),
        write=_write_pal4_coreml,
        embed=coreml.embed_facts,
    ),
    Recipe(
        name="int8-qat",
        meaning="as int8, after training on with the integer grids in place",
        engine="litert",
        suffix=".tflite",
        calibrated=True,
        packages=_TRAINING,
        write=_write_int8_qat,
        embed=_embed_tflite,
        integers=IntegerPromise(operators=1.0, macs=1.0),
        trains=True,
    ),
    Recipe(
        name="int8-selective",
        meaning="as int8, but the operators that it costs most stay in floating point",
        engine="litert",
        suffix=".tflite",
        calibrated=True,
        packages=("tensorflow", "keras"),
        write=_write_int8_selective,
        embed=_embed_tflite,
        by_name_only=True,
    ),
    Recipe(
        name="int8-pruned",
        meaning="as int8, after training with the smallest weights at zero: compresses well",
        engine="litert",
        suffix=".tflite",
        calibrated=True,
        packages=_TRAINING,
        write=_write_int8_pruned,
        embed=_embed_tflite,
        integers=IntegerPromise(operators=1.0, macs=1.0),
        trains=True,
        by_name_only=True,
    ),
    Recipe(
        name="int8-clustered",
        meaning="as int8, after training with few different weights: compresses well",
        engine="litert",
        suffix=".tflite",
        calibrated=True,
        packages=_TRAINING,
        write=_write_int8_clustered,
        embed=_embed_tflite,
        integers=IntegerPromise(operators=1.0, macs=1.0),
        trains=True,
        by_name_only=True,
    ),
    Recipe(
        name="micro",
        meaning="the int8 file as C source for TensorFlow Lite Micro, with its arena's size",
        engine="micro",
        suffix=".csource",
        calibrated=True,
        packages=("tensorflow", "keras"),
        write=_write_micro,
        embed=_embed_c_source,
        integers=IntegerPromise(operators=1.0, macs=1.0),
        by_name_only=True,
    ),
)

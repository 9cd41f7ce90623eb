"""What is known of a model: the vocabulary of manifests and of metadata inside model files."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Task(StrEnum):
    """What a model is for, which decides how its artifacts are judged."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    AUTOENCODER = "autoencoder"
    TENSORS = "tensors"


# Of ArtifactFacts, what bounds an artifact's loss, by task.
_BOUNDS: dict[str, tuple[str, ...]] = {
    Task.CLASSIFICATION: ("margin_pt",),
    Task.REGRESSION: ("margin_loss_percent",),
    Task.AUTOENCODER: ("margin_loss_percent",),
    Task.TENSORS: ("least_sqnr_db", "least_cosine"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a uint8 pixel becomes a model's input value: `(float32(pixel) − mean) / std`.

    The formula and its names are those of TFLite's NormalizationOptions metadata.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not np.isfinite([self.mean, self.std]).all() or self.std <= 0:
            raise ValueError(f"preprocessing needs a finite mean and a std above 0, got {self}")

    def table(self) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        """Returns the input value of each of the 256 pixel values, float32 (256,)."""
        pixels = np.arange(256, dtype=np.float32)
        return (pixels - np.float32(self.mean)) / np.float32(self.std)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantParams:
    """A tensor's grid: `real = scale · (integer − zero_point)`, the same for the whole tensor."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"a scale must be finite and above 0, got {self.scale}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor at a model's border.

    Attributes:
        name: its name in the file.
        shape: batch first; None where any size will do.
        dtype: NumPy's name, such as `float32` or `int8`.
        quantization: its grid, or None if it holds real values.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    quantization: QuantParams | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFacts:
    """What the float model takes.

    Attributes:
        name: the input's name.
        shape: of one sample, without the batch.
        minimum: the least value that the model was made for.
        maximum: the greatest.
        preprocessing: from uint8 pixels to values; None if the model takes no pixels.
    """

    name: str
    shape: tuple[int, ...]
    minimum: float
    maximum: float
    preprocessing: Preprocessing | None

    def __post_init__(self) -> None:
        if not self.minimum < self.maximum:
            raise ValueError(f"empty value range: {self.minimum} to {self.maximum}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRef:
    """The data set a model was made from: a name in the entry points `hemline.datasets`.

    Attributes:
        name: the entry point's name.
        split_seed: what the training and validation split was drawn with.
    """

    name: str
    split_seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What every artifact of one float model shares.

    Attributes:
        model: its name, the first part of each artifact's file name.
        task: one of `Task`: `classification`; `regression`, to values that come with the samples;
            `autoencoder`, whose output is to equal its input; or `tensors`, which nothing but
            the float model says how they should be.
        labels: a name for each class, in the order of the output; none for the other tasks.
        input: what the float model takes.
        output_name: the output's name.
        output_shape: of one sample, without the batch; (number of labels,) for classification.
        dataset: where its training and test samples come from, if that is known.
        floor_accuracy: the least test accuracy of the float model that is no failure, if set;
            for classification.
        ceiling_loss: the greatest mean squared error on the test samples that is no failure, if
            set; for regression and autoencoders.
    """

    model: str
    task: str
    labels: tuple[str, ...]
    input: InputFacts
    output_name: str
    output_shape: tuple[int, ...]
    dataset: DatasetRef | None
    floor_accuracy: float | None
    ceiling_loss: float | None

    def __post_init__(self) -> None:
        if self.task not in tuple(Task):
            raise ValueError(f"unknown task {self.task!r}; known: {', '.join(Task)}")
        if not self.output_shape or min(self.output_shape) < 1:
            raise ValueError(f"an output's shape has one size or more, got {self.output_shape}")
        if self.task == Task.CLASSIFICATION:
            if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
                raise ValueError(f"labels must be two or more, all different; got {self.labels}")
            if self.output_shape != (len(self.labels),):
                raise ValueError(
                    f"{len(self.labels)} labels for an output of shape {self.output_shape}"
                )
        elif self.labels or self.floor_accuracy is not None:
            raise ValueError(f"labels and a floor of accuracy are not for the task {self.task}")
        if self.task == Task.AUTOENCODER and self.output_shape != self.input.shape:
            raise ValueError(
                f"an autoencoder gives what it takes, but this model takes {self.input.shape} and "
                f"gives {self.output_shape}"
            )
        if self.ceiling_loss is not None and (
            self.task not in (Task.REGRESSION, Task.AUTOENCODER) or not self.ceiling_loss > 0
        ):
            raise ValueError(
                f"a ceiling of loss must be above 0 and is for regression and autoencoders, got "
                f"{self.ceiling_loss} for the task {self.task}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFacts:
    """The samples that quantization saw.

    Attributes:
        source: the data set's name, or the file's.
        split: `train` for a data set of the entry points, else `file`.
        seed: of the draw.
        count: how many samples.
        indices_sha256: of the drawn indices as little-endian int64, in the order used.
    """

    source: str
    split: str
    seed: int
    count: int
    indices_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerPromise:
    """How much of a file a recipe promises to compute in integers; shares in [0, 1].

    Attributes:
        operators: of its operators.
        macs: of its multiply-accumulates.
    """

    operators: float
    macs: float

    def __post_init__(self) -> None:
        if not (0 <= self.operators <= 1 and 0 <= self.macs <= 1):
            raise ValueError(f"shares lie between 0 and 1, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFacts:
    """How one file was made.

    Attributes:
        recipe: the recipe's name, such as `int8`.
        engine: what runs the file, such as `litert`.
        parent_sha256: of the float Keras file it was made from.
        input: the file's own input tensor.
        output: the file's own output tensor.
        margin_pt: how much accuracy it may lose, in percentage points; for classification, and
            None for the other tasks, as each bound that is not the task's.
        margin_loss_percent: by how much its mean loss may exceed the float model's, in percent of
            that; for regression and autoencoders.
        least_sqnr_db: of its outputs against the float model's; for tensors.
        least_cosine: the mean over samples of the cosine of its outputs with the float model's,
            at least; for tensors.
        integers: how much of it is promised to be in integers; None if nothing is.
        calibration: the samples its ranges come from; None where none were needed.
        settings: what else decided the result, by name.
        toolchain: the version of each package that had a part in it.
    """

    recipe: str
    engine: str
    parent_sha256: str
    input: TensorSpec
    output: TensorSpec
    margin_pt: float | None
    margin_loss_percent: float | None
    least_sqnr_db: float | None
    least_cosine: float | None
    integers: IntegerPromise | None
    calibration: CalibrationFacts | None
    settings: dict[str, str]
    toolchain: dict[str, str]

    def __post_init__(self) -> None:
        if self.margin_pt is not None and not 0 < self.margin_pt < 100:
            raise ValueError(f"a margin must lie between 0 and 100 points, got {self.margin_pt}")
        percent = self.margin_loss_percent
        if percent is not None and not 0 < percent < np.inf:
            raise ValueError(f"a margin of loss must be above 0 percent, got {percent}")
        if self.least_sqnr_db is not None and not np.isfinite(self.least_sqnr_db):
            raise ValueError(f"a bound of SQNR must be finite, got {self.least_sqnr_db}")
        if self.least_cosine is not None and not 0 < self.least_cosine < 1:
            raise ValueError(f"a bound of cosine must lie between 0 and 1, got {self.least_cosine}")

    def require_bounds(self, task: str) -> None:
        """Raises unless just the bounds that a task's artifacts are held to are set.

        Raises:
            ValueError: one is missing, or one of another task is set.
        """
        bounds = {name for names in _BOUNDS.values() for name in names}
        found = {name for name in bounds if getattr(self, name) is not None}
        if found != set(_BOUNDS[task]):
            raise ValueError(
                f"the task {task} is held to {' and '.join(_BOUNDS[task])}, but the facts set "
                f"{' and '.join(sorted(found)) or 'none'}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedFacts:
    """What rides inside an artifact, so that it loads without its manifest."""

    model: ModelFacts
    artifact: ArtifactFacts

    def __post_init__(self) -> None:
        self.artifact.require_bounds(self.model.task)


EMBEDDED_SCHEMA = "hemline.facts/1"
EMBEDDED_KEY = "hemline.facts"

"""What is known of a model: the vocabulary of manifests and of metadata inside model files."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

# Of a sample: what engines take, and more than a picture of 64 million pixels has.
_MOST_SIZES = 8
_MOST_ELEMENTS = 1 << 28


class Task(StrEnum):
    """What a model is for, which decides how its artifacts are judged."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    AUTOENCODER = "autoencoder"
    TENSORS = "tensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How a uint8 pixel becomes a model's input value: `(float32(pixel) − mean) / std`.

    The formula and its names are those of TFLite's NormalizationOptions metadata.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        # In float32 a std may be 0 or infinite that is not so here, and so may its quotients.
        with np.errstate(all="ignore"):
            std = np.float32(self.std)
            fits = 0 < std < np.inf and np.isfinite(self.table()).all()
        if not fits:
            raise ValueError(
                f"preprocessing needs a finite mean and a std above 0, in float32 too, got {self}"
            )

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
        with np.errstate(all="ignore"):
            fits = 0 < np.float32(self.scale) < np.inf
        if not fits:
            raise ValueError(
                f"a scale must be finite and above 0, in float32 too, got {self.scale}"
            )
        if not -(1 << 31) <= self.zero_point < 1 << 31:
            raise ValueError(f"a zero point must fit int32, got {self.zero_point}")


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
        with np.errstate(all="ignore"):
            ends = np.array([self.minimum, self.maximum, self.maximum - self.minimum], np.float32)
        if not ends[0] < ends[1]:
            raise ValueError(f"empty value range: {self.minimum} to {self.maximum}, in float32")
        if not np.isfinite(ends).all():
            raise ValueError(
                f"float32 does not hold the value range {self.minimum} to {self.maximum}"
            )
        _require_shape("an input", self.shape)


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
        require_task(self.task)
        _require_shape("an output", self.output_shape)
        if self.task == Task.CLASSIFICATION:
            if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
                raise ValueError(f"labels must be two or more, all different; got {self.labels}")
            if self.output_shape != (len(self.labels),):
                raise ValueError(
                    f"{len(self.labels)} labels for an output of shape {self.output_shape}"
                )
        elif self.labels or self.floor_accuracy is not None:
            raise ValueError(f"labels and a floor of accuracy are not for the task {self.task}")
        if self.floor_accuracy is not None and not 0 <= self.floor_accuracy <= 1:
            raise ValueError(f"a floor of accuracy lies from 0 to 1, got {self.floor_accuracy}")
        if self.task == Task.AUTOENCODER and self.output_shape != self.input.shape:
            raise ValueError(
                f"an autoencoder gives what it takes, but this model takes {self.input.shape} and "
                f"gives {self.output_shape}"
            )
        if self.ceiling_loss is not None and (
            self.task not in (Task.REGRESSION, Task.AUTOENCODER)
            or not 0 < self.ceiling_loss < np.inf
        ):
            raise ValueError(
                "a ceiling of loss must be above 0 and finite, and is for regression and "
                f"autoencoders, got {self.ceiling_loss} for the task {self.task}"
            )


def require_task(task: str) -> None:
    """Raises unless a word is a task.

    Raises:
        ValueError: it is not.
    """
    if task not in tuple(Task):
        raise ValueError(f"unknown task {task!r}; known: {', '.join(Task)}")


def _require_shape(what: str, shape: tuple[int, ...]) -> None:
    if not shape or len(shape) > _MOST_SIZES or min(shape) < 1 or math.prod(shape) > _MOST_ELEMENTS:
        raise ValueError(
            f"{what}'s shape has one size or more, each from 1 on, at most {_MOST_SIZES}, and at "
            f"most {_MOST_ELEMENTS:,} elements, got {shape}"
        )


EMBEDDED_KEY = "hemline.facts"

"""What is known of a model: the vocabulary of manifests and of metadata inside model files."""

from dataclasses import dataclass

import numpy as np

CLASSIFICATION = "classification"


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
        task: `classification`.
        labels: a name for each class, in the order of the output.
        input: what the float model takes.
        output_name: the output's name; its shape is (batch, number of labels).
        dataset: where its training and test samples come from, if that is known.
        floor_accuracy: the least test accuracy of the float model that is no failure, if set.
    """

    model: str
    task: str
    labels: tuple[str, ...]
    input: InputFacts
    output_name: str
    dataset: DatasetRef | None
    floor_accuracy: float | None

    def __post_init__(self) -> None:
        if self.task != CLASSIFICATION:
            raise ValueError(f"unknown task {self.task!r}; known: {CLASSIFICATION!r}")
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be two or more, all different; got {self.labels}")


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
class ArtifactFacts:
    """How one file was made.

    Attributes:
        recipe: the recipe's name, such as `int8`.
        engine: what runs the file, such as `litert`.
        parent_sha256: of the float Keras file it was made from.
        input: the file's own input tensor.
        output: the file's own output tensor.
        margin_pt: how much accuracy it may lose, in percentage points.
        calibration: the samples its ranges come from; None where none were needed.
        settings: what else decided the result, by name.
        toolchain: the version of each package that had a part in it.
    """

    recipe: str
    engine: str
    parent_sha256: str
    input: TensorSpec
    output: TensorSpec
    margin_pt: float
    calibration: CalibrationFacts | None
    settings: dict[str, str]
    toolchain: dict[str, str]

    def __post_init__(self) -> None:
        if not 0 < self.margin_pt < 100:
            raise ValueError(f"a margin must lie between 0 and 100 points, got {self.margin_pt}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedFacts:
    """What rides inside an artifact, so that it loads without its manifest."""

    model: ModelFacts
    artifact: ArtifactFacts


EMBEDDED_SCHEMA = "hemline.facts/1"
EMBEDDED_KEY = "hemline.facts"

"""What is known of one exported file: how it was made, and what it is held to.

Apart from `hemline.facts`, which every prediction needs, so that a process that only predicts
starts fast.
"""

from dataclasses import dataclass

import numpy as np

from hemline.facts import ModelFacts, Task, TensorSpec

# Of ArtifactFacts, what bounds an artifact's loss, by task.
_BOUNDS: dict[str, tuple[str, ...]] = {
    Task.CLASSIFICATION: ("margin_pt",),
    Task.REGRESSION: ("margin_loss_percent",),
    Task.AUTOENCODER: ("margin_loss_percent",),
    Task.TENSORS: ("least_sqnr_db", "least_cosine"),
}


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

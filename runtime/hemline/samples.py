"""Samples to verify or calibrate with, from an .npz file or a data set plug-in."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemline.arrays import read_arrays
from hemline.errors import DataError
from hemline.facts import DatasetRef

Split = Literal["train", "validation", "test"]
ENTRY_POINTS = "hemline.datasets"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Samples, with what a model should make of them where the task needs that.

    Attributes:
        images: (n, *sample shape); uint8 pixels, or float32 values ready for the model.
        labels: int64 (n,), the class of each; None if they have no classes.
        targets: float32 (n, …), the values that regression should give; None if there are none.
        indices: int64 (n,), where each stood in the file it came from.
        source: the data set's name, or the file's.
        split: `train`, `validation` or `test`; `file` for an .npz file.
    """

    images: NDArray[Any]
    indices: NDArray[np.int64]
    source: str
    split: str
    labels: NDArray[np.int64] | None = None
    targets: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype not in (np.uint8, np.float32) or self.images.ndim == 0:
            raise DataError(
                f"{self.source}: images are {self.images.dtype} of shape {self.images.shape}, "
                "expected uint8 or float32 of shape (n, …)"
            )
        if len(self.images) == 0:
            raise DataError(f"{self.source}: no images; expected at least one")
        for kind, truth in (("labels", self.labels), ("targets", self.targets)):
            if truth is not None and len(self.images) != len(truth):
                raise DataError(
                    f"{self.source}: {len(self.images)} images and {len(truth)} {kind}; "
                    "expected as many of each"
                )
        for kind, values in (("image", self.images), ("target", self.targets)):
            if values is not None and values.dtype == np.float32 and not np.isfinite(values).all():
                first = int(np.flatnonzero(~np.isfinite(values).reshape(len(self), -1).all(1))[0])
                raise DataError(f"{self.source}: {kind} {first} holds NaN or infinity")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, positions: NDArray[np.int64]) -> "Samples":
        """Returns the samples at these positions, in this order."""
        return Samples(
            images=self.images[positions],
            indices=self.indices[positions],
            source=self.source,
            split=self.split,
            labels=None if self.labels is None else self.labels[positions],
            targets=None if self.targets is None else self.targets[positions],
        )

    def sha256(self) -> str:
        """Returns one hash of all images, labels and targets, in their order."""
        digest = hashlib.sha256(f"{self.images.dtype}{self.images.shape}".encode())
        digest.update(np.ascontiguousarray(self.images).data)
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").data)
        if self.targets is not None:
            digest.update(f"targets{self.targets.shape}".encode())
            digest.update(np.ascontiguousarray(self.targets, "<f4").data)
        return digest.hexdigest()

    def sample_sha256(self) -> tuple[str, ...]:
        """Returns the first 16 hex digits of each image's own SHA-256."""
        return tuple(
            hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()[:16]
            for image in self.images
        )


def resolve_samples(data: str | None, dataset: DatasetRef | None, split: Split) -> Samples:
    """Finds the samples that a command was asked to use.

    Args:
        data: an .npz file with `images`, and `labels` or `targets` if it has them; a folder with
            the data set's own files; the name of a data set; or None for the data set that the
            model was made from.
        dataset: that data set, if the model's facts name one.
        split: which part of a data set; an .npz file is taken whole.

    Raises:
        DataError: there are no such samples.
    """
    if data is not None and data.endswith(".npz"):
        return _read_npz(Path(data))
    loaders = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    seed = dataset.split_seed if dataset else 0
    if data in loaders:
        name, folder = data, None
    elif dataset is not None and dataset.name in loaders and (data is None or Path(data).is_dir()):
        name, folder = dataset.name, Path(data) if data is not None else None
    else:
        known = ", ".join(sorted(loaders)) or "none installed"
        raise DataError(
            f"no samples found for {data or (dataset.name if dataset else 'this model')!r}: give "
            f"--data an .npz file with `images` and `labels` (regression: `targets`), a data set's "
            f"name ({known}), "
            "or the folder of the model's own data set"
        )
    load: Callable[..., Samples] = loaders[name].load()
    return load(split=split, folder=folder, split_seed=seed)


def _read_npz(path: Path) -> Samples:
    arrays = read_arrays(path, ["images"], optional=["labels", "targets"])
    images, labels, targets = arrays["images"], arrays.get("labels"), arrays.get("targets")
    if labels is not None and (labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer)):
        raise DataError(
            f"{path}: labels are {labels.dtype} {labels.shape}, expected integers of shape (n,)"
        )
    if targets is not None and (targets.ndim == 0 or not np.issubdtype(targets.dtype, np.floating)):
        raise DataError(
            f"{path}: targets are {targets.dtype} {targets.shape}, expected float32 of shape (n, …)"
        )
    if targets is not None:
        # What is beyond float32 becomes infinity, which Samples refuses.
        with np.errstate(over="ignore"):
            targets = targets.astype(np.float32)
    return Samples(
        images=images,
        indices=np.arange(len(np.atleast_1d(images)), dtype=np.int64),
        source=path.name,
        split="file",
        labels=None if labels is None else labels.astype(np.int64),
        targets=targets,
    )

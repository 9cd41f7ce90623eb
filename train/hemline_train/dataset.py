"""The data sets that the reference models are trained and tested on."""

import argparse
import hashlib
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemline.console import run_safely
from hemline.errors import DataError
from hemline.facts import Preprocessing
from hemline.samples import Samples, Split
from hemline.terminal import printable, show
from hemline_train import fashion_mnist
from hemline_train.garments import draw_garments

FASHION_MNIST = "fashion_mnist"
SYNTHETIC = "synthetic"
AUTO = "auto"
NAMES = (FASHION_MNIST, SYNTHETIC, AUTO)

PREPROCESSING = Preprocessing(mean=0.0, std=255.0)

SYNTHETIC_COUNTS = {"train": 6_000, "test": 1_000}
SYNTHETIC_SEEDS = {"train": 28, "test": 2_828}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
        name: `fashion_mnist` or `synthetic`.
        train_images: uint8 (n, 28, 28, 1).
        train_labels: int64 (n,).
        test_images: uint8 (m, 28, 28, 1).
        test_labels: int64 (m,).
        labels: a name for each class.
        sha256: of all the above arrays.
    """

    name: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    labels: tuple[str, ...]
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for images, labels in (
            (self.train_images, self.train_labels),
            (self.test_images, self.test_labels),
        ):
            digest.update(str(images.shape).encode())
            digest.update(np.ascontiguousarray(images).data)
            digest.update(labels.astype("<i8").data)
        object.__setattr__(self, "sha256", digest.hexdigest())


def resolve_name(name: str, folder: Path | None = None) -> str:
    """Returns `name`, or for `auto` the name of the data set that there is.

    Falling back to the synthetic garments is announced on stderr.

    Args:
        name: `fashion_mnist`, `synthetic` or `auto`.
        folder: with the files of Fashion-MNIST, if it was named.

    Raises:
        DataError: the name is unknown, or `auto` met a damaged or incomplete Fashion-MNIST.
    """
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}, expected one of {', '.join(NAMES)}")
    if name != AUTO:
        return name
    try:
        fashion_mnist.find_folder(folder)
    except fashion_mnist.DatasetUnavailableError as error:
        _announce_synthetic(str(error))
        return SYNTHETIC
    return FASHION_MNIST


def load_dataset(name: str, folder: Path | None = None) -> Dataset:
    """Loads a data set; that it is the synthetic one is announced on stderr.

    Args:
        name: `fashion_mnist`, `synthetic`, or `auto` for the first of them that there is.
        folder: with the files of Fashion-MNIST; None to look in the usual places.

    Raises:
        DataError: there is no such data set, or a file of it is missing or damaged.
    """
    resolved = resolve_name(name, folder)
    if resolved == SYNTHETIC:
        if name == SYNTHETIC:
            _announce_synthetic("as asked for")
        train, test = _draw_synthetic("train"), _draw_synthetic("test")
    else:
        found = fashion_mnist.find_folder(folder)
        train, test = fashion_mnist.read(found, "train"), fashion_mnist.read(found, "test")
    return Dataset(
        name=resolved,
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        labels=fashion_mnist.LABELS,
    )


def load_fashion_mnist(*, split: Split, folder: Path | None, split_seed: int) -> Samples:
    """Loads one split of Fashion-MNIST; `indices` count within the original file.

    Raises:
        DataError: a file is missing or damaged.
    """
    found = fashion_mnist.find_folder(folder)
    images, labels = fashion_mnist.read(found, "test" if split == "test" else "train")
    return _take_split(FASHION_MNIST, images, labels, split, split_seed)


def load_synthetic(
    *,
    split: Split,
    folder: Path | None,  # noqa: ARG001 - what every data set of the entry points takes
    split_seed: int,
) -> Samples:
    """Draws one split of the synthetic garments; `indices` count within the drawn part."""
    images, labels = _draw_synthetic("test" if split == "test" else "train")
    return _take_split(SYNTHETIC, images, labels, split, split_seed)


def split_indices(
    labels: NDArray[np.int64], seed: int, validation_fraction: float = 0.2
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits samples into training and validation, each class alike.

    Args:
        labels: int64 (n,).
        seed: of the draw.
        validation_fraction: the share of each class, rounded down, that goes to validation.

    Returns:
        Training and validation indices, int64, ascending.
    """
    rng = np.random.default_rng(seed)
    in_validation = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        rng.shuffle(positions)
        in_validation[positions[: int(len(positions) * validation_fraction)]] = True
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def preprocess(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turns pixels into the models' input: float32 of the same shape, in [0, 1]."""
    return PREPROCESSING.table()[images]


def one_hot(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Returns float32 (n, classes): 1 at each label, else 0."""
    return np.eye(classes, dtype=np.float32)[labels]


def _draw_synthetic(part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return draw_garments(SYNTHETIC_COUNTS[part], SYNTHETIC_SEEDS[part])


def _take_split(
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    split: Split,
    split_seed: int,
) -> Samples:
    indices = np.arange(len(labels), dtype=np.int64)
    if split != "test":
        train, validation = split_indices(labels, split_seed)
        indices = train if split == "train" else validation
    return Samples(
        images=images[indices], labels=labels[indices], indices=indices, source=name, split=split
    )


def _announce_synthetic(reason: str) -> None:
    rule = "=" * 78
    print(
        f"{rule}\nSYNTHETIC DATA: drawn garments, NOT Fashion-MNIST. Accuracies mean nothing "
        f"outside\nthis data set. Why: {printable(reason)}\n{rule}",
        file=sys.stderr,
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Prints the name of the data set that a name stands for; `auto` finds out."""
    parser = argparse.ArgumentParser(prog="python -m hemline_train.dataset", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder of Fashion-MNIST")
    parsed = parser.parse_args(arguments)

    def run() -> int:
        show(resolve_name(parsed.name, parsed.data))
        return 0

    return run_safely(run, program="error")


if __name__ == "__main__":
    sys.exit(main())

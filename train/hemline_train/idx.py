"""IDX, the file format of MNIST and its kin.

Big-endian: images are `>IIII` = 2051, count, rows, columns, then one byte a pixel; labels are
`>II` = 2049, count, then one byte each. Source: the MNIST page of LeCun, Cortes and Burges.
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemline.errors import DataError

SIDE = 28
CLASSES = 10
IMAGES_MAGIC = 2051
LABELS_MAGIC = 2049


def read_idx_images(path: Path) -> NDArray[np.uint8]:
    """Reads 28×28 grey images from an IDX file, gzipped if its name ends in `.gz`.

    Returns:
        uint8 (n, 28, 28, 1).

    Raises:
        DataError: the file is missing, truncated, or not such a file.
    """
    content = _read(path)
    count, rows, columns = _read_header(path, content, ">IIII", IMAGES_MAGIC, "images")
    if (rows, columns) != (SIDE, SIDE):
        raise DataError(f"{path}: images are {rows}×{columns}, expected {SIDE}×{SIDE}")
    pixels = _read_body(path, content, 16, count * SIDE * SIDE, f"{count} images")
    return pixels.reshape(count, SIDE, SIDE, 1)


def read_idx_labels(path: Path) -> NDArray[np.int64]:
    """Reads labels from 0 to 9 from an IDX file, gzipped if its name ends in `.gz`.

    Returns:
        int64 (n,).

    Raises:
        DataError: the file is missing, truncated, or not such a file.
    """
    content = _read(path)
    (count,) = _read_header(path, content, ">II", LABELS_MAGIC, "labels")
    labels = _read_body(path, content, 8, count, f"{count} labels")
    if count and labels.max() >= CLASSES:
        raise DataError(f"{path}: found label {labels.max()}, expected 0 to {CLASSES - 1}")
    return labels.astype(np.int64)


def read_labelled_images(
    images_path: Path, labels_path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Reads images and the labels that go with them.

    Returns:
        uint8 (n, 28, 28, 1) and int64 (n,).

    Raises:
        DataError: a file cannot be read, or their counts differ.
    """
    images, labels = read_idx_images(images_path), read_idx_labels(labels_path)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images and {labels_path} {len(labels)} labels; "
            "expected as many of each: take both files from the same data set"
        )
    return images, labels


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: not a whole gzip file ({error}); delete it and fetch it again"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _read_header(path: Path, content: bytes, layout: str, magic: int, kind: str) -> tuple[int, ...]:
    size = struct.calcsize(layout)
    if len(content) < size:
        raise DataError(f"{path}: {len(content)} bytes, expected an IDX header of {size}")
    found, *sizes = struct.unpack(layout, content[:size])
    if found != magic:
        raise DataError(f"{path}: magic number is {found}, expected {magic} (IDX {kind})")
    return tuple(sizes)


def _read_body(path: Path, content: bytes, start: int, size: int, what: str) -> NDArray[np.uint8]:
    found = len(content) - start
    if found != size:
        raise DataError(
            f"{path}: {found} bytes follow the header, expected {size} for the {what} it "
            "announces; fetch the file again"
        )
    return np.frombuffer(content, np.uint8, offset=start)

"""IDX, the file format of MNIST and its kin.

Big-endian: images are `>IIII` = 2051, count, rows, columns, then one byte a pixel; labels are
`>II` = 2049, count, then one byte each. Source: the MNIST page of LeCun, Cortes and Burges.
"""

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemline.errors import DataError
from hemline.files import read_regular, require_size, sha256_of
from hemline.limits import DATA_BYTES

SIDE = 28
CLASSES = 10
IMAGES_MAGIC = 2051
LABELS_MAGIC = 2049


def read_idx_images(path: Path, sha256: str | None = None) -> NDArray[np.uint8]:
    """Reads 28×28 grey images from an IDX file, gzipped if its name ends in `.gz`.

    Args:
        path: the file.
        sha256: that it must have; None: any.

    Returns:
        uint8 (n, 28, 28, 1).

    Raises:
        DataError: the file is missing, truncated, or not such a file.
    """
    content = _read(path, sha256)
    count, rows, columns = _read_header(path, content, ">IIII", IMAGES_MAGIC, "images")
    if (rows, columns) != (SIDE, SIDE):
        raise DataError(f"{path}: images are {rows}×{columns}, expected {SIDE}×{SIDE}")
    pixels = _read_body(path, content, 16, count * SIDE * SIDE, f"{count} images")
    return pixels.reshape(count, SIDE, SIDE, 1)


def read_idx_labels(path: Path, sha256: str | None = None) -> NDArray[np.int64]:
    """Reads labels from 0 to 9 from an IDX file, gzipped if its name ends in `.gz`.

    Args:
        path: the file.
        sha256: that it must have; None: any.

    Returns:
        int64 (n,).

    Raises:
        DataError: the file is missing, truncated, or not such a file.
    """
    content = _read(path, sha256)
    (count,) = _read_header(path, content, ">II", LABELS_MAGIC, "labels")
    labels = _read_body(path, content, 8, count, f"{count} labels")
    if count and labels.max() >= CLASSES:
        raise DataError(f"{path}: found label {labels.max()}, expected 0 to {CLASSES - 1}")
    return labels.astype(np.int64)


def read_labelled_images(
    images_path: Path, labels_path: Path, sha256: tuple[str | None, str | None] = (None, None)
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Reads images and the labels that go with them.

    Args:
        images_path: the images' file.
        labels_path: the labels'.
        sha256: that each must have; None: any.

    Returns:
        uint8 (n, 28, 28, 1) and int64 (n,).

    Raises:
        DataError: a file cannot be read, or their counts differ.
    """
    images = read_idx_images(images_path, sha256[0])
    labels = read_idx_labels(labels_path, sha256[1])
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images and {labels_path} {len(labels)} labels; "
            "expected as many of each: take both files from the same data set"
        )
    return images, labels


def require_sha256(path: Path, found: str, expected: str) -> None:
    """Raises unless a file's SHA-256 is the published one.

    Raises:
        DataError: it is another.
    """
    if found != expected:
        raise DataError(
            f"{path} is damaged or not the published file: its SHA-256 begins {found[:12]}, "
            f"expected {expected[:12]}; delete it and fetch it again"
        )


def _read(path: Path, sha256: str | None) -> bytes:
    content = read_regular(path, DATA_BYTES, DataError)
    if sha256 is not None:
        require_sha256(path, sha256_of(content), sha256)
    if path.suffix != ".gz":
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as archive:
            unpacked = archive.read(DATA_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: not a whole gzip file ({error}); delete it and fetch it again"
        ) from error
    require_size(path, len(unpacked), DATA_BYTES, DataError)
    return unpacked


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

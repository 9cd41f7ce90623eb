import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from hemline.errors import DataError
from hemline_train import idx
from hemline_train.idx import read_idx_images, read_idx_labels, read_labelled_images

PIXELS = bytes(range(256)) * 6 + bytes(32)
IMAGES = struct.pack(">IIII", 2051, 2, 28, 28) + PIXELS
LABELS = struct.pack(">II", 2049, 2) + b"\x09\x00"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["images.gz", "images"])
def test_images_are_read(tmp_path: Path, name: str) -> None:
    images = read_idx_images(write(tmp_path / name, IMAGES))
    assert images.shape == (2, 28, 28, 1)
    assert images.dtype == np.uint8
    assert images[0, 1, 2, 0] == 30
    assert images.tobytes() == PIXELS


def test_labels_are_read(tmp_path: Path) -> None:
    labels = read_idx_labels(write(tmp_path / "labels.gz", LABELS))
    assert labels.dtype == np.int64
    assert labels.tolist() == [9, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LABELS + bytes(8), r"magic number is 2049, expected 2051 \(IDX images\)"),
        (IMAGES[:-1], r"1567 bytes follow the header, expected 1568 for the 2 images"),
        (IMAGES + b"\0", r"1569 bytes follow the header, expected 1568"),
        (struct.pack(">IIII", 2051, 2, 32, 28), r"images are 32×28, expected 28×28"),
        (IMAGES[:15], r"15 bytes, expected an IDX header of 16"),
        (b"", r"0 bytes, expected an IDX header"),
    ],
)
def test_bad_images_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_idx_images(write(tmp_path / "images.gz", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGES, r"magic number is 2051, expected 2049 \(IDX labels\)"),
        (struct.pack(">II", 2049, 3) + b"\1\2", r"2 bytes follow the header, expected 3"),
        (struct.pack(">II", 2049, 2) + b"\1\x0a", r"found label 10, expected 0 to 9"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_idx_labels(write(tmp_path / "labels.gz", content))


@pytest.mark.parametrize(
    "damaged",
    [
        gzip.compress(IMAGES)[:-9],
        gzip.compress(IMAGES)[:5],
        gzip.compress(IMAGES)[:-8] + bytes(8),
        gzip.compress(IMAGES)[:12] + b"\xff" * 40,
        IMAGES,
    ],
    ids=["truncated", "header only", "wrong check sum", "broken deflate", "not gzip"],
)
def test_a_damaged_gzip_file_is_one_clear_line(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"images\.gz: not a whole gzip file") as caught:
        read_idx_images(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.gz: No such file"):
        read_idx_labels(tmp_path / "none.gz")


def test_counts_must_agree(tmp_path: Path) -> None:
    images = write(tmp_path / "images", IMAGES)
    labels = write(tmp_path / "labels", struct.pack(">II", 2049, 1) + b"\1")
    with pytest.raises(DataError, match=r"holds 2 images and .* 1 labels"):
        read_labelled_images(images, labels)


def test_what_was_hashed_is_what_is_read(tmp_path: Path) -> None:
    content = struct.pack(">II", 2049, 2) + bytes([3, 4])
    path = tmp_path / "labels"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert read_idx_labels(path, digest).tolist() == [3, 4]
    with pytest.raises(DataError, match=r"labels is damaged or not the published file"):
        read_idx_labels(path, "ab" * 32)


def test_a_file_that_is_unpacked_to_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idx, "DATA_BYTES", 1 << 20)
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(bytes(2 << 20)))
    with pytest.raises(DataError, match=r"labels\.gz has 1,048,577 bytes; at most 1,048,576"):
        read_idx_labels(path)

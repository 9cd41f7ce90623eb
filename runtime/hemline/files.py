"""Files written whole or not at all, and their SHA-256."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hemline.errors import OutputError


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder inside `folder`, which is made if need be; deleted at the end.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".hemline-", dir=folder))
    except OSError as error:
        raise OutputError(
            f"cannot write in {folder}: {error.strerror}; choose a writable folder"
        ) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path, and moves what was written there onto `path`.

    Works for a file and for a directory (a Core ML package is one). If the block raises,
    `path` stays as it was and nothing is left behind.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    with staging(path.parent) as scratch:
        written = scratch / path.name
        try:
            yield written
            _sync(written)
            if path.is_dir() and not path.is_symlink():
                path.rename(scratch / "replaced")
            written.replace(path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, or of a directory's sorted relative paths and contents."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file_path in _files_below(path):
        relative = file_path.relative_to(path).as_posix()
        digest.update(f"{relative}\0{sha256(file_path)}\n".encode())
    return digest.hexdigest()


def size_bytes(path: Path) -> int:
    """Returns the size of a file, or of all files below a directory."""
    return sum(file.stat().st_size for file in (_files_below(path) if path.is_dir() else [path]))


def _files_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _sync(path: Path) -> None:
    for file_path in _files_below(path) if path.is_dir() else [path]:
        with file_path.open("rb") as file:
            os.fsync(file.fileno())

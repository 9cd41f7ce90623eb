"""Files written whole or not at all, and their SHA-256."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from hemline.errors import OutputError

_CHUNK_BYTES = 1 << 18
_FULL = (errno.ENOSPC, errno.EDQUOT)
# hashlib loads OpenSSL, which takes 3 ms and 4 MB and then does 1 MiB in 3 ms less than CPython's
# own module, which its `random` uses for the same reason.
_OWN_MODULE = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
_OPENSSL_PAYS_BYTES = 1 << 20


@contextmanager
def staging(folder: Path, prefix: str = ".hemline-") -> Iterator[Path]:
    """Gives a temporary folder inside `folder`, which is made if need be; deleted at the end.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    # Only what writes needs these, and a process that only predicts is to start fast.
    import shutil
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
    except OSError as error:
        raise describe_failure(folder, error) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path, and moves what was written there onto `path`.

    Works for a file and for a directory (a Core ML package is one). If the block raises,
    `path` stays as it was and nothing is left behind. If the process is killed, `path` is the old
    file or the new one; a directory may be gone, so the ones that count are replaced by
    `hemline.commit`.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    with staging(path.parent) as scratch:
        written = scratch / path.name
        try:
            yield written
            sync(written)
            if path.is_dir() and not path.is_symlink():
                path.rename(scratch / "replaced")
            written.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            raise describe_failure(path, error) from error


def describe_failure(path: Path, error: Exception) -> OutputError:
    """Returns the error to raise where a file or folder could not be written."""
    reason = getattr(error, "strerror", None) or error
    if is_full(error):
        import shutil
        import tempfile

        folder = path if path.is_dir() else path.parent
        places = sorted({folder, Path(tempfile.gettempdir())})
        free = ", ".join(f"{shutil.disk_usage(place).free:,} in {place}" for place in places)
        return OutputError(
            f"cannot write {path}: {os.strerror(errno.ENOSPC)}; bytes free: {free}; make room, or "
            "choose another folder"
        )
    if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
        return OutputError(f"cannot write in {path}: {reason}; choose a writable folder")
    return OutputError(f"cannot write {path}: {reason}")


def is_full(error: BaseException | None) -> bool:
    """Tells whether a full disk is behind an error, whichever library passes it on."""
    while error is not None:
        # Not all libraries keep the number, but the text is the system's own.
        if getattr(error, "errno", None) in _FULL or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, or of a directory's sorted relative paths and contents."""
    digest = _new_sha256(size_bytes(path))
    if not path.is_dir():
        with path.open("rb") as file:
            while content := file.read(_CHUNK_BYTES):
                digest.update(content)
        return str(digest.hexdigest())
    for file_path in _files_below(path):
        relative = file_path.relative_to(path).as_posix()
        digest.update(f"{relative}\0{sha256(file_path)}\n".encode())
    return str(digest.hexdigest())


def sha256_of(content: bytes) -> str:
    """Returns the SHA-256 of bytes."""
    digest = _new_sha256(len(content))
    digest.update(content)
    return str(digest.hexdigest())


def size_bytes(path: Path) -> int:
    """Returns the size of a file, or of all files below a directory."""
    return sum(file.stat().st_size for file in (_files_below(path) if path.is_dir() else [path]))


def _new_sha256(count: int) -> Any:
    """Returns a SHA-256 that is to take `count` bytes."""
    if count < _OPENSSL_PAYS_BYTES:
        with suppress(ImportError):
            return import_module(_OWN_MODULE).sha256()
    return import_module("hashlib").sha256()


def _files_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def sync(path: Path) -> None:
    """Waits until a file, or a directory with all that is below it, is on the disk."""
    for file_path in _files_below(path) if path.is_dir() else [path]:
        with file_path.open("rb") as file:
            os.fsync(file.fileno())
    for folder in (folder for folder in [path, *path.rglob("*")] if folder.is_dir()):
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Waits until a folder's names are on the disk, where the system can."""
    # Windows opens no folders, and some file systems sync none.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

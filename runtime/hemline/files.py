"""Files read within limits, and written whole or not at all; their SHA-256."""

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from hemline.errors import HemlineError, ModelFileError, OutputError
from hemline.limits import MODEL_BYTES, PACKAGE_FILES

_CHUNK_BYTES = 1 << 18
_FULL = (errno.ENOSPC, errno.EDQUOT)
# hashlib loads OpenSSL, which takes 3 ms and 4 MB and then does 1 MiB in 3 ms less than CPython's
# own module, which its `random` uses for the same reason.
_OWN_MODULE = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
_OPENSSL_PAYS_BYTES = 1 << 20
# A pipe would block whoever opens it, until somebody writes.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(
    path: Path, most_bytes: int, error: type[HemlineError] = ModelFileError
) -> BinaryIO:
    """Opens an ordinary file to read, and no pipe, device or folder.

    Args:
        path: the file.
        most_bytes: how large it may be: one of `hemline.limits`.
        error: what to raise.

    Raises:
        HemlineError: of the kind asked for: it is not there, is none, is too large or unreadable.
    """
    try:
        # Looked at first, since opening alone may act on a device.
        require_regular(path, path.stat().st_mode, error)
        file = os.fdopen(os.open(path, _OPEN), "rb")
        found = os.fstat(file.fileno())
    except (OSError, ValueError) as failure:
        raise error(describe_unread(path, failure)) from failure
    try:
        require_regular(path, found.st_mode, error)
        require_size(path, found.st_size, most_bytes, error)
    except HemlineError:
        file.close()
        raise
    return file


def read_regular(path: Path, most_bytes: int, error: type[HemlineError] = ModelFileError) -> bytes:
    """Returns an ordinary file's content.

    Args and errors are those of `open_regular`.
    """
    with open_regular(path, most_bytes, error) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            content = file.read(size + 1)
        except (OSError, MemoryError) as failure:
            raise error(describe_unread(path, failure)) from failure
    if len(content) != size:
        raise error(f"{path} was changed while it was being read; try again")
    return content


def copy_regular(source: Path, target: Path, most_bytes: int) -> None:
    """Copies an ordinary file's content to a new file.

    Args:
        source: the file.
        target: where nothing is yet.
        most_bytes: how large it may be.

    Raises:
        ModelFileError: as `open_regular`.
        OSError: the target cannot be written.
    """
    with open_regular(source, most_bytes) as file, target.open("xb") as copy:
        left = os.fstat(file.fileno()).st_size
        while content := file.read(min(_CHUNK_BYTES, left)):
            copy.write(content)
            left -= len(content)


def require_regular(path: Path, mode: int, error: type[HemlineError] = ModelFileError) -> None:
    """Raises unless a mode, as `os.stat` gives it, is that of an ordinary file."""
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a folder"
        raise error(f"{path} is {kind}, expected an ordinary file")


def require_size(
    path: Path, size: int, most_bytes: int, error: type[HemlineError] = ModelFileError
) -> None:
    """Raises if a file is larger than what is read of its kind."""
    if size > most_bytes:
        raise error(f"{path} has {size:,} bytes; at most {most_bytes:,} are read of such a file")


def describe_unread(path: Path, failure: Exception) -> str:
    """Returns what to say of a file that the system does not give."""
    reason = getattr(failure, "strerror", None) or str(failure) or type(failure).__name__
    return f"cannot read {path}: {reason}"


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
    """Writes a file, whole or not at all; where a link leads, and with the mode that it has.

    What is written to a pipe, a terminal or another character device goes through it.

    Raises:
        OutputError: `require_writable` refuses it, or the system does.
    """
    found = require_writable(path)
    try:
        if found is None or stat.S_ISREG(found.st_mode):
            _replace_file(Path(os.path.realpath(path)), content, found)
            return
        with os.fdopen(os.open(path, os.O_WRONLY), "wb") as device:
            device.write(content)
    except OSError as error:
        raise describe_failure(path, error) from error


def require_writable(path: Path) -> os.stat_result | None:
    """Raises unless a file can be written there: a new one, a file, a pipe or a character device.

    Returns:
        What is there now, links followed; None for a new file.

    Raises:
        OutputError: it is a folder or something else, or must not be written.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not os.access(folder, os.W_OK):
            raise OutputError(
                f"cannot write in {folder}: it is write-protected; choose a writable folder"
            ) from None
        return None
    except (OSError, ValueError) as error:
        raise describe_failure(path, error) from error
    kinds = (stat.S_ISREG, stat.S_ISFIFO, stat.S_ISCHR)
    if not any(is_kind(found.st_mode) for is_kind in kinds):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "neither a file nor a pipe"
        raise OutputError(f"cannot write {path}: it is {kind}; name a file")
    if not os.access(path, os.W_OK):
        raise OutputError(f"cannot write {path}: it is write-protected; name another file")
    return found


def _replace_file(path: Path, content: bytes, found: os.stat_result | None) -> None:
    for descriptor in (1, 2):
        # /dev/stdout, sent to a file: whoever else writes there goes on doing so.
        with suppress(OSError):
            if found is not None and os.path.samestat(os.fstat(descriptor), found):
                with os.fdopen(os.dup(descriptor), "wb") as stream:
                    stream.write(content)
                return
    with staging(path.parent) as scratch:
        written = scratch / path.name
        written.write_bytes(content)
        if found is not None:
            # Only root gives files away.
            with suppress(OSError, AttributeError):
                os.chown(written, found.st_uid, found.st_gid)
            written.chmod(stat.S_IMODE(found.st_mode))
        sync(written)
        written.replace(path)
        sync_folder(path.parent)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, or of a directory's sorted relative paths and contents.

    Raises:
        ModelFileError: it is too large, unreadable or no ordinary file.
    """
    if not path.is_dir():
        with open_regular(path, MODEL_BYTES) as file:
            left = os.fstat(file.fileno()).st_size
            digest = _new_sha256(left)
            while content := file.read(min(_CHUNK_BYTES, left)):
                digest.update(content)
                left -= len(content)
        return str(digest.hexdigest())
    require_size(path, size_bytes(path), MODEL_BYTES)
    digest = _new_sha256(0)
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
    """Returns the size of a file, or of all files below a directory.

    Raises:
        ModelFileError: it cannot be looked at, or the directory holds too much for a package.
    """
    try:
        files = _files_below(path) if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files)
    except OSError as error:
        raise ModelFileError(describe_unread(path, error)) from error


def _new_sha256(count: int) -> Any:
    """Returns a SHA-256 that is to take `count` bytes."""
    if count < _OPENSSL_PAYS_BYTES:
        with suppress(ImportError):
            return import_module(_OWN_MODULE).sha256()
    return import_module("hashlib").sha256()


def _files_below(folder: Path) -> list[Path]:
    return sorted(file for file in list_package(folder) if file.is_file())


def list_package(folder: Path) -> list[Path]:
    """Returns all that is below a folder.

    Raises:
        ModelFileError: that is more than any package holds.
    """
    found = list(islice(folder.rglob("*"), PACKAGE_FILES + 1))
    if len(found) > PACKAGE_FILES:
        raise ModelFileError(
            f"{folder} holds more than {PACKAGE_FILES:,} files and folders, which no package does"
        )
    return found


def sync(path: Path) -> None:
    """Waits until a file, or a directory with all that is below it, is on the disk."""
    below = [path, *path.rglob("*")] if path.is_dir() else [path]
    for file_path in (file_path for file_path in below if not file_path.is_dir()):
        with file_path.open("rb") as file:
            os.fsync(file.fileno())
    for folder in (folder for folder in below if folder.is_dir()):
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

"""Several files of a folder replaced as one, by one process at a time.

A folder cannot be replaced by one rename while other files live in it, and exchanging two folders
(renameat2) is Linux's own. So new files are made in a staging folder inside the folder, written
through to the disk, and count from the moment at which the staging folder is renamed to
`.hemline-commit`: one rename, which a killed process has done or has not. Then each file is moved
from there to its place. Whatever still lies in `.hemline-commit` goes before the file of the same
name in the folder; so at any moment either all old files are there or all new ones. Whoever
writes or reads the folder next moves the rest. Where that is not allowed, on a read-only medium,
`newest` finds each file where it lies.

An empty file in `.hemline-commit` stands for the removal of the file of that name.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from hemline.errors import OutputError
from hemline.files import describe_failure, is_full, staging, sync, sync_folder

PENDING = ".hemline-commit"
_LOCK = ".hemline-lock"
_STAGE = ".hemline-stage-"


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Gives a staging folder inside `folder`, which no other process may write meanwhile.

    Completes a commit that a killed process left, and deletes what else it left. A full disk is
    reported as such, whoever noticed it.

    Raises:
        OutputError: the folder cannot be made or written, or another process is writing it.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(folder))
            _move_pending(folder)
            for leftover in folder.glob(f"{_STAGE}*"):
                _remove(leftover)
        except OSError as error:
            raise describe_failure(folder, error) from error
        stage = stack.enter_context(staging(folder, _STAGE))
        try:
            yield stage
        except Exception as error:
            if is_full(error) and not isinstance(error, OutputError):
                raise describe_failure(folder, error) from error
            raise


def commit(stage: Path, folder: Path, *, remove: Iterable[str] = ()) -> None:
    """Replaces files of `folder` by those in `stage`, all or none.

    Args:
        stage: a folder that `writing` gave, or one inside it.
        folder: what `writing` was given.
        remove: names of files that go with the old ones.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        for name in remove:
            if (folder / name).exists() and not (stage / name).exists():
                (stage / name).touch()
        sync(stage)
        stage.rename(folder / PENDING)
        sync_folder(folder)
        _move_pending(folder)
    except OSError as error:
        raise describe_failure(folder, error) from error


def newest(path: Path) -> Path:
    """Returns where a file's newest complete version lies, which is `path` but for read-only media.

    Completes the commit that a killed process left in its folder, if there is one.
    """
    pending = path.parent / PENDING
    if not _is_own_folder(pending):
        return path
    # Not on read-only media, and not while the process that commits is at it.
    with suppress(OSError, OutputError), _locked(path.parent):
        _move_pending(path.parent)
    waiting = pending / path.name
    return waiting if waiting.exists() else path


def _move_pending(folder: Path) -> None:
    pending = folder / PENDING
    if not _is_own_folder(pending):
        return
    for new in sorted(pending.iterdir()):
        old = folder / new.name
        if new.is_dir() or old.is_dir():
            _remove(old)
        if new.is_file() and new.stat().st_size == 0:
            _remove(old)
            new.unlink()
        else:
            new.replace(old)
    sync_folder(folder)
    pending.rmdir()


def _is_own_folder(path: Path) -> bool:
    # In a folder from anywhere, a link might have files of another place moved.
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a folder's lock file, which the system lets go of when the process dies.

    Raises:
        OutputError: another process holds it.
        OSError: it cannot be made.
    """
    path = folder / _LOCK
    while True:
        # Not through a link: a folder from anywhere might have one.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(path, flags, 0o666), "r+")
        try:
            _lock(file)
        except OSError as error:
            file.close()
            raise OutputError(
                f"{folder} is being written by another process: wait until it is done, or choose "
                "another folder"
            ) from error
        # The last holder may have deleted the file between the two lines above.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()
    try:
        yield
    finally:
        # Windows deletes no open file; one that is left over does no harm.
        with suppress(OSError):
            path.unlink()
        file.close()


def _lock(file: IO[str]) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

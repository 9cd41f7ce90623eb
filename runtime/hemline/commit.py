"""Several files of a folder replaced as one, by one process at a time.

A folder cannot be replaced by one rename while other files live in it, and exchanging two folders
(renameat2) is Linux's own. So new files are made in a staging folder inside the folder, written
through to the disk with a journal of what they are, and count from the moment at which the staging
folder is renamed to `.hemline-commit`: one rename, which a killed process has done or has not. Then
each file is moved from there to its place.

So at any moment either all old files are there or all new ones. A reader moves nothing: `newest`
says where a file lies. The next writer moves the rest, by the journal, which names each file with
the SHA-256 that it has and that of what it replaces. A `.hemline-commit` that says otherwise than
its journal, or would take the place of anything else, is nobody's order: it stays as it is, and the
writer says so.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from hemline.errors import HemlineError, OutputError
from hemline.files import describe_failure, is_full, sha256, staging, sync, sync_folder
from hemline.paths import require_ordinary

if TYPE_CHECKING:
    from hemline.journal import Move

PENDING = ".hemline-commit"
# `hemline.journal` has it; not imported by what only reads, as it rarely finds one.
_JOURNAL = ".hemline-journal.json"
_LOCK = ".hemline-lock"
_STAGE = ".hemline-stage-"
# Before the name of what a package took the place of, until that is deleted.
_REPLACED = ".hemline-replaced-"


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Gives a staging folder inside `folder`, which no other process may write meanwhile.

    Completes a commit that a killed process left, and deletes what else it left. A full disk is
    reported as such, whoever noticed it.

    Raises:
        OutputError: the folder cannot be made or written, another process is writing it, or holds
            a commit that is none of Hemline's.
    """
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_locked(folder))
            _complete(folder)
            for leftover in folder.glob(f"{_STAGE}*"):
                _delete_stage(leftover)
        except OSError as error:
            raise describe_failure(folder, error) from error
        stage = stack.enter_context(staging(folder, _STAGE))
        # So that what is deleted as a killed process's stage was one.
        (stage / _JOURNAL).touch()
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
        remove: names of files that go with the old ones, if Hemline made them.

    Raises:
        OutputError: the folder cannot be written, or holds something of one of these names that
            Hemline did not make.
    """
    from hemline.journal import Journal, Move, write_journal
    from hemline.ownership import is_free, is_ours

    names = sorted(path.name for path in stage.iterdir() if path.name != _JOURNAL)
    require_room(folder, names, stage)
    try:
        moves = [
            Move(name=name, sha256=sha256(stage / name), replaces=_sha256_of_any(folder / name))
            for name in names
        ]
        for name in sorted(set(remove) - set(names)):
            path = folder / name
            if not is_free(path) and is_ours(path):
                moves.append(Move(name=name, sha256=None, replaces=sha256(path)))
        write_journal(stage, Journal(moves=tuple(moves)))
        sync(stage)
        stage.rename(folder / PENDING)
        sync_folder(folder)
        _complete(folder)
    except OSError as error:
        raise describe_failure(folder, error) from error


def require_room(folder: Path, names: Iterable[str], stage: Path | None = None) -> None:
    """Raises if a commit of these names would replace what Hemline did not make.

    Args:
        folder: where they go.
        names: of files and packages.
        stage: where the new ones lie; one that is equal to what is there may replace it.

    Raises:
        OutputError: it would.
    """
    from hemline.ownership import is_free, require_replaceable

    for name in names:
        path = folder / name
        if stage is not None and not is_free(path) and not path.is_symlink() and path.is_file():
            with suppress(HemlineError):
                if sha256(path) == sha256(stage / name):
                    continue
        require_replaceable(path)


def newest(path: Path) -> Path:
    """Returns where a file's newest complete version lies; nothing lies there if it was removed.

    That is `path`, unless a commit was cut short in its folder, which this does not complete.
    """
    pending = path.parent / PENDING
    # In a folder from anywhere, a link might lead to files of another place.
    if not pending.is_dir() or pending.is_symlink():
        return path
    from hemline.journal import read_journal

    try:
        moves = {move.name: move for move in read_journal(pending).moves}
    except HemlineError:
        return path
    move, waiting = moves.get(path.name), pending / path.name
    if move is None or waiting.is_symlink() or (move.sha256 is not None and not waiting.exists()):
        return path
    return waiting


def _complete(folder: Path) -> None:
    """Does what is left to do of a commit, if there is one.

    Raises:
        OutputError: it is none of Hemline's.
    """
    pending = folder / PENDING
    if pending.is_symlink() or not pending.is_dir():
        if pending.is_symlink() or pending.exists():
            raise OutputError(f"{pending} is no commit of Hemline's: move it away")
        return
    if not any(pending.iterdir()):
        pending.rmdir()
        return
    from hemline.journal import read_journal

    try:
        moves = read_journal(pending).moves
        todo = [move for move in moves if _is_to_do(folder, pending, move)]
        known = {_JOURNAL, *(prefix + m.name for m in moves for prefix in ("", _REPLACED))}
        unknown = sorted(path.name for path in pending.iterdir() if path.name not in known)
        if unknown:
            raise OutputError(f"its journal does not name {', '.join(unknown[:3])}")
    except HemlineError as error:
        raise OutputError(
            f"{pending} is no commit of Hemline's, or was changed ({error}): move it away"
        ) from error
    for move in todo:
        old, new, replaced = _places(folder, pending, move)
        # A package is moved out of the way first, as no rename replaces a folder.
        if old.exists() and (move.sha256 is None or old.is_dir() or new.is_dir()):
            old.rename(replaced)
        if move.sha256 is not None:
            new.replace(old)
    sync_folder(folder)
    for move in moves:
        _delete(_places(folder, pending, move)[2])
    (pending / _JOURNAL).unlink()
    pending.rmdir()


def _places(folder: Path, pending: Path, move: "Move") -> tuple[Path, Path, Path]:
    """Returns where a move goes, where from, and where what was there waits to be deleted."""
    return folder / move.name, pending / move.name, pending / (_REPLACED + move.name)


def _is_to_do(folder: Path, pending: Path, move: "Move") -> bool:
    """Tells whether a move was not made yet, and that it may be.

    Raises:
        HemlineError: what is to go, or what is in its place, is not what the journal says.
    """
    from hemline.ownership import require_package

    places = old, new, _ = _places(folder, pending, move)
    for path in places:
        if path.is_symlink():
            raise OutputError(f"{path} is a link")
        if path.is_dir():
            require_package(path)
    if move.sha256 is not None:
        if not new.exists():
            return False
        if sha256(new) != move.sha256:
            raise OutputError(f"{move.name} has another SHA-256 than its journal says")
    found = _sha256_of_any(old)
    if move.sha256 is None:
        # Whatever else is there by now is not what was to go.
        return found is not None and found == move.replaces
    if found not in (None, move.replaces, move.sha256):
        raise OutputError(f"{old} is not what it was to replace")
    return True


def _sha256_of_any(path: Path) -> str | None:
    """Returns the SHA-256 of what has a name; None if nothing has."""
    if not path.exists():
        return None
    require_ordinary(path)
    return sha256(path)


def _delete_stage(path: Path) -> None:
    """Deletes what a killed process left of its stage, and no other folder of such a name."""
    if path.is_dir() and not path.is_symlink():
        if (path / _JOURNAL).is_file():
            _delete(path)
        else:
            # Killed before it marked the folder as its own, if that is empty.
            with suppress(OSError):
                path.rmdir()


def _delete(path: Path) -> None:
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
        # Not through a link: a folder from anywhere might have one; nor waiting for a pipe.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        file = os.fdopen(os.open(path, flags, 0o666), "rb+", buffering=0)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OutputError(f"{path} is no ordinary file: move it away")
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


def _lock(file: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

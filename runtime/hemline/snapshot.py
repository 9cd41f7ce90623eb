"""A model file read once: what its SHA-256 is of is what is opened.

The content of a file goes to its engine as bytes. What an engine must read by itself, a package or
a Keras file, is copied to a folder that only this user can enter, and hashed and opened there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemline.commit import newest
from hemline.errors import ChecksumError, HemlineError, ModelFileError
from hemline.files import (
    copy_regular,
    list_package,
    read_regular,
    require_size,
    sha256,
    sha256_of,
    size_bytes,
)
from hemline.limits import MODEL_BYTES
from hemline.paths import require_ordinary

if TYPE_CHECKING:
    from hemline.engines import Engine
    from hemline.engines.structure import FileStructure
    from hemline.listing import Listed


class Snapshot:
    """One reading of a model file or package.

    Args:
        path: where it lies.
        engine: the class that is to open it.
        listed: what its manifest says of it, if one does: its size is compared before it is read.

    Attributes:
        path: the file as it was named.
        opened: what an engine reads that takes no bytes; lasts as long as the snapshot.
        content: what an engine gets that takes bytes; None otherwise.
        sha256: of what was read.
        size_bytes: of the file, or of all files of a package.

    Raises:
        ModelFileError: there is no such file, it is no ordinary one, or too large.
        ChecksumError: it is not the one that its manifest records.
    """

    def __init__(self, path: Path, engine: type[Engine], listed: Listed | None = None) -> None:
        file = newest(path)
        self.path = self.opened = path
        self.content: bytes | None = None
        if listed is not None:
            require_listed_size(path, file, listed.size_bytes)
        if engine.takes_bytes:
            self.content = read_regular(file, MODEL_BYTES)
            self.size_bytes, self.sha256 = len(self.content), sha256_of(self.content)
        else:
            self.opened = self._copy(file)
            self.size_bytes, self.sha256 = size_bytes(self.opened), sha256(self.opened)
        if listed is not None:
            require_sha256(path, self.sha256, listed.sha256)

    def open(self, engine: type[Engine], threads: int, compute_units: str | None = None) -> Engine:
        """Opens it in an engine, which then holds the content alone.

        Raises:
            EngineUnavailableError: the engine is not for this system.
            ModelFileError: it refuses the file.
        """
        given: dict[str, Any] = {} if compute_units is None else {"compute_units": compute_units}
        if engine.takes_bytes:
            given["content"], self.content = self.content, None
        with self._naming():
            return engine(self.opened, threads, **given)

    def structure(self, engine: type[Engine]) -> FileStructure:
        """Reads its structure.

        Raises:
            EngineUnavailableError: a package that reads this kind of file is not installed.
            ModelFileError: it is not such a file.
        """
        with self._naming():
            return engine.structure(self.opened, self.content)

    def read_facts(self, engine: type[Engine]) -> bytes | None:
        """Returns the facts document inside it, or None if it has none.

        Raises: as `structure`.
        """
        with self._naming():
            return engine.read_facts(self.opened, self.content)

    def _copy(self, file: Path) -> Path:
        # A process that only predicts needs none of these.
        import shutil
        import tempfile
        import weakref

        require_ordinary(file)
        require_size(file, size_bytes(file), MODEL_BYTES)
        try:
            folder = Path(tempfile.mkdtemp(prefix="hemline-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            target = folder / self.path.name
            if not file.is_dir():
                copy_regular(file, target, MODEL_BYTES)
                return target
            for inner in [file, *sorted(list_package(file))]:
                place = target / inner.relative_to(file)
                if inner.is_dir() and not inner.is_symlink():
                    place.mkdir()
                else:
                    copy_regular(inner, place, MODEL_BYTES)
        except OSError as error:
            raise ModelFileError(f"cannot copy {file}, to read it there: {error}") from error
        return target

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Has errors name the file as it was named, and not its copy."""
        try:
            yield
        except HemlineError as error:
            copy = os.fspath(self.opened)
            if self.opened == self.path or copy not in str(error):
                raise
            raise type(error)(str(error).replace(copy, os.fspath(self.path))) from error


def check_listed(path: Path, listed: Listed) -> None:
    """Raises unless a file or package is byte for byte the one that its manifest records.

    Raises:
        ModelFileError: there is no such file, or no ordinary one.
        ChecksumError: its size or content differs.
    """
    file = newest(path)
    require_listed_size(path, file, listed.size_bytes)
    require_sha256(path, sha256(file), listed.sha256)


def require_listed_size(path: Path, file: Path, expected: int) -> None:
    """Raises unless a file has the size that its manifest records, which takes no reading.

    Args:
        path: the file as it is named.
        file: where it lies.
        expected: in bytes.

    Raises:
        ModelFileError: there is no such file, or no ordinary one.
        ChecksumError: it has another size.
    """
    if not file.exists():
        raise ModelFileError(f"{path} is named in its manifest, but is not there; export again")
    require_ordinary(file)
    found = size_bytes(file)
    if found != expected:
        raise ChecksumError(
            f"{path} has {found:,} bytes, its manifest says {expected:,}; the file was changed "
            "after the export: restore it, or delete it and export again"
        )


def require_sha256(path: Path, found: str, expected: str) -> None:
    """Raises unless the SHA-256 found of a file's content is the one that a manifest records.

    Raises:
        ChecksumError: it is another.
    """
    if found != expected:
        raise ChecksumError(
            f"{path} has SHA-256 {found[:16]}…, its manifest says {expected[:16]}…; the file was "
            "changed after the export: restore it, or delete it and export again"
        )

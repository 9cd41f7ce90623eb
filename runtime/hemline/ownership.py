"""What Hemline made, and so may replace or remove: nothing else is."""

import json
import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hemline.errors import HemlineError, ModelFileError, OutputError
from hemline.files import (
    describe_failure,
    list_package,
    open_regular,
    read_regular,
    require_writable,
    sha256,
    staging,
    sync,
    sync_folder,
)
from hemline.journal import MODELS, SUFFIXES
from hemline.limits import DATA_BYTES, DOCUMENT_BYTES, MODEL_BYTES
from hemline.paths import require_ordinary

# What every exported file holds inside: the schema of its facts or, in C source, who made it.
_MARKS = (b'"hemline.facts/', b"Made by `hemline export")
# All that a package of each kind holds, by relative path.
_PACKAGES = {
    ".mlpackage": re.compile(
        r"Manifest\.json|Data|Data/com\.apple\.CoreML|Data/com\.apple\.CoreML/"
        r"(model\.mlmodel|weights|weights/weight\.bin)"
    ),
    ".csource": re.compile(r"\w+_model\.(cc|h)"),
}
# The members of `float_predictions.npz`.
_PREDICTIONS = {"key.npy", "outputs.npy"}


def require_replaceable(path: Path) -> None:
    """Raises unless a place is free, or taken by what Hemline made.

    Raises:
        OutputError: it is somebody else's, or was changed since.
    """
    if not is_free(path) and not is_ours(path):
        raise OutputError(
            f"{path} is there already, and is nothing that Hemline made, or was changed since: "
            "move it away, or choose another folder"
        )


def require_record(path: Path) -> None:
    """Raises unless a record can be written there: `--json` and its kin, before the work begins.

    Raises:
        OutputError: as `require_writable`; or a model or an array is there.
    """
    if require_writable(path) is not None and path.suffix in (*MODELS, ".npz", ".npy"):
        raise OutputError(f"cannot write {path}: it is no record; name another file")


def is_free(path: Path) -> bool:
    """Tells whether nothing has a name, not even a link that leads nowhere."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    return False


def is_ours(path: Path) -> bool:
    """Tells whether Hemline made a file or package, by what is in it or recorded of it.

    A record has a schema of Hemline's. An exported file holds its facts, and a package nothing
    else than its kind does. What holds no word of its origin, such as a .keras file, has the
    SHA-256 that the manifest.json or training.json beside it records.
    """
    if path.suffix not in SUFFIXES:
        return False
    mode = path.lstat().st_mode
    try:
        if stat.S_ISDIR(mode):
            return _is_package(path) and (_is_marked(path) or is_recorded(path))
        if not stat.S_ISREG(mode):
            return False
        if path.suffix == ".json":
            return str(_read(path).get("schema", "")).startswith("hemline.")
        if path.suffix == ".npz":
            with open_regular(path, DATA_BYTES) as file, zipfile.ZipFile(file) as archive:
                return set(archive.namelist()) == _PREDICTIONS
        return _is_marked(path) or is_recorded(path)
    # What cannot be read, or is damaged, is not known to be ours.
    except (HemlineError, OSError, zipfile.BadZipFile):
        return False


@contextmanager
def replacing_package(path: Path) -> Iterator[Path]:
    """Gives a temporary path, and moves the package written there onto `path`.

    If the block raises, `path` stays as it was and nothing is left behind. A killed process may
    leave no package there, so those that count are replaced by `hemline.commit`.

    Raises:
        OutputError: the folder cannot be made or written, or what is there is no such package.
    """
    if not is_free(path):
        require_package(path)
    with staging(path.parent) as scratch:
        written = scratch / path.name
        try:
            yield written
            sync(written)
            if path.is_dir():
                path.rename(scratch / "replaced")
            try:
                written.replace(path)
            except OSError:
                (scratch / "replaced").rename(path)
                raise
            sync_folder(path.parent)
        except OSError as error:
            raise describe_failure(path, error) from error


def require_package(path: Path) -> None:
    """Raises unless a folder is a package: of a kind that Hemline makes, with nothing else in it.

    Raises:
        OutputError: it is another folder, or no folder.
    """
    if not _is_package(path):
        raise OutputError(f"{path} is no package such as Hemline makes, so it stays as it is")


def _is_package(path: Path) -> bool:
    pattern = _PACKAGES.get(path.suffix)
    if pattern is None or path.is_symlink() or not path.is_dir():
        return False
    try:
        require_ordinary(path)
        names = [inner.relative_to(path).as_posix() for inner in list_package(path)]
    except ModelFileError:
        return False
    return all(map(pattern.fullmatch, names))


def _is_marked(path: Path) -> bool:
    files = [path] if path.is_file() else [f for f in list_package(path) if f.is_file()]
    return any(mark in read_regular(file, MODEL_BYTES) for file in files for mark in _MARKS)


def is_recorded(path: Path) -> bool:
    """Tells whether a file has the SHA-256 that the manifest or training.json beside it records.

    Raises:
        ModelFileError: it cannot be read.
    """
    manifest = _read(path.parent / "manifest.json")
    training = _read(path.parent / "training.json")
    listed = [manifest.get("float_model"), *_list(manifest.get("artifacts"))]
    # A list, as what stands in a record from anywhere need not be hashable.
    recorded = [
        (entry.get("file"), entry.get("sha256")) for entry in listed if isinstance(entry, dict)
    ]
    recorded.append((training.get("keras_file"), training.get("keras_sha256")))
    return (path.name, sha256(path)) in recorded


def _read(path: Path) -> dict[str, Any]:
    """Returns a JSON object; an empty one if there is none to be read."""
    try:
        found = json.loads(read_regular(path, DOCUMENT_BYTES))
    except (HemlineError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

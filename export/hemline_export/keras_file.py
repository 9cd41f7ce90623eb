"""Float Keras files: opened, and held to what export can take."""

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hemline import guard
from hemline.commit import newest
from hemline.errors import ModelFileError
from hemline.files import open_regular
from hemline.limits import KERAS_BYTES, KERAS_JSON_BYTES, KERAS_MEMBERS, MODEL_BYTES
from hemline.ownership import is_recorded
from hemline.paths import require_members_inside
from hemline.snapshot import Snapshot
from hemline_export.backend import SafeModeScope, keras

# If it is 1, code inside Keras files may run. An environment variable, since a child process and
# the engine that the runtime opens by entry point must know as well.
ALLOW_LAMBDA = "HEMLINE_ALLOW_LAMBDA"


@contextmanager
def lambda_layers(allowed: bool | None = None) -> Iterator[None]:
    """Lets code inside Keras files run, or not, within the block; then all is as it was before.

    Args:
        allowed: None: if the environment variable `ALLOW_LAMBDA` is 1.
    """
    before = os.environ.get(ALLOW_LAMBDA)
    if allowed is None:
        allowed = before == "1"
    os.environ[ALLOW_LAMBDA] = "1" if allowed else "0"
    try:
        # The rewrites for export make layers anew, so it is not the loading alone that needs it.
        with SafeModeScope(safe_mode=not allowed):
            yield
    finally:
        if before is None:
            os.environ.pop(ALLOW_LAMBDA, None)
        else:
            os.environ[ALLOW_LAMBDA] = before


def open_keras(path: Path, *, trust: bool = False) -> tuple[Any, Snapshot]:
    """Opens a Keras file that may be from anywhere.

    One that no manifest.json or training.json beside it records as it is, is first opened and run
    once in a child process, as `hemline.load` does with files that no manifest lists.

    Args:
        path: the file.
        trust: opens it at once.

    Returns:
        The model as `load_keras` returns it, and what was read.

    Raises:
        ModelFileError: as `load_keras`; or the child crashed, hung or needed too much memory.
    """
    from hemline_export.keras_engine import KerasEngine

    digest = None
    file = newest(path)
    if not file.exists():
        raise ModelFileError(f"there is no Keras file {path}")
    if not trust:
        # What it refuses without opening it needs no child.
        _check_archive(file, os.environ.get(ALLOW_LAMBDA) == "1")
        if not is_recorded(file):
            digest = guard.try_file(path)
    snapshot = Snapshot(path, KerasEngine)
    if digest not in (None, snapshot.sha256):
        raise ModelFileError(f"{path} was changed while it was being opened; try again")
    return load_keras(snapshot.opened, named=path), snapshot


def load_keras(path: Path, *, named: Path | None = None) -> Any:
    """Opens a Keras 3 file as a model with one input and one output.

    Lambda layers are refused, since loading one runs code from the file, unless the environment
    variable `ALLOW_LAMBDA` is 1, as `hemline export --allow-lambda` sets it.

    Args:
        path: the file.
        named: what to call it in an error, if that is not its path.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ModelFileError: there is no such file, it is no Keras 3 file, it has Lambda layers, it is
            too large, or its input and output are not (batch, fixed sizes …) both.
    """
    named = named or path
    allowed = os.environ.get(ALLOW_LAMBDA) == "1"
    _check_archive(path, allowed, named)
    try:
        with lambda_layers(allowed):
            model = keras.saving.load_model(path, compile=False, safe_mode=not allowed)
    # Keras raises whatever the archive's config and weights run into.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(f"Keras cannot load {named}: {reason}") from error
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelFileError(
            f"{named} has {len(model.inputs)} inputs and {len(model.outputs)} outputs, "
            "expected one of each"
        )
    taken, given = model.inputs[0].shape, model.outputs[0].shape
    if None in taken[1:] or None in given[1:] or len(given) < 2:
        raise ModelFileError(
            f"{named} takes {taken} and gives {given}, expected (None, fixed sizes …) for both"
        )
    return model


def _check_archive(path: Path, lambda_allowed: bool, named: Path | None = None) -> None:
    """Looks at an archive's list of members and its config, before Keras unpacks any of it."""
    named = named or path
    with open_regular(path, MODEL_BYTES) as file:
        if not zipfile.is_zipfile(file):
            raise ModelFileError(
                f"{named} is not a Keras 3 file (a zip archive, as model.save('name.keras') writes)"
            )
        try:
            with zipfile.ZipFile(file) as archive:
                _check_members(named, archive.infolist())
                config = json.loads(archive.read("config.json"))
        except ModelFileError:
            raise
        # Keras says what is wrong with a damaged archive, in which Python finds errors of many
        # kinds, or with a config that is none.
        except Exception:
            return
    if not lambda_allowed and "Lambda" in _class_names(config):
        raise ModelFileError(
            f"{named} has Lambda layers, whose code runs when it is loaded; write them as a layer "
            "class or with keras.ops or, if you trust the file, allow them: hemline export "
            f"--allow-lambda, or {ALLOW_LAMBDA}=1 in the environment"
        )


def _check_members(named: Path, members: list[zipfile.ZipInfo]) -> None:
    require_members_inside(named, (member.filename for member in members))
    if len(members) > KERAS_MEMBERS:
        raise ModelFileError(
            f"{named} has {len(members):,} members; at most {KERAS_MEMBERS:,} are read"
        )
    for member in members:
        if member.filename.endswith(".json") and member.file_size > KERAS_JSON_BYTES:
            raise ModelFileError(
                f"{named}: its {member.filename} has {member.file_size:,} bytes unpacked; at most "
                f"{KERAS_JSON_BYTES:,} are read"
            )
    unpacked = sum(member.file_size for member in members)
    if unpacked > KERAS_BYTES:
        raise ModelFileError(
            f"{named} has {unpacked:,} bytes unpacked; at most {KERAS_BYTES:,} are read"
        )


def _class_names(config: Any) -> Iterator[str]:
    """Yields each class that a Keras configuration names, those of models within it too."""
    parts = [config]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += part.values()
            if isinstance(part.get("class_name"), str):
                yield part["class_name"]
        elif isinstance(part, list):
            parts += part

"""Float Keras files: opened, and held to what export can take."""

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hemline.errors import ModelFileError
from hemline.paths import require_members_inside
from hemline_export.backend import keras

# If it is 1, code inside Keras files may run. An environment variable, since a child process and
# the engine that the runtime opens by entry point must know as well.
ALLOW_LAMBDA = "HEMLINE_ALLOW_LAMBDA"


def load_keras(path: Path) -> Any:
    """Opens a Keras 3 file as a model with one input and one output.

    Lambda layers are refused, since loading one runs code from the file, unless the environment
    variable `ALLOW_LAMBDA` is 1, as `hemline export --allow-lambda` sets it.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ModelFileError: there is no such file, it is no Keras 3 file, it has Lambda layers, or its
            input and output are not (batch, fixed sizes …) both.
    """
    if not path.is_file():
        raise ModelFileError(f"there is no Keras file {path}")
    if not zipfile.is_zipfile(path):
        raise ModelFileError(
            f"{path} is not a Keras 3 file (a zip archive, as model.save('name.keras') writes)"
        )
    allowed = os.environ.get(ALLOW_LAMBDA) == "1"
    _check_archive(path, allowed)
    if allowed:
        # For the whole process: the rewrites for export make layers anew.
        keras.config.enable_unsafe_deserialization()
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=not allowed)
    # Keras raises whatever the archive's config and weights run into.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(f"Keras cannot load {path}: {reason}") from error
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelFileError(
            f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs, "
            "expected one of each"
        )
    taken, given = model.inputs[0].shape, model.outputs[0].shape
    if None in taken[1:] or None in given[1:] or len(given) < 2:
        raise ModelFileError(
            f"{path} takes {taken} and gives {given}, expected (None, fixed sizes …) for both"
        )
    return model


def _check_archive(path: Path, lambda_allowed: bool) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            require_members_inside(path, archive.namelist())
            config = json.loads(archive.read("config.json"))
    # Keras says what is wrong with these.
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, OSError, EOFError):
        return
    if not lambda_allowed and "Lambda" in _class_names(config):
        raise ModelFileError(
            f"{path} has Lambda layers, whose code runs when it is loaded; write them as a layer "
            "class or with keras.ops or, if you trust the file, allow them: hemline export "
            f"--allow-lambda, or {ALLOW_LAMBDA}=1 in the environment"
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

"""Float Keras files: opened, and held to what export can take."""

import zipfile
from pathlib import Path
from typing import Any

from hemline.errors import ModelFileError
from hemline_export.backend import keras


def load_keras(path: Path) -> Any:
    """Opens a Keras 3 file as a model with one input and one output.

    Lambda layers are refused, since loading one runs code from the file.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ModelFileError: there is no such file, it is no Keras 3 file, or its input and output are
            not (batch, fixed sizes …) both.
    """
    if not path.is_file():
        raise ModelFileError(f"there is no Keras file {path}")
    if not zipfile.is_zipfile(path):
        raise ModelFileError(
            f"{path} is not a Keras 3 file (a zip archive, as model.save('name.keras') writes)"
        )
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
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

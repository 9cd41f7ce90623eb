"""Image files as a model's pixels."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemline.errors import EngineUnavailableError, InputError


def read_picture(path: Path, shape: tuple[int, ...], *, invert: bool) -> NDArray[np.uint8]:
    """Reads an image file of any size and mode, as pixels of a model's image shape.

    Args:
        path: whatever Pillow reads; or an .npy file, which is taken as it is.
        shape: (height, width, 1) for grey or (height, width, 3) for RGB.
        invert: swap dark and light, for dark drawings on a light ground.

    Returns:
        uint8 of `shape`; an .npy file's own array.

    Raises:
        InputError: it is no image, or the model takes no images.
        EngineUnavailableError: Pillow is not installed.
    """
    if path.suffix == ".npy":
        try:
            with path.open("rb") as file:
                array: NDArray[np.uint8] = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        return array
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise InputError(f"{path}: the model takes {shape}, which is no picture; give an .npy file")
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise EngineUnavailableError(
            "reading image files needs Pillow, which is not installed: "
            "pip install 'hemline[images]'; .npy files need nothing"
        ) from error
    try:
        with Image.open(path) as image:
            # Pillow's own conversion of 16-bit grey clips at 255 where it should scale.
            grey16 = image.mode.startswith("I;16")
            eight_bit = (
                Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if grey16 else image
            )
            mode = "L" if shape[2] == 1 else "RGB"
            fitted = eight_bit.convert(mode).resize((shape[1], shape[0]))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read {path} as an image: {error}") from error
    pixels = np.asarray(fitted, np.uint8).reshape(shape)
    return 255 - pixels if invert else pixels

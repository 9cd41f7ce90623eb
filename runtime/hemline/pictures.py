"""Image files as a model's pixels."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.arrays import read_array
from hemline.errors import EngineUnavailableError, InputError
from hemline.files import read_regular
from hemline.limits import PICTURE_BYTES, PICTURE_PIXELS
from hemline.quiet import held_back

# What Pillow has another program read: PostScript, itself a program, by Ghostscript; and what
# Windows draws.
_PROGRAMS = ("EPS", "WMF")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """An image file's pixels.

    Attributes:
        pixels: uint8 of a model's image shape; an .npy file's own array.
        conversion: what was done to the file to get them, for people.
    """

    pixels: NDArray[Any]
    conversion: str


def read_picture(path: Path, shape: tuple[int, ...], *, invert: bool) -> Picture:
    """Reads an image file of any size and mode, as pixels of a model's image shape.

    It is turned upright as its EXIF data says, laid on a ground that will be dark if it is
    transparent, converted to 8 bits of grey or RGB, and stretched to the model's size.

    Args:
        path: whatever Pillow reads; or an .npy file, which is taken as it is.
        shape: (height, width, 1) for grey or (height, width, 3) for RGB.
        invert: swap dark and light, for dark drawings on a light ground.

    Raises:
        InputError: it is no image, or the model takes no images.
        EngineUnavailableError: Pillow is not installed.
    """
    if path.suffix == ".npy":
        array = read_array(path, InputError)
        return Picture(pixels=array, conversion=f"{array.dtype} {list(array.shape)}, as it is")
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise InputError(f"{path}: the model takes {shape}, which is no picture; give an .npy file")
    try:
        from PIL import ExifTags, Image, ImageOps
    except ImportError as error:
        raise EngineUnavailableError(
            "reading image files needs Pillow, which is not installed: "
            "pip install 'hemline[images]'; .npy files need nothing"
        ) from error
    mode, size = "L" if shape[2] == 1 else "RGB", (shape[1], shape[0])
    content = io.BytesIO(read_regular(path, PICTURE_BYTES, InputError))
    Image.init()
    try:
        with (
            # libtiff complains there of a picture that it reads.
            held_back(),
            _few_warnings(Image.DecompressionBombWarning),
            Image.open(content, formats=[f for f in Image.ID if f not in _PROGRAMS]) as image,
        ):
            _require_pixels(path, image.width * image.height)
            steps = [f"{image.width}×{image.height} {image.mode}"]
            upright = ImageOps.exif_transpose(image)
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                steps.append("turned upright")
            if upright.has_transparency_data:
                ground = Image.new("RGBA", upright.size, "white" if invert else "black")
                upright = Image.alpha_composite(ground, upright.convert("RGBA"))
                steps.append(f"laid on {'white' if invert else 'black'}")
            eight_bit = _eight_bit(upright)
            if eight_bit is not upright:
                steps.append("scaled to 8 bits")
            if eight_bit.mode != mode:
                steps.append(f"converted to {'grey' if mode == 'L' else 'RGB'}")
            if eight_bit.size != size:
                steps.append(f"stretched to {size[0]}×{size[1]} (bicubic)")
            fitted = eight_bit.convert(mode).resize(size)
    except InputError:
        raise
    # Over a damaged picture Pillow's readers raise whatever they run into.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        # Pillow names the bytes that it was given, and not the file.
        reason = re.sub(r"<_io.BytesIO object at \w+>", "it", reason)
        raise InputError(f"cannot read {path} as an image: {reason}") from error
    pixels = np.asarray(fitted, np.uint8).reshape(shape)
    if invert:
        pixels = 255 - pixels
        steps.append("inverted")
    return Picture(pixels=pixels, conversion=", ".join(steps))


@contextmanager
def _few_warnings(kept: type[Warning]) -> Iterator[None]:
    """Keeps Pillow's remarks on a picture off stderr; the kept kind is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A picture within a picture, as in .ico files, has a size of its own.
        warnings.simplefilter("error", kept)
        yield


def _require_pixels(path: Path, count: int) -> None:
    if count > PICTURE_PIXELS:
        raise InputError(
            f"{path} has {count:,} pixels; at most {PICTURE_PIXELS:,} are read: make it smaller"
        )


def _eight_bit(image: Any) -> Any:
    """Scales a grey image of 16 or 32 bits, which Pillow's own conversion clips at 255.

    16-bit grey is of mode `I;16`, or `I` from some file formats; floats of mode `F` are taken to
    lie in [0, 1] if all of them do, else in [0, 255].
    """
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "I":
        values = np.asarray(image).clip(0, 65535)
        return Image.fromarray((values >> 8 if values.max() > 255 else values).astype(np.uint8))
    if image.mode == "F":
        floats = np.nan_to_num(np.asarray(image))
        scale = 255 if floats.min() >= 0 and floats.max() <= 1 else 1
        return Image.fromarray(np.rint(floats * scale).clip(0, 255).astype(np.uint8))
    return image

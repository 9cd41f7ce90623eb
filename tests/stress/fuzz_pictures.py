"""Damages pictures of every format that Pillow writes, and reads each as a model's pixels.

    python tests/stress/fuzz_pictures.py [--mutations N] [--seed N]

The pictures are drawn, in the modes that a format has, with what may stand beside the pixels: EXIF
data, colour profiles, texts, further frames. Prints a JSON object for each, and one at the end with
the memory that this process took for it all.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fuzz
import numpy as np
from fuzz import Random
from outcomes import FAULT, READ, REFUSED, Outcome, of_call
from PIL import Image, ImageCms, PngImagePlugin, features

from hemline.errors import InputError
from hemline.pictures import Picture, read_picture

SIDE = 48

# Of a format, each way in which it is written here beside the plain one.
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "PNG": ({"bits": 4}, {"save_all": True}, {"optimize": True}, {"interlace": 1}),
    "JPEG": ({"progressive": True}, {"subsampling": 2}, {"restart_marker_rows": 1}),
    "GIF": ({"save_all": True}, {"interlace": True}, {"transparency": 0}),
    "TIFF": (
        *({"compression": f"tiff_{kind}"} for kind in ("lzw", "adobe_deflate")),
        *({"compression": kind} for kind in ("packbits", "jpeg", "group4", "lzma", "zstd")),
        {"save_all": True},
        {"tiffinfo": {700: b"<x:xmpmeta/>", 34377: b"8BIM" + bytes(40)}},
    ),
    "WEBP": ({"lossless": True}, {"save_all": True}, {"quality": 1}),
    "AVIF": ({"quality": 1},),
    "ICO": ({"bitmap_format": "bmp"}, {"sizes": [(16, 16), (32, 32)]}),
    "DDS": tuple({"pixel_format": kind} for kind in ("DXT1", "DXT3", "DXT5", "BC2", "BC5")),
    "BLP": ({"blp_version": "BLP1"}, {"blp_version": "BLP2"}),
    "TGA": ({"compression": "tga_rle"}, {"orientation": 1}),
    "JPEG2000": ({"irreversible": True}, {"num_resolutions": 3}, {"no_jp2": True}),
    "MPO": ({"save_all": True},),
    "BMP": ({"bitmap_format": "bmp"},),
    "SGI": ({"bpc": 2},),
}
MODES = ("L", "RGB", "RGBA", "P", "1", "LA", "I;16", "I", "F", "CMYK", "PA", "YCbCr", "LAB")
# Not pictures, or read by other programs.
LEFT_OUT = ("PDF", "WMF", "HDF5", "BUFR", "GRIB")


def draw(mode: str, random: Random) -> Image.Image:
    """Returns a picture with edges, slopes and noise."""
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE)) * 2
    pixels = (ramp + random.integers(0, 40, (SIDE, SIDE))).astype(np.uint8)
    pixels[8:20, 8:30] = 250
    grey = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(pixels.astype(np.uint16) * 257)
    if mode in ("F", "I"):
        return Image.fromarray(pixels.astype(np.float32 if mode == "F" else np.int32))
    if mode == "LAB":
        return Image.merge("LAB", [grey] * 3)
    color = Image.merge("RGB", [grey, grey.rotate(90), grey.rotate(180)])
    if mode == "PA":
        return color.convert("P").convert("PA")
    if mode in ("RGBA", "LA"):
        color.putalpha(grey.rotate(90))
    return color.convert(mode)


def beside(random: Random) -> dict[str, Any]:
    """Returns what may stand beside the pixels."""
    exif = Image.Exif()
    exif[0x0112] = int(random.integers(1, 9))
    exif[0x010E] = "a drawing"
    exif.get_ifd(0x8769)[0x9003] = "2024:01:01 00:00:00"
    exif.get_ifd(0x8825)[0x0001] = "N"
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "drawn" * 20, zip=True)
    texts.add_itxt("Author", "nobody", "en", "Autor", zip=True)
    texts.add(b"eXIf", exif.tobytes()[6:])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found: dict[str, Any] = {"exif": exif, "icc_profile": profile, "pnginfo": texts}
    found |= {"dpi": (72, 72), "comment": b"drawn"}
    return {name: value for name, value in found.items() if random.random() < 0.7}


def formats() -> list[str]:
    """Returns the formats that are written here."""
    Image.init()
    optional = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
    return sorted(
        name
        for name in Image.SAVE
        if name not in LEFT_OUT and (name not in optional or features.check(optional[name]))
    )


def write(kind: str, random: Random) -> bytes:
    """Returns a picture of a format, in a mode and way that it has."""
    while True:
        picture = draw(MODES[random.integers(len(MODES))], random)
        ways = ({}, *OPTIONS.get(kind, ()))
        options = dict(ways[random.integers(len(ways))]) | beside(random)
        if options.get("save_all"):
            options["append_images"] = [picture.rotate(90), picture.rotate(180)]
        target = io.BytesIO()
        # A format refuses some modes and ways.
        with suppress(Exception):
            picture.save(target, kind, **options)
            return target.getvalue()


# Of a file of any format.


def flip_head(path: Path, random: Random) -> None:
    """Where sizes, modes and offsets are."""
    content = bytearray(path.read_bytes())
    for _ in range(random.integers(1, 6)):
        content[random.integers(min(64, len(content)))] ^= 1 << random.integers(8)
    path.write_bytes(content)


def overwrite_bytes(path: Path, random: Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(random.integers(1, 20)):
        content[random.integers(len(content))] = int(random.choice([0, 1, 127, 128, 255]))
    path.write_bytes(content)


def overwrite_length(path: Path, random: Random) -> None:
    """Two or four bytes, in either order, anywhere, with what a length overflows at."""
    content = bytearray(path.read_bytes())
    size = int(random.choice([2, 4]))
    value = int(random.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**24]))
    order = "little" if random.random() < 0.5 else "big"
    reach = len(content) if random.random() < 0.3 else min(256, len(content))
    start = int(random.integers(max(1, reach - size)))
    content[start : start + size] = (value % 256**size).to_bytes(size, order)  # type: ignore[arg-type]
    path.write_bytes(content)


def swap_parts(path: Path, random: Random) -> None:
    content = path.read_bytes()
    first, second = sorted(int(i) for i in random.integers(len(content), size=2))
    path.write_bytes(content[:first] + content[second:] + content[first:second])


def wear_another_head(path: Path, random: Random) -> None:
    content = path.read_bytes()
    kinds = formats()
    other = write(kinds[random.integers(len(kinds))], random)
    count = int(random.integers(4, 40))
    path.write_bytes(other[:count] + content[count:])


CHANGES: tuple[Callable[[Path, Random], None], ...] = (
    *fuzz.ANY_FILE,
    fuzz.flip_bits,
    fuzz.flip_bits,
    flip_head,
    flip_head,
    overwrite_bytes,
    overwrite_bytes,
    overwrite_length,
    overwrite_length,
    swap_parts,
    wear_another_head,
)


def outcome_of(path: Path, shape: tuple[int, ...]) -> Outcome:
    """Reads a picture; returns what came of it in a word, and in full."""
    found: list[Picture] = []
    word, text = of_call(lambda: found.append(read_picture(path, shape, invert=False)), InputError)
    if word == READ:
        (picture,) = found
        if (picture.pixels.shape, picture.pixels.dtype) != (shape, np.uint8):
            return FAULT, repr(picture)
        text = picture.conversion
    return (word if text.isprintable() else FAULT), text


def fuzz_some(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Damages pictures and reads them."""
    kinds = formats()
    for number in range(count):
        # Formats in turn, and each meets all changes in the course of it.
        kind, random = kinds[number % len(kinds)], np.random.default_rng([seed, number])
        change = CHANGES[(number // len(kinds) + number) % len(CHANGES)]
        with tempfile.TemporaryDirectory(prefix="hemline-fuzz-") as folder:
            path = Path(folder) / f"picture.{kind.lower()}"
            content = write(kind, random)
            path.write_bytes(content)
            while path.is_file() and path.read_bytes() == content:
                change(path, random)
            word, text = outcome_of(path, (28, 28, 1) if number % 2 else (32, 20, 3))
        yield {
            "number": number,
            "mutation": f"{kind}: {change.__name__}",
            "outcome": word,
            "message": text,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutations", type=int, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    options = parser.parse_args()
    # The pictures as they should be, and what writing them takes.
    with tempfile.TemporaryDirectory(prefix="hemline-fuzz-") as folder:
        for kind in formats():
            path = Path(folder) / "picture"
            path.write_bytes(write(kind, np.random.default_rng(options.seed)))
            word, text = outcome_of(path, (28, 28, 1))
            # PostScript is written, but not read.
            assert word == (REFUSED if kind in ("EPS", "PALM") else READ), (kind, text)
    before = fuzz.peak_bytes()
    for result in fuzz_some(options.mutations, options.seed):
        print(json.dumps(result), flush=True)
    print(json.dumps({"before_bytes": before, "after_bytes": fuzz.peak_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

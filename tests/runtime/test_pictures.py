import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemline.errors import EngineUnavailableError, InputError
from hemline.pictures import read_picture

GREY, COLOR = (4, 4, 1), (4, 4, 3)
PIXELS = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)


def save(folder: Path, mode: str, name: str = "a.png") -> Path:
    Image.fromarray(PIXELS).convert(mode).save(folder / name)
    return folder / name


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_any_mode_as_grey(tmp_path: Path, mode: str) -> None:
    picture = read_picture(save(tmp_path, mode), GREY, invert=False).pixels
    assert (picture.dtype, picture.shape) == (np.uint8, GREY)
    assert np.abs(picture[..., 0].astype(int) - PIXELS).max() <= (16 if mode == "P" else 0)


def test_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(PIXELS > 100).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", GREY, invert=False).pixels
    assert (picture[..., 0] == np.where(PIXELS > 100, 255, 0)).all()


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(PIXELS.astype(np.uint16) * 256 + 7).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "I;16"
    picture = read_picture(tmp_path / "a.png", GREY, invert=False).pixels
    assert (picture[..., 0] == PIXELS).all()


def test_colors(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, COLOR, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png", COLOR, invert=False).pixels == pixels).all()
    picture = read_picture(save(tmp_path, "L"), COLOR, invert=False).pixels
    assert (picture == PIXELS[..., np.newaxis]).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (200, 100)])
def test_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("L", size, 77).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", (5, 7, 1), invert=False).pixels
    assert picture.shape == (5, 7, 1)
    assert (picture == 77).all()


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I", [0, 256, 32768, 65535], [0, 1, 128, 255]),
        ("I", [-5, 7, 200, 255], [0, 7, 200, 255]),
        ("F", [0.0, 0.2, 0.5, 1.0], [0, 51, 128, 255]),
        ("F", [-1.0, 7.4, 200.6, 300.0], [0, 7, 201, 255]),
        ("F", [float("nan"), 0.0, 1.0, 0.2], [0, 0, 255, 51]),
    ],
)
def test_wide_grey_is_scaled(
    tmp_path: Path, mode: str, values: list[float], expected: list[int]
) -> None:
    dtype = np.int32 if mode == "I" else np.float32
    Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tiff")
    with Image.open(tmp_path / "a.tiff") as image:
        assert image.mode == mode
    picture = read_picture(tmp_path / "a.tiff", (1, 4, 1), invert=False)
    assert picture.pixels.ravel().tolist() == expected
    assert picture.conversion == f"4×1 {mode}, scaled to 8 bits"


@pytest.mark.parametrize(("invert", "ground"), [(False, "black"), (True, "white")])
def test_what_is_transparent_ends_dark(tmp_path: Path, invert: bool, ground: str) -> None:
    image = Image.new("RGBA", (2, 1), (255, 255, 255, 0))
    image.putpixel((1, 0), (90, 90, 90, 255))
    image.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", (1, 2, 1), invert=invert)
    assert picture.pixels.ravel().tolist() == [0, 165 if invert else 90]
    assert picture.conversion == f"2×1 RGBA, laid on {ground}, converted to grey" + (
        ", inverted" if invert else ""
    )


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 255, 255, 90, 90, 90])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    picture = read_picture(tmp_path / "a.png", (1, 2, 1), invert=False)
    assert picture.pixels.ravel().tolist() == [0, 90]


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS[:2])
    # Orientation 6: the camera was turned, show it a quarter clockwise.
    image.getexif()[0x0112] = 6
    image.save(tmp_path / "a.png", exif=image.getexif())
    picture = read_picture(tmp_path / "a.png", (4, 2, 1), invert=False)
    assert (picture.pixels[..., 0] == np.rot90(PIXELS[:2], -1)).all()
    assert picture.conversion == "4×2 L, turned upright"


def test_the_conversion_is_told(tmp_path: Path) -> None:
    path = save(tmp_path, "RGB")
    assert read_picture(path, (2, 3, 1), invert=True).conversion == (
        "4×4 RGB, converted to grey, stretched to 3×2 (bicubic), inverted"
    )
    assert read_picture(path, COLOR, invert=False).conversion == "4×4 RGB"
    np.save(tmp_path / "a.npy", PIXELS)
    told = read_picture(tmp_path / "a.npy", GREY, invert=False).conversion
    assert told == "uint8 [4, 4], as it is"


def test_height_comes_before_width(tmp_path: Path) -> None:
    pixels = np.zeros((2, 4), np.uint8)
    pixels[1] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", (2, 4, 1), invert=False)
    assert (picture.pixels[..., 0] == pixels).all()


def test_dark_and_light_swap(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path, "L"), GREY, invert=True).pixels
    assert (picture[..., 0] == 255 - PIXELS).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_npy_file_is_taken_as_it_is(tmp_path: Path, dtype: type) -> None:
    array = np.ones((3, 9, 2), dtype)
    np.save(tmp_path / "a.npy", array)
    found = read_picture(tmp_path / "a.npy", GREY, invert=True).pixels
    assert found.dtype == dtype
    assert (found == array).all()


@pytest.mark.parametrize("name", ["none.png", "none.npy"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"cannot read .*{name}.*No such file"):
        read_picture(tmp_path / name, GREY, invert=False)


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.txt"])
@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_what_is_no_image(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot read .*{name}"):
        read_picture(tmp_path / name, GREY, invert=False)


def test_a_truncated_image(tmp_path: Path) -> None:
    path = save(tmp_path, "L")
    content = path.read_bytes()
    # The last 16 bytes are a checksum and the chunk that ends the file.
    for length in range(0, len(content) - 16, 7):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"cannot read .*a\.png as an image: \S"):
            read_picture(path, GREY, invert=False)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object))
    with pytest.raises(InputError, match="allow_pickle=False"):
        read_picture(tmp_path / "a.npy", GREY, invert=False)


def test_an_image_that_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, "L")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(InputError, match="exceeds limit of 10 pixels"):
        read_picture(path, GREY, invert=False)


@pytest.mark.parametrize("shape", [(), (784,), (28, 28), (28, 28, 2)])
def test_a_model_that_takes_no_pictures(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"which is no picture; give an \.npy file"):
        read_picture(save(tmp_path, "L"), shape, invert=False)


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, "L")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        EngineUnavailableError, match=r"pip install 'hemline\[images\]'; \.npy files need nothing"
    ):
        read_picture(path, GREY, invert=False)


def test_an_array_that_declares_more_than_there_is_room_for(tmp_path: Path) -> None:
    with (tmp_path / "huge.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**50, 28)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(InputError, match=r"cannot read .*huge\.npy as an \.npy file: "):
        read_picture(tmp_path / "huge.npy", GREY, invert=False)


@pytest.mark.parametrize("kind", ["tiff_lzw", "tiff_adobe_deflate"])
def test_libtiff_says_nothing_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / "a.tiff"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(path, compression=kind)
    with Image.open(path) as image:
        start, size = image.tag_v2[273][0], image.tag_v2[279][0]
    content = bytearray(path.read_bytes())
    content[start + size // 2 : start + size] = b"\x55" * (size - size // 2)
    path.write_bytes(content)
    with pytest.raises(InputError, match="as an image: "):
        read_picture(path, GREY, invert=False)
    assert capfd.readouterr().err == ""


def test_an_array_that_python_2_wrote(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (4L, 4L), }\n"
    size = len(header).to_bytes(2, "little")
    content = b"\x93NUMPY\1\0" + size + header + PIXELS.tobytes()
    (tmp_path / "old.npy").write_bytes(content)
    # Any warning is an error here.
    assert (read_picture(tmp_path / "old.npy", GREY, invert=False).pixels == PIXELS).all()

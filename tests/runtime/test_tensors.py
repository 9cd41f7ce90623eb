from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hemline.errors import InputError, ModelFileError
from hemline.facts import InputFacts, Preprocessing, QuantParams, TensorSpec
from hemline.tensors import ImageReader, OutputReader, Quantizer, dequantize

FACTS = InputFacts(
    name="image",
    shape=(28, 28, 1),
    minimum=0.0,
    maximum=1.0,
    preprocessing=Preprocessing(mean=0.0, std=255.0),
)
FLOATS = TensorSpec(name="image", shape=(1, 28, 28, 1), dtype="float32")
GRID = QuantParams(scale=1 / 255, zero_point=-128)
INTEGERS = replace(FLOATS, dtype="int8", quantization=GRID)

scales = st.floats(2**-13, 1024, width=32)
grids = st.builds(QuantParams, scale=scales, zero_point=st.integers(-128, 127))


@pytest.mark.parametrize(
    ("scale", "zero_point", "dtype", "values", "expected"),
    [
        # Ties to even: 0.5 → 0, 1.5 → 2, 2.5 → 2, −0.5 → 0, −1.5 → −2.
        (1.0, 0, "int8", [0.5, 1.5, 2.5, -0.5, -1.5, -2.5], [0, 2, 2, 0, -2, -2]),
        # The tie is decided before the zero point is added.
        (1.0, 1, "int8", [0.5, 1.5, 2.5], [1, 3, 3]),
        (0.5, -128, "int8", [0.0, 0.5, 63.5, 127.5], [-128, -127, -1, 127]),
        # Saturation.
        (0.5, -128, "int8", [-0.5, -1e30, 128.0, 1e30], [-128, -128, 127, 127]),
        (1.0, 128, "uint8", [-129.0, -128.0, 0.0, 127.0, 128.0], [0, 0, 128, 255, 255]),
        (0.25, 10, "int16", [-8194.5, 0.25, 8189.25], [-32768, 11, 32767]),
        # A division: times the reciprocal would give 8 and 13.
        (0.3, 0, "int8", [2.25, 3.7500002], [7, 12]),
    ],
)
def test_quantization(
    scale: float, zero_point: int, dtype: str, values: list[float], expected: list[int]
) -> None:
    grid = QuantParams(scale=scale, zero_point=zero_point)
    integers = Quantizer(grid, dtype, min(values), max(values))(np.array(values, np.float32))
    assert integers.dtype == dtype
    assert integers.tolist() == expected


def test_dequantization() -> None:
    grid = QuantParams(scale=0.5, zero_point=-128)
    values = dequantize(np.array([-128, -127, 0, 127], np.int8), grid)
    assert values.dtype == np.float32
    assert values.tolist() == [0.0, 0.5, 64.0, 127.5]


@given(grids, arrays.arrays(np.float64, 20, elements=st.floats(-128, 127)))
def test_values_inside_the_grid_come_back_within_half_a_scale(
    grid: QuantParams, steps: np.ndarray[Any, np.dtype[np.float64]]
) -> None:
    values = ((steps - grid.zero_point) * grid.scale).astype(np.float32)
    integers = Quantizer(grid, "int8", float(values.min()), float(values.max()))(values)
    # Half a scale, and float32's rounding of a value of up to 255 scales.
    tolerance = grid.scale * (0.5 + 255 * 2**-22)
    assert np.abs(dequantize(integers, grid).astype(np.float64) - values).max() <= tolerance


@given(grids)
def test_what_was_an_integer_comes_back_as_it(grid: QuantParams) -> None:
    integers = np.arange(-128, 128).astype(np.int8)
    values = dequantize(integers, grid)
    assert (Quantizer(grid, "int8", values[0], values[-1])(values) == integers).all()


@given(
    grids,
    st.builds(Preprocessing, mean=st.floats(-300, 300), std=st.floats(0.01, 1000)),
    st.sampled_from(["int8", "uint8"]),
)
# The grid of pixels in [0, 1], which is looked up in no table.
@example(GRID, Preprocessing(mean=0.0, std=255.0), "int8")
@example(GRID, Preprocessing(mean=0.0, std=255.0), "uint8")
def test_pixels_take_the_same_values_as_the_long_way(
    grid: QuantParams, preprocessing: Preprocessing, dtype: str
) -> None:
    table = preprocessing.table()
    facts = InputFacts(
        name="image",
        shape=(16, 16),
        minimum=float(table.min()),
        maximum=float(table.max()),
        preprocessing=preprocessing,
    )
    spec = TensorSpec(name="image", shape=(1, 16, 16), dtype=dtype, quantization=grid)
    reader = ImageReader(facts, spec)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    tensor = reader.tensor(reader.batch(pixels))
    limits = np.iinfo(dtype)
    rounded = np.rint(table / np.float32(grid.scale)) + np.float32(grid.zero_point)
    expected = np.clip(rounded, limits.min, limits.max).astype(dtype)
    assert tensor.dtype == dtype
    assert tensor.shape == (1, 16, 16)
    assert (tensor.ravel() == expected).all()
    assert (reader.tensor(table.reshape(1, 16, 16)) == tensor).all()
    one = reader.one(pixels)
    assert one is not None
    assert (one.dtype, one.shape) == (dtype, (1, 16, 16))
    assert (one == tensor).all()


@pytest.mark.parametrize("spec", [FLOATS, INTEGERS, replace(FLOATS, dtype="float16")])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (1, 28, 28), (1, 28, 28, 1)])
def test_one_image_of_pixels_in_the_fewest_steps(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    reader = ImageReader(FACTS, spec)
    for seed in range(2):
        image = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        expected = reader.tensor(reader.batch(image))
        for laid_out in (image, np.asfortranarray(image), np.repeat(image, 2, axis=-1)[..., ::2]):
            tensor = reader.one(laid_out.reshape(shape))
            assert tensor is not None
            assert (tensor.dtype, tensor.flags.c_contiguous) == (spec.dtype, True)
            assert (tensor == expected).all()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((28, 28), np.float32),
        np.zeros((2, 28, 28), np.uint8),
        np.zeros((27, 28), np.uint8),
        np.ma.masked_array(np.zeros((28, 28), np.uint8)),
        [[0] * 28] * 28,
    ],
)
def test_what_takes_the_longer_way(images: Any) -> None:
    assert ImageReader(FACTS, INTEGERS).one(images) is None


def test_pixels_without_preprocessing_take_no_way() -> None:
    reader = ImageReader(replace(FACTS, preprocessing=None), FLOATS)
    assert reader.one(np.zeros((28, 28), np.uint8)) is None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pixels_of_a_float_file(dtype: str) -> None:
    reader = ImageReader(FACTS, replace(FLOATS, dtype=dtype))
    tensor = reader.tensor(np.full((1, 28, 28, 1), 51, np.uint8))
    assert tensor.dtype == dtype
    assert (tensor == np.dtype(dtype).type(0.2)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("shape", "batch"),
    [
        ((28, 28, 1), (1, 28, 28, 1)),
        ((28, 28), (1, 28, 28, 1)),
        ((1, 28, 28), (1, 28, 28, 1)),
        ((3, 28, 28), (3, 28, 28, 1)),
        ((3, 28, 28, 1), (3, 28, 28, 1)),
        ((28, 28, 28), (28, 28, 28, 1)),
    ],
)
def test_one_image_or_a_batch(dtype: type, shape: tuple[int, ...], batch: tuple[int, ...]) -> None:
    assert ImageReader(FACTS, FLOATS).batch(np.zeros(shape, dtype)).shape == batch


def test_a_last_axis_of_three_is_not_left_out() -> None:
    reader = ImageReader(
        replace(FACTS, shape=(8, 8, 3)), TensorSpec(name="i", shape=(1, 8, 8, 3), dtype="float32")
    )
    assert reader.batch(np.zeros((8, 8, 3), np.uint8)).shape == (1, 8, 8, 3)
    with pytest.raises(InputError, match=r"shape \(8, 8\); expected \(8, 8, 3\) for one image"):
        reader.batch(np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize(
    "shape",
    [(), (28,), (784,), (27, 28), (28, 28, 3), (1, 1, 28, 28, 1), (0, 28, 28, 1), (0, 28, 28)],
)
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    message = (
        f"images have shape {shape}; expected (28, 28, 1) for one image, "
        "or (n, 28, 28, 1) for n of them"
    )
    with pytest.raises(InputError) as caught:
        ImageReader(FACTS, FLOATS).batch(np.zeros(shape, np.uint8))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.zeros((28, 28)), "float64"),
        (np.zeros((28, 28), np.int64), "int64"),
        (np.zeros((28, 28), np.int8), "int8"),
        (np.zeros((28, 28), bool), "bool"),
        (np.zeros((28, 28), object), "object"),
        ([[0] * 28] * 28, "list"),
        (None, "NoneType"),
    ],
)
def test_wrong_dtypes(images: Any, found: str) -> None:
    message = (
        f"images are {found}; expected a NumPy array of uint8 pixels, "
        "or of float32 values from 0 to 1"
    )
    with pytest.raises(InputError) as caught:
        ImageReader(FACTS, FLOATS).batch(images)
    assert str(caught.value) == message


@pytest.mark.parametrize("spec", [FLOATS, INTEGERS])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (float("nan"), "values from nan to nan"),
        (float("inf"), "values from 0 to inf"),
        (float("-inf"), "values from -inf to 0"),
        (255.0, "values from 0 to 255"),
        (-0.5, "values from -0.5 to 0"),
        (1.002, "values from 0 to 1.002"),
    ],
)
def test_values_out_of_range(spec: TensorSpec, value: float, found: str) -> None:
    images = np.zeros((2, 28, 28, 1), np.float32)
    images[1, 27, 27, 0] = value
    with pytest.raises(InputError) as caught:
        ImageReader(FACTS, spec).tensor(images)
    assert str(caught.value) == (
        f"float32 images hold {found}; expected 0 to 1 and no NaN (raw pixels are taken as uint8)"
    )


def test_rounding_beyond_the_range_is_let_pass_and_saturates() -> None:
    images = np.array([-0.0009, 1.0009, *[0.2] * 782], np.float32).reshape(1, 28, 28, 1)
    assert ImageReader(FACTS, INTEGERS).tensor(images).ravel()[:3].tolist() == [-128, 127, -77]


def test_pixels_need_a_known_preprocessing() -> None:
    reader = ImageReader(replace(FACTS, preprocessing=None), FLOATS)
    with pytest.raises(InputError, match="preprocessing is not known, so it takes no uint8 pixels"):
        reader.tensor(np.zeros((1, 28, 28, 1), np.uint8))
    assert reader.tensor(np.ones((1, 28, 28, 1), np.float32)).sum() == 784


def test_the_order_in_memory_does_not_matter() -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    for spec in (FLOATS, INTEGERS):
        reader = ImageReader(FACTS, spec)
        for one in (image, image / np.float32(255)):
            expected = reader.tensor(reader.batch(one))
            found = reader.tensor(reader.batch(np.asfortranarray(one)))
            assert (found == expected).all()
            assert found.flags.c_contiguous
        floats = reader.tensor(reader.batch((image / np.float32(255))[::-1, ::-1]))
        assert (floats == reader.tensor(reader.batch(image[::-1, ::-1]))).all()


def test_a_file_whose_border_is_not_that_of_its_facts() -> None:
    with pytest.raises(ModelFileError, match=r"its facts say \(28, 28, 1\)"):
        ImageReader(FACTS, replace(FLOATS, shape=(1, 32, 32, 1)))
    with pytest.raises(ModelFileError, match="its facts say \\(10,\\)"):
        OutputReader(TensorSpec(name="p", shape=(1, 9), dtype="float32"), (10,))


@given(grids)
def test_int8_outputs_are_the_formula(grid: QuantParams) -> None:
    spec = TensorSpec(name="p", shape=(1, 256), dtype="int8", quantization=grid)
    integers = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
    values = OutputReader(spec, (256,)).read(integers)
    assert values.dtype == np.float32
    assert values.shape == (1, 256)
    for integer, value in zip(range(-128, 128), values[0], strict=True):
        assert value == np.float32(grid.scale) * np.float32(integer - grid.zero_point)


def test_other_outputs() -> None:
    grid = QuantParams(scale=0.25, zero_point=4)
    uint8 = TensorSpec(name="p", shape=(1, 2), dtype="uint8", quantization=grid)
    values = OutputReader(uint8, (2,)).read(np.array([[4, 255]], np.uint8))
    assert (values.dtype, values.tolist()) == (np.float32, [[0.0, 62.75]])
    half = TensorSpec(name="p", shape=(1, 2), dtype="float16")
    values = OutputReader(half, (2,)).read(np.array([[0.5, 0.25]], np.float16))
    assert (values.dtype, values.tolist()) == (np.float32, [[0.5, 0.25]])

"""From a user's images to an engine's input tensor, and from its output to real values.

Both ends of a quantized file are tables: a uint8 pixel has 256 values and an int8 output has
256, so each is worked out once, and a call only looks them up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hemline.errors import InputError, ModelFileError
from hemline.facts import InputFacts, QuantParams, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Values computed by another route may miss the range by rounding, not by more than this share.
_RANGE_SLACK = 1e-3
_UINT8, _INT8, _SIGN_BIT = np.dtype(np.uint8), np.dtype(np.int8), np.uint8(0x80)
# Looked up once, as `one` is called for every image.
_ARRAY, _XOR = np.ndarray, np.bitwise_xor
_DTYPES = frozenset({_UINT8, np.dtype(np.float32)})


class Quantizer:
    """Puts real values on an integer grid: round(value / scale) + zero point, ties to even.

    Args:
        grid: the tensor's scale and zero point.
        dtype: NumPy's name of the integer type.
        low: the least value that will come.
        high: the greatest. If the grid holds both ends, the values are not saturated one by one.
    """

    def __init__(self, grid: QuantParams, dtype: str, low: float, high: float) -> None:
        self._scale, self._zero = np.float32(grid.scale), np.float32(grid.zero_point)
        self._dtype = np.dtype(dtype)
        limits = np.iinfo(dtype)
        self._least, self._greatest = np.float32(limits.min), np.float32(limits.max)
        ends = self._round(np.array([low, high], np.float32))
        self._saturates = bool((ends < self._least).any() or (ends > self._greatest).any())

    def __call__(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Returns the integers of float32 values, in the same shape."""
        integers = self._round(values)
        if self._saturates:
            np.clip(integers, self._least, self._greatest, out=integers)
        return integers.astype(self._dtype)

    def _round(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        integers = values / self._scale
        np.rint(integers, integers)
        integers += self._zero
        return integers


def dequantize(integers: NDArray[Any], grid: QuantParams) -> NDArray[np.float32]:
    """Returns the real values of integers on a grid, float32: scale · (integer − zero point)."""
    return (integers.astype(np.float32) - np.float32(grid.zero_point)) * np.float32(grid.scale)


def plain_array(values: Any) -> Any:
    """Returns an array of a subclass as a plain one, since numpy.matrix keeps to two axes.

    What is no array is returned as it is.

    Raises:
        InputError: it is a masked array, whose masked values would pass for true ones.
    """
    if type(values) is _ARRAY or not isinstance(values, _ARRAY):
        return values
    if isinstance(values, np.ma.MaskedArray):
        raise InputError("a masked array: fill what is masked in it, and give a plain one")
    return np.asarray(values)


class ImageReader:
    """Turns a user's images into one engine's input tensors.

    Args:
        facts: what the float model takes.
        tensor: the input of the file at hand.

    Raises:
        ModelFileError: the file's input is not the one that its facts describe.
    """

    def __init__(self, facts: InputFacts, tensor: TensorSpec) -> None:
        if tensor.shape[1:] != facts.shape:
            raise ModelFileError(
                f"the file's input {tensor.name} is {tensor.shape}, its facts say {facts.shape}"
            )
        self._facts, self._tensor = facts, tensor
        shape = facts.shape
        self._shapes = (shape, shape[:-1] if shape[-1] == 1 else shape)
        self._single = (1, *shape)
        slack = _RANGE_SLACK * (facts.maximum - facts.minimum)
        self._low, self._high = facts.minimum - slack, facts.maximum + slack
        grid = tensor.quantization
        self._quantize = (
            None if grid is None else Quantizer(grid, tensor.dtype, self._low, self._high)
        )
        self._pixel_table = (
            None if facts.preprocessing is None else self._convert(facts.preprocessing.table())
        )
        # On the grid 1/255 from −128, as for pixels in [0, 1], int8 is the pixel less 128.
        self._flips_sign_bit = self._pixel_table is not None and np.array_equal(
            self._pixel_table, np.arange(-128, 128)
        )
        # Where `one` writes, seen in each shape that an image may come in.
        self._one = np.empty(self._single, tensor.dtype)
        target = self._one.view(np.uint8) if self._flips_sign_bit else self._one
        # An array of sign bits: a ufunc takes a third of a microsecond more for a single number.
        signs = np.full(self._single, _SIGN_BIT)
        shapes = {*self._shapes, *((1, *shape) for shape in self._shapes)}
        self._targets = (
            {}
            if self._pixel_table is None
            else {shape: (signs.reshape(shape), target.reshape(shape)) for shape in shapes}
        )

    def one(self, images: NDArray[Any]) -> NDArray[Any] | None:
        """Returns the engine's input for one image of uint8 pixels; None for anything else.

        The same as `tensor(batch(images))` in the fewest steps. It is the same array each time,
        so it holds until the next call.
        """
        # What is of this type by another name takes the longer way.
        if type(images) is not _ARRAY or images.dtype is not _UINT8:
            return None
        found = self._targets.get(images.shape)
        if found is None:
            return None
        signs, target = found
        if self._flips_sign_bit:
            _XOR(images, signs, target)
        elif self._pixel_table is not None:
            # A pixel is never out of range. To raise, NumPy would write to a buffer first.
            self._pixel_table.take(images, out=target, mode="clip")
        return self._one

    def batch(self, images: NDArray[Any]) -> NDArray[Any]:
        """Returns images as (n, *image shape), whatever of n and a last 1 was left out.

        Raises:
            InputError: the shape or dtype is not one that the model takes.
        """
        images = plain_array(images)
        if not isinstance(images, np.ndarray) or images.dtype not in _DTYPES:
            found = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
            raise InputError(
                f"images are {found}; expected a NumPy array of uint8 pixels, or of float32 "
                f"values from {self._facts.minimum:g} to {self._facts.maximum:g}"
            )
        if images.shape in self._shapes:
            return images.reshape(self._single)
        shape = self._facts.shape
        if images.shape[1:] in self._shapes and len(images) > 0:
            return images.reshape(-1, *shape)
        raise InputError(
            f"images have shape {images.shape}; expected {shape} for one image, "
            f"or (n, {', '.join(map(str, shape))}) for n of them"
        )

    def tensor(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Returns the engine's input for a batch: preprocessed and, where it is int8, quantized.

        Args:
            batch: as `batch` returns it.

        Raises:
            InputError: float values outside the input range, NaN among them; or uint8 pixels
                for a model whose preprocessing is not known.
        """
        if batch.dtype == _UINT8:
            if self._pixel_table is None:
                raise InputError(
                    "this model's preprocessing is not known, so it takes no uint8 pixels; "
                    f"give float32 from {self._facts.minimum:g} to {self._facts.maximum:g}"
                )
            if self._flips_sign_bit:
                flipped: NDArray[np.uint8] = np.bitwise_xor(batch, _SIGN_BIT, order="C")
                return flipped.view(_INT8)
            return self._pixel_table.take(batch)
        # One comparison finds NaN as well: it makes both ends NaN, and those compare false.
        low, high = batch.min(), batch.max()
        if not (low >= self._low and high <= self._high):
            raise InputError(
                f"float32 images hold values from {low:g} to {high:g}; expected "
                f"{self._facts.minimum:g} to {self._facts.maximum:g} and no NaN "
                "(raw pixels are taken as uint8)"
            )
        return self._convert(batch)

    def _convert(self, values: NDArray[np.float32]) -> NDArray[Any]:
        if self._quantize is not None:
            values = self._quantize(values)
        return np.ascontiguousarray(values, self._tensor.dtype)


class OutputReader:
    """Turns one engine's output tensors into real values.

    Args:
        tensor: the output of the file at hand.
        shape: of one sample's output, as its facts say.

    Raises:
        ModelFileError: the file's output is not the one that its facts describe.
    """

    def __init__(self, tensor: TensorSpec, shape: tuple[int, ...]) -> None:
        if tensor.shape[1:] != shape:
            raise ModelFileError(
                f"the file's output {tensor.name} is {tensor.shape}, its facts say {shape}"
            )
        grid = tensor.quantization
        self._grid = grid
        # What turns (n, *shape) of the file's dtype into float32.
        self.read: Callable[[NDArray[Any]], NDArray[np.float32]] = self._convert
        if grid is not None and tensor.dtype == "int8":
            # A negative index counts from the end: −1 stands at 255.
            self.read = dequantize(np.arange(256, dtype=np.uint8).view(np.int8), grid).take

    def _convert(self, output: NDArray[Any]) -> NDArray[np.float32]:
        if self._grid is not None:
            return dequantize(output, self._grid)
        return output.astype(np.float32, copy=False)

"""The operations of Core ML's MIL programs in NumPy, for n samples at once.

Each function takes an operation's inputs under MIL's own names. `OPERANDS` (arrays, or a list of
them) carry a leading sample axis that the program does not know, of size n, or of size 1 where
the operand is a constant. All other inputs are parameters, as the program has them: their axes
count without the sample axis. Float operands come as float32; rounding is the caller's.

Definitions: coremltools' `converters/mil/mil/ops/defs`, whose docstrings specify MIL.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Operation: TypeAlias = Callable[..., Array | list[Array]]

OPERANDS = frozenset({"x", "y", "values"})


def _elementwise(function: Callable[[Array, Array], Array]) -> Operation:
    def operation(x: Array, y: Array) -> Array:
        return function(*_align(x, y))

    return operation


def _align(x: Array, y: Array) -> tuple[Array, Array]:
    """Gives both operands the rank of the larger, the new axes right after the sample axis."""
    rank = max(x.ndim, y.ndim)
    x, y = (a.reshape(len(a), *[1] * (rank - a.ndim), *a.shape[1:]) for a in (x, y))
    return x, y


def _reduction(function: Callable[..., Array]) -> Operation:
    def operation(x: Array, keep_dims: bool, axes: Sequence[int] | None = None) -> Array:
        every = range(x.ndim - 1) if axes is None else axes
        return function(x, axis=tuple(map(_shift, every)), keepdims=keep_dims)

    return operation


def _shift(axis: int) -> int:
    """Returns a program's axis as the array's, which has the samples in front."""
    return axis if axis < 0 else axis + 1


def _conv(
    x: Array,
    weight: Array,
    strides: Sequence[int],
    pad_type: str,
    pad: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    bias: Array | None = None,
) -> Array:
    """Convolves (n, batch, channels, *space) with weights (filters, channels/groups, *kernel)."""
    filters, _, *kernel = weight.shape
    windows = _windows(x, kernel, strides, dilations, pad_type, pad, 0)
    samples, channels, *space = windows.shape[: -len(kernel)]
    windows = windows.reshape(samples, groups, channels // groups, *space, *kernel)
    spatial = range(3, 3 + len(space))
    over_kernel = range(3 + len(space), windows.ndim)
    columns = windows.transpose(1, 0, *spatial, 2, *over_kernel)
    result = columns.reshape(groups, samples * int(np.prod(space)), -1) @ (
        weight.reshape(groups, filters // groups, -1).transpose(0, 2, 1)
    )
    result = result.reshape(groups, samples, *space, filters // groups)
    result = np.moveaxis(result, (1, -1), (0, 2)).reshape(*x.shape[:2], filters, *space)
    return result if bias is None else result + bias.reshape(-1, *[1] * len(space))


def _conv_transpose(
    x: Array,
    weight: Array,
    strides: Sequence[int],
    pad_type: str,
    pad: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    bias: Array | None = None,
    output_shape: Sequence[int] | None = None,
) -> Array:
    """Spreads (n, batch, channels, *space) by weights (channels, filters/groups, *kernel).

    It is a convolution of what has zeros between its elements, with the kernel turned round.
    """
    channels, filters, *kernel = weight.shape
    spread = [(size - 1) * step + 1 for size, step in zip(x.shape[3:], strides, strict=True)]
    spaced = np.zeros((*x.shape[:3], *spread), x.dtype)
    places = (slice(None, None, step) for step in strides)
    spaced[:, :, :, *places] = x
    turned = np.flip(weight, tuple(range(2, weight.ndim)))
    turned = turned.reshape(groups, channels // groups, filters, *kernel).swapaxes(1, 2)
    turned = turned.reshape(groups * filters, channels // groups, *kernel)
    edges = [
        (size - 1) * gap for size, gap in zip(kernel, dilations, strict=True) for _ in range(2)
    ]
    ones = [1] * len(kernel)
    result = _conv(spaced, turned, ones, "custom", edges, dilations, groups)
    for axis, (size, step) in enumerate(zip(x.shape[3:], strides, strict=True)):
        full = result.shape[3 + axis]
        if pad_type == "custom":
            before, length = pad[2 * axis], full - pad[2 * axis] - pad[2 * axis + 1]
        else:
            wanted = full if pad_type == "valid" else size * step
            length = wanted if output_shape is None else output_shape[2 + axis]
            before = 0 if pad_type == "valid" else max(full - length, 0) // 2
        result = np.moveaxis(result, 3 + axis, 0)[before : before + length]
        missing = length - len(result)
        result = np.pad(result, [(0, missing), *[(0, 0)] * (result.ndim - 1)])
        result = np.moveaxis(result, 0, 3 + axis)
    return result if bias is None else result + bias.reshape(-1, *ones)


def _max_pool(
    x: Array,
    kernel_sizes: Sequence[int],
    strides: Sequence[int],
    pad_type: str,
    pad: Sequence[int],
    ceil_mode: bool,  # noqa: ARG001 - where it matters the shape differs, which is refused
) -> Array:
    return _pool(np.maximum, x, kernel_sizes, strides, pad_type, pad, -np.inf)


def _avg_pool(
    x: Array,
    kernel_sizes: Sequence[int],
    strides: Sequence[int],
    pad_type: str,
    pad: Sequence[int],
    exclude_padding_from_average: bool,
    ceil_mode: bool,  # noqa: ARG001 - as in max_pool
) -> Array:
    def add(values: Array, outside: float) -> Array:
        return _pool(np.add, values, kernel_sizes, strides, pad_type, pad, outside)

    counts = add(np.ones_like(x[:1, :1]), 0.0 if exclude_padding_from_average else 1.0)
    return add(x, 0.0) / counts


def _pool(
    function: Callable[[Array, Array], Array],
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pad_type: str,
    pad: Sequence[int],
    outside: float,
) -> Array:
    windows = _windows(x, kernel, strides, [1] * len(kernel), pad_type, pad, outside)
    # One place of the kernel after the other: NumPy reduces short axes slowly.
    result = reduce(function, (windows[..., *place] for place in np.ndindex(*kernel)))
    return result.reshape(*x.shape[:2], *result.shape[1:])


def _windows(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pad_type: str,
    pad: Sequence[int],
    outside: float,
) -> Array:
    """Returns what a sliding kernel sees, a view of the padded operand.

    Args:
        x: (n, batch, channels, *space).
        kernel: its size along each axis of space.
        strides: its steps.
        dilations: the distance of neighbours in it.
        pad_type: `valid`, `same`, `same_lower` or `custom`.
        pad: for `custom`, before and after each axis of space in turn.
        outside: the value of what is padded.

    Returns:
        (n · batch, channels, *space of the output, *kernel).
    """
    reach = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilations, strict=True)]
    space = x.shape[3:]
    if pad_type == "custom":
        pads = list(zip(pad[::2], pad[1::2], strict=True))
    elif pad_type == "valid":
        pads = [(0, 0)] * len(space)
    else:
        pads = []
        for size, step, length in zip(space, strides, reach, strict=True):
            total = max(0, (-(-size // step) - 1) * step + length - size)
            ends = total // 2, total - total // 2
            pads.append(ends if pad_type == "same" else ends[::-1])
    padded = np.pad(x.reshape(-1, *x.shape[2:]), [(0, 0), (0, 0), *pads], constant_values=outside)
    axes = tuple(range(-len(kernel), 0))
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)
    steps = (slice(None, None, step) for step in (*strides, *dilations))
    result: Array = views[:, :, *steps]
    return result


def _matmul(x: Array, y: Array, transpose_x: bool, transpose_y: bool) -> Array:
    x, y = _align(x, y)
    x = x.swapaxes(-1, -2) if transpose_x else x
    y = y.swapaxes(-1, -2) if transpose_y else y
    if all(size == 1 for size in y.shape[:-2]):
        # One product of all samples, where NumPy would make one for each.
        return _multiply_rows(x, y.reshape(y.shape[-2:]))
    result: Array = x @ y
    return result


def _multiply_rows(x: Array, matrix: Array) -> Array:
    result: Array = x.reshape(-1, x.shape[-1]) @ matrix
    return result.reshape(*x.shape[:-1], matrix.shape[1])


def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    result = _multiply_rows(x, weight.T)
    return result if bias is None else result + bias


def _einsum(values: Sequence[Array], equation: str) -> Array:
    terms, output = equation.replace(" ", "").split("->")
    batched = ",".join(f"...{term}" for term in terms.split(","))
    result: Array = np.einsum(f"{batched}->...{output}", *values, optimize=True)
    return result


def _softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis=_shift(axis), keepdims=True))
    result: Array = powers / powers.sum(axis=_shift(axis), keepdims=True)
    return result


def _sigmoid(x: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-x))
    return result


def _sigmoid_hard(x: Array, alpha: Array, beta: Array) -> Array:
    result: Array = np.clip(alpha * x + beta, 0, 1)
    return result


def _leaky_relu(x: Array, alpha: Array) -> Array:
    return np.where(x >= 0, x, alpha * x)


def _prelu(x: Array, alpha: Array) -> Array:
    return np.where(x >= 0, x, _per_channel(alpha, x) * x)


def _elu(x: Array, alpha: Array) -> Array:
    return np.where(x >= 0, x, alpha * np.expm1(x))


def _batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    epsilon: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
) -> Array:
    scale = (1 if gamma is None else gamma) / np.sqrt(variance + epsilon)
    offset = (0 if beta is None else beta) - mean * scale
    return x * _per_channel(scale, x) + _per_channel(offset, x)


def _per_channel(values: Array, x: Array) -> Array:
    """Shapes (channels,) to broadcast over x, (n, batch, channels, *space)."""
    return values.reshape(-1, *[1] * (x.ndim - 3))


def _reshape(x: Array, shape: Sequence[int]) -> Array:
    return x.reshape(len(x), *shape)


def _squeeze(x: Array, axes: Sequence[int] | None = None) -> Array:
    every = [i for i, size in enumerate(x.shape[1:]) if size == 1] if axes is None else axes
    return x.squeeze(tuple(map(_shift, every)))


def _expand_dims(x: Array, axes: Sequence[int]) -> Array:
    return np.expand_dims(x, tuple(map(_shift, axes)))


def _transpose(x: Array, perm: Sequence[int]) -> Array:
    return x.transpose(0, *(axis % len(perm) + 1 for axis in perm))


def _split(
    x: Array,
    axis: int,
    num_splits: int | None = None,
    split_sizes: Sequence[int] | None = None,
) -> list[Array]:
    where = num_splits if split_sizes is None else np.cumsum(split_sizes)[:-1]
    return np.split(x, where, axis=_shift(axis))  # type: ignore[arg-type]


def _concat(values: Sequence[Array], axis: int, interleave: bool) -> Array:
    values = _spread(values)
    if not interleave:
        return np.concatenate(values, axis=_shift(axis))
    axis = _shift(axis) % values[0].ndim
    shape = list(values[0].shape)
    shape[axis] *= len(values)
    return np.stack(values, axis=axis + 1).reshape(shape)


def _stack(values: Sequence[Array], axis: int) -> Array:
    return np.stack(_spread(values), axis=_shift(axis))


def _spread(values: Sequence[Array]) -> list[Array]:
    """Repeats constants, which have one sample, for all samples."""
    samples = max(map(len, values))
    return [np.broadcast_to(value, (samples, *value.shape[1:])) for value in values]


def _slice_by_index(
    x: Array,
    begin: Sequence[int],
    end: Sequence[int],
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Array:
    no = [False] * len(begin)
    index: list[slice | int] = [slice(None)]
    for first, last, step, from_start, to_end, squeezed in zip(
        begin,
        end,
        stride or [1] * len(begin),
        begin_mask or no,
        end_mask or no,
        squeeze_mask or no,
        strict=True,
    ):
        start = None if from_start else first
        index.append((start or 0) if squeezed else slice(start, None if to_end else last, step))
    result: Array = x[tuple(index)]
    return result


def _slice_by_size(x: Array, begin: Sequence[int], size: Sequence[int]) -> Array:
    index = [slice(None)]
    for first, count, length in zip(begin, size, x.shape[1:], strict=True):
        start = first % length
        index.append(slice(start, length if count == -1 else start + count))
    result: Array = x[tuple(index)]
    return result


def _pad(x: Array, pad: Sequence[int], mode: str, constant_val: Array) -> Array:
    """Pads the last len(pad) / 2 axes."""
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        return np.pad(x, widths, constant_values=constant_val)
    return np.pad(x, widths, mode="edge" if mode == "replicate" else "reflect")


# Values pass through these as they are, so they need no float32.
MOVES: dict[str, Operation] = {
    "cast": lambda x, dtype: x,  # noqa: ARG005 - the output's type in the program says the same
    "concat": _concat,
    "expand_dims": _expand_dims,
    "identity": lambda x: x,
    "pad": _pad,
    "reshape": _reshape,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": lambda x, reps: np.tile(x, (1, *reps)),
    "transpose": _transpose,
}

COMPUTATIONS: dict[str, Operation] = {
    "abs": lambda x: np.abs(x),
    "add": _elementwise(np.add),
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "clip": lambda x, alpha, beta: np.clip(x, alpha, beta),
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "einsum": _einsum,
    "elu": _elu,
    "exp": lambda x: np.exp(x),
    "leaky_relu": _leaky_relu,
    "linear": _linear,
    "matmul": _matmul,
    "max_pool": _max_pool,
    "maximum": _elementwise(np.maximum),
    "minimum": _elementwise(np.minimum),
    "mul": _elementwise(np.multiply),
    "prelu": _prelu,
    "real_div": _elementwise(np.divide),
    "reduce_max": _reduction(np.max),
    "reduce_mean": _reduction(np.mean),
    "reduce_min": _reduction(np.min),
    "reduce_sum": _reduction(np.sum),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "rsqrt": lambda x, epsilon: 1 / np.sqrt(x + epsilon),
    "sigmoid": _sigmoid,
    "sigmoid_hard": _sigmoid_hard,
    "silu": lambda x: x * _sigmoid(x),
    "softmax": _softmax,
    "softplus": lambda x: np.logaddexp(x, 0),
    "sqrt": lambda x: np.sqrt(x),
    "square": lambda x: np.square(x),
    "sub": _elementwise(np.subtract),
    "tanh": lambda x: np.tanh(x),
}

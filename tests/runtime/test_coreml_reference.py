import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import tensorflow as tf
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - as Apple's documentation has it
from coremltools.converters.mil.mil import types
from numpy.typing import NDArray

import hemline
from hemline.benchmark.run import bench
from hemline.benchmark.timing import Schedule
from hemline.cli import main
from hemline.engines import engine_for
from hemline.engines.coreml import list_operations
from hemline.engines.coreml_reference import CAVEAT, CoreMLReferenceEngine
from hemline.errors import (
    EngineUnavailableError,
    ModelFileError,
    UnknownOperationError,
)

Array = NDArray[Any]
SAMPLES = 3
_number = count()


def save(folder: Path, model: Any) -> Path:
    path = folder / f"{next(_number)}.mlpackage"
    model.save(str(path))
    return path


def convert(
    body: Callable[[Any], Any], shape: tuple[int, ...], dtype: Any, target: Any = None
) -> Any:
    """A package of what `body` builds, none of its operations optimized away."""
    target = target or ct.target.macOS13

    @mb.program(
        input_specs=[mb.TensorSpec(shape, types.numpy_type_to_builtin_type(dtype))],
        opset_version=target,
    )
    def program(x: Any) -> Any:
        return body(x)

    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )


class Case:
    """Random sizes and values for one operation, float16 or float32."""

    def __init__(self, seed: int, dtype: Any) -> None:
        self.random = np.random.default_rng(seed)
        self.dtype = dtype

    def size(self, low: int = 1, high: int = 6) -> int:
        return int(self.random.integers(low, high, endpoint=True))

    def choose(self, *options: Any) -> Any:
        return options[self.random.integers(len(options))]

    def values(self, *shape: int) -> Array:
        return self.random.normal(size=shape).astype(self.dtype)

    def positive(self, *shape: int) -> Array:
        return self.random.uniform(0.5, 2, shape).astype(self.dtype)

    def scalar(self, value: float) -> Any:
        return self.dtype(value)


# What a case gives: the input's shape in the program, what builds the operation, and what NumPy
# or TensorFlow makes of float32 (n, *shape without the leading 1).
Given = tuple[tuple[int, ...], Callable[[Any], Any], Callable[[Array], Any]]
CASES: dict[str, Callable[[Case], Given]] = {}


def case(function: Callable[[Case], Given]) -> Callable[[Case], Given]:
    CASES[function.__name__] = function
    return function


def f32(values: Array) -> Array:
    return values.astype(np.float32)


def convolve(
    x: Array, weight: Array, stride: Any, padding: Any, dilations: Any, groups: int
) -> Array:
    """TensorFlow's convolution of NCHW with OIHW, group by group."""
    parts = [
        tf.nn.conv2d(
            part.transpose(0, 2, 3, 1),
            kernel.transpose(2, 3, 1, 0),
            stride,
            padding,
            dilations=dilations,
        )
        for part, kernel in zip(np.split(x, groups, axis=1), np.split(weight, groups), strict=True)
    ]
    return np.asarray(tf.concat(parts, axis=-1)).transpose(0, 3, 1, 2)


@case
def conv(c: Case) -> Given:
    groups, channels, filters = c.size(1, 3), c.size(1, 3), c.size(1, 3)
    kernel = (c.size(1, 3), c.size(1, 3))
    weight, bias = f32(c.values(groups * filters, channels, *kernel)), c.values(groups * filters)
    weight = weight.astype(c.dtype)
    pad_type = c.choose("same", "valid", "custom", "same_lower")
    pad = [c.size(0, 2) for _ in range(4)]
    # TensorFlow takes a stride or a dilation, not both; flipping needs windows that tile.
    strides = [1, 1] if pad_type == "same_lower" else [c.size(1, 2)] * 2
    dilations = [1, 1] if strides != [1, 1] else [c.size(1, 2)] * 2

    def expected(x: Array) -> Array:
        flat, kernels = x, f32(weight)
        if pad_type == "same_lower":
            flat, kernels = flat[..., ::-1, ::-1], kernels[..., ::-1, ::-1]
        padding: Any = {"valid": "VALID", "custom": "VALID"}.get(pad_type, "SAME")
        if pad_type == "custom":
            flat = np.pad(flat, [(0, 0), (0, 0), tuple(pad[:2]), tuple(pad[2:])])
        found = convolve(flat, kernels, strides, padding, dilations, groups)
        if pad_type == "same_lower":
            found = found[..., ::-1, ::-1]
        return found + f32(bias).reshape(-1, 1, 1)

    return (
        (1, groups * channels, c.size(5, 9), c.size(5, 9)),
        lambda x: mb.conv(
            x=x,
            weight=weight,
            bias=bias,
            strides=strides,
            pad_type=pad_type,
            pad=pad,
            dilations=dilations,
            groups=groups,
        ),
        expected,
    )


@case
def conv_transpose(c: Case) -> Given:
    groups, channels, filters = c.size(1, 3), c.size(1, 3), c.size(1, 3)
    kernel, space = (c.size(1, 4), c.size(1, 4)), (c.size(2, 6), c.size(2, 6))
    weight, bias = c.values(groups * channels, filters, *kernel), c.values(groups * filters)
    strides, pad_type = [c.size(1, 3), c.size(1, 3)], c.choose("same", "valid")
    least, reach = (
        [(size - 1) * step + 1 for size, step in zip(space, strides, strict=True)],
        [max(k - s, 0) for k, s in zip(kernel, strides, strict=True)],
    )
    # Sizes that a convolution with this stride would have come from.
    if pad_type == "same":
        wanted = [c.size(low, low + s - 1) for low, s in zip(least, strides, strict=True)]
    else:
        wanted = [
            size * step + more for size, step, more in zip(space, strides, reach, strict=True)
        ]
    output_shape = [1, groups * filters, *wanted]

    def expected(x: Array) -> Array:
        parts = [
            tf.nn.conv2d_transpose(
                part.transpose(0, 2, 3, 1),
                kernels.transpose(2, 3, 1, 0),
                (len(x), *wanted, filters),
                strides,
                pad_type.upper(),
            )
            for part, kernels in zip(
                np.split(x, groups, axis=1), np.split(f32(weight), groups), strict=True
            )
        ]
        found = np.asarray(tf.concat(parts, axis=-1)).transpose(0, 3, 1, 2)
        return found + f32(bias).reshape(-1, 1, 1)

    return (
        (1, groups * channels, *space),
        lambda x: mb.conv_transpose(
            x=x,
            weight=weight,
            bias=bias,
            strides=strides,
            pad_type=pad_type,
            output_shape=output_shape,
            groups=groups,
        ),
        expected,
    )


@case
def depthwise(c: Case) -> Given:
    channels, stride = c.size(2, 6), c.size(1, 2)
    weight = c.values(channels, 1, 3, 3)
    kernel = f32(weight).transpose(2, 3, 0, 1)
    return (
        (1, channels, c.size(5, 9), c.size(5, 9)),
        lambda x: mb.conv(
            x=x, weight=weight, strides=[stride] * 2, pad_type="same", groups=channels
        ),
        lambda x: np.asarray(
            tf.nn.depthwise_conv2d(x.transpose(0, 2, 3, 1), kernel, [1, stride, stride, 1], "SAME")
        ).transpose(0, 3, 1, 2),
    )


@case
def conv_1d(c: Case) -> Given:
    weight, stride = c.values(4, 3, c.size(1, 3)), c.size(1, 3)
    return (
        (1, 3, c.size(5, 9)),
        lambda x: mb.conv(x=x, weight=weight, strides=[stride], pad_type="valid"),
        lambda x: np.asarray(
            tf.nn.conv1d(x.transpose(0, 2, 1), f32(weight).transpose(2, 1, 0), stride, "VALID")
        ).transpose(0, 2, 1),
    )


def pool(c: Case, operation: Any, kind: str, **options: Any) -> Given:
    stride = c.size(1, 3)
    # TensorFlow refuses steps beyond the window.
    kernel, strides = [c.size(stride, 3), c.size(stride, 3)], [stride] * 2
    pad_type = c.choose("same", "valid")
    return (
        (1, c.size(), c.size(4, 9), c.size(4, 9)),
        lambda x: operation(
            x=x, kernel_sizes=kernel, strides=strides, pad_type=pad_type, **options
        ),
        lambda x: np.asarray(
            tf.nn.pool(x.transpose(0, 2, 3, 1), kernel, kind, strides, pad_type.upper())
        ).transpose(0, 3, 1, 2),
    )


@case
def max_pool(c: Case) -> Given:
    return pool(c, mb.max_pool, "MAX")


@case
def avg_pool(c: Case) -> Given:
    # TensorFlow's mean leaves out what is padded.
    return pool(c, mb.avg_pool, "AVG", exclude_padding_from_average=True)


@case
def avg_pool_of_padding(c: Case) -> Given:
    size = c.size(3, 8)
    return (
        (1, 2, size),
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3], strides=[1], pad_type="custom", pad=[1, 1]),
        lambda x: (
            np.pad(x, [(0, 0), (0, 0), (1, 1)])[..., [[i, i + 1, i + 2] for i in range(size)]]
        ).mean(axis=-1),
    )


@case
def matmul(c: Case) -> Given:
    rows, inner, columns = c.size(), c.size(), c.size()
    flip_x, flip_y = c.choose(False, True), c.choose(False, True)
    batch = c.choose((1,), (1, 4))
    y = c.values(*((columns, inner) if flip_y else (inner, columns)))
    return (
        (*batch, *((inner, rows) if flip_x else (rows, inner))),
        lambda x: mb.matmul(x=x, y=y, transpose_x=flip_x, transpose_y=flip_y),
        lambda x: (x.swapaxes(-1, -2) if flip_x else x) @ (f32(y).T if flip_y else f32(y)),
    )


@case
def matmul_of_two_values(c: Case) -> Given:
    return (
        (1, c.size(), c.size(), c.size()),
        lambda x: mb.matmul(x=x, y=mb.abs(x=x), transpose_y=True),
        lambda x: x @ np.abs(x).swapaxes(-1, -2),
    )


@case
def linear(c: Case) -> Given:
    inner, columns = c.size(), c.size()
    weight, bias = c.values(columns, inner), c.values(columns)
    return (
        (1, *c.choose((), (3,)), inner),
        lambda x: mb.linear(x=x, weight=weight, bias=bias),
        lambda x: x @ f32(weight).T + f32(bias),
    )


@case
def einsum(c: Case) -> Given:
    a, b, w1, w2 = c.size(), c.size(), c.size(), c.size()
    y = c.values(1, w1, b, w2)
    return (
        (1, a, b, w1),
        lambda x: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        lambda x: np.einsum("nchw,whu->nchu", x, f32(y)[0]),
    )


def unary(name: str, operation: Any, expected: Any, **constants: float) -> None:
    def given(c: Case) -> Given:
        shape = (1, *(c.size() for _ in range(c.size(1, 3))))
        parameters = {key: c.dtype(value) for key, value in constants.items()}
        return shape, lambda x: operation(x=x, **parameters), expected

    CASES[name] = given


unary("abs", mb.abs, np.abs)
unary("relu", mb.relu, tf.nn.relu)
unary("relu6", lambda x: mb.relu6(x=mb.mul(x=x, y=mb.square(x=x))), lambda x: tf.nn.relu6(x**3))
unary("sigmoid", mb.sigmoid, tf.nn.sigmoid)
unary("tanh", mb.tanh, np.tanh)
unary("exp", mb.exp, np.exp)
unary("square", mb.square, np.square)
unary("silu", mb.silu, tf.nn.silu)
unary("softplus", mb.softplus, tf.nn.softplus)
unary("elu", mb.elu, tf.nn.elu, alpha=1)
unary("identity", mb.identity, lambda x: x)
unary("leaky_relu", mb.leaky_relu, lambda x: tf.nn.leaky_relu(x, 0.25), alpha=0.25)
unary("clip", mb.clip, lambda x: np.clip(x, -0.5, 0.75), alpha=-0.5, beta=0.75)
unary("sigmoid_hard", mb.sigmoid_hard, lambda x: np.clip(x / 4 + 0.5, 0, 1), alpha=0.25, beta=0.5)
unary("sqrt", lambda x: mb.sqrt(x=mb.abs(x=x)), lambda x: np.sqrt(np.abs(x)))
unary(
    "rsqrt",
    lambda x, epsilon: mb.rsqrt(x=mb.abs(x=x), epsilon=epsilon),
    lambda x: 1 / np.sqrt(np.abs(x) + 0.5),
    epsilon=0.5,
)


@case
def prelu(c: Case) -> Given:
    channels = c.size()
    alpha = c.positive(channels)
    return (
        (1, channels, c.size(), c.size()),
        lambda x: mb.prelu(x=x, alpha=alpha),
        lambda x: np.where(x > 0, x, f32(alpha).reshape(-1, 1, 1) * x),
    )


@case
def softmax(c: Case) -> Given:
    axis = c.choose(1, 2, -1, -2)
    return (
        (1, c.size(), c.size()),
        lambda x: mb.softmax(x=x, axis=axis),
        lambda x: tf.nn.softmax(x, axis),
    )


def binary(name: str, operation: Any, expected: Any) -> None:
    def with_constant(c: Case) -> Given:
        a, b = c.size(), c.size()
        # A scalar, a vector, a matrix, and more axes than the value has.
        y = c.positive(*c.choose((), (b,), (1, a, b), (a, 1), (1, 2, a, b)))
        return (
            (1, *((2,) if y.ndim == 4 else ()), a, b),
            lambda x: operation(x=x, y=y),
            lambda x: expected(x, f32(y)),
        )

    def constant_first(c: Case) -> Given:
        y = c.positive(4)
        return (
            (1, c.size(), 4),
            lambda x: operation(x=y, y=mb.exp(x=x)),
            lambda x: expected(f32(y), np.exp(x).astype(c.dtype).astype(np.float32)),
        )

    def lower_rank(c: Case) -> Given:
        rows, columns = c.size(), c.size()

        def build(x: Any) -> Any:
            sums = mb.exp(x=mb.reduce_max(x=x, axes=[0, 1], keep_dims=False))
            return operation(x=x, y=sums)

        return (
            (1, rows, columns),
            build,
            lambda x: expected(
                x, np.exp(x.max(axis=1, keepdims=True)).astype(c.dtype).astype(np.float32)
            ),
        )

    CASES[name] = with_constant
    CASES[f"{name} of a constant"] = constant_first
    CASES[f"{name} of another rank"] = lower_rank


binary("add", mb.add, np.add)
binary("sub", mb.sub, np.subtract)
binary("mul", mb.mul, np.multiply)
binary("real_div", mb.real_div, np.divide)
binary("maximum", mb.maximum, np.maximum)
binary("minimum", mb.minimum, np.minimum)


def reduction(name: str, operation: Any, expected: Any) -> None:
    def given(c: Case) -> Given:
        axes = c.choose([1], [1, 2], [-1], [-2, -1])
        return (
            (1, c.size(), c.size(), c.size()),
            lambda x: operation(x=x, axes=axes, keep_dims=True),
            lambda x: expected(x, axis=tuple(axes), keepdims=True),
        )

    CASES[name] = given


reduction("reduce_mean", mb.reduce_mean, np.mean)
reduction("reduce_sum", mb.reduce_sum, np.sum)
reduction("reduce_max", mb.reduce_max, np.max)
reduction("reduce_min", mb.reduce_min, np.min)


@case
def global_average(c: Case) -> Given:
    return (
        (1, c.size(), c.size(), c.size()),
        lambda x: mb.reduce_mean(x=x, axes=[2, 3], keep_dims=False),
        lambda x: x.mean(axis=(2, 3)),
    )


@case
def batch_norm(c: Case) -> Given:
    channels = c.size()
    mean, variance, gamma, beta = (c.positive(channels) for _ in range(4))
    return (
        (1, channels, *c.choose((), (4,), (4, 3))),
        lambda x: mb.batch_norm(
            x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=c.scalar(0.125)
        ),
        lambda x: np.moveaxis(
            np.asarray(
                tf.nn.batch_normalization(
                    np.moveaxis(x, 1, -1), f32(mean), f32(variance), f32(beta), f32(gamma), 0.125
                )
            ),
            -1,
            1,
        ),
    )


@case
def batch_norm_without_scale(c: Case) -> Given:
    mean, variance = c.positive(3), c.positive(3)
    return (
        (1, 3, 4, 4),
        lambda x: mb.batch_norm(x=x, mean=mean, variance=variance, epsilon=c.scalar(0.125)),
        lambda x: (
            (x - f32(mean).reshape(-1, 1, 1)) / np.sqrt(f32(variance).reshape(-1, 1, 1) + 0.125)
        ),
    )


@case
def reshape(c: Case) -> Given:
    a, b = c.size(), c.size()
    return (
        (1, a, b, 2),
        lambda x: mb.reshape(x=x, shape=[1, a, -1]),
        lambda x: x.reshape(len(x), a, -1),
    )


@case
def transpose(c: Case) -> Given:
    perm = c.choose([0, 2, 3, 1], [0, 3, 1, 2], [0, -1, -2, -3])
    return (
        (1, c.size(), c.size(), c.size()),
        lambda x: mb.transpose(x=x, perm=perm),
        lambda x: x.transpose([axis % 4 for axis in perm]),
    )


@case
def squeeze(c: Case) -> Given:
    axes = c.choose([1], [-1], [1, 3])
    return (
        (1, 1, c.size(), 1),
        lambda x: mb.squeeze(x=x, axes=axes),
        lambda x: x.squeeze(tuple(axes)),
    )


@case
def squeeze_the_batch_away_and_back(c: Case) -> Given:
    return (
        (1, 1, c.size(2)),
        lambda x: mb.expand_dims(x=mb.squeeze(x=x), axes=[0]),
        lambda x: x[:, 0],
    )


@case
def expand_dims(c: Case) -> Given:
    axes = c.choose([1], [-1], [1, 3])
    return (
        (1, c.size(), c.size()),
        lambda x: mb.expand_dims(x=x, axes=axes),
        lambda x: np.expand_dims(x, tuple(axes)),
    )


@case
def split(c: Case) -> Given:
    axis = c.choose(1, -2)

    def build(x: Any) -> Any:
        first, second = mb.split(x=x, num_splits=2, axis=axis)
        return mb.sub(x=first, y=second)

    return (1, 6, c.size()), build, lambda x: x[:, :3] - x[:, 3:]


@case
def split_by_sizes(c: Case) -> Given:
    def build(x: Any) -> Any:
        first, second, third = mb.split(x=x, split_sizes=[1, 2, 1], axis=2)
        return mb.concat(values=(third, first, second), axis=-1)

    return (1, c.size(), 4), build, lambda x: x[..., [3, 0, 1, 2]]


@case
def concat(c: Case) -> Given:
    rows = c.size()
    y = c.values(1, 2, rows)
    return (
        (1, c.size(), rows),
        lambda x: mb.concat(values=(x, y, mb.abs(x=x)), axis=1),
        lambda x: np.concatenate([x, np.repeat(f32(y), len(x), 0), np.abs(x)], axis=1),
    )


@case
def concat_interleaved(c: Case) -> Given:
    return (
        (1, 3, c.size()),
        lambda x: mb.concat(values=(x, mb.abs(x=x)), axis=-2, interleave=True),
        lambda x: np.stack([x, np.abs(x)], axis=2).reshape(len(x), 6, -1),
    )


@case
def stack(c: Case) -> Given:
    axis = c.choose(1, 2, -1)
    return (
        (1, c.size(), c.size()),
        lambda x: mb.stack(values=(x, mb.abs(x=x)), axis=axis),
        lambda x: np.stack([x, np.abs(x)], axis=axis),
    )


@case
def slice_by_index(c: Case) -> Given:
    return (
        (1, c.size(4), c.size(4), c.size(4)),
        lambda x: mb.slice_by_index(
            x=x,
            begin=[0, 1, -2, 3],
            end=[1, -1, 0, 0],
            stride=[1, 2, 1, -2],
            begin_mask=[True, False, False, False],
            end_mask=[True, False, True, True],
        ),
        lambda x: x[:, 1:-1:2, -2:, 3::-2],
    )


@case
def slice_by_index_squeezing(c: Case) -> Given:
    row = c.choose(0, 2, -1)
    return (
        (1, 6, c.size()),
        lambda x: mb.slice_by_index(
            x=x,
            begin=[0, row, 0],
            end=[0, 0, 0],
            end_mask=[True, True, True],
            squeeze_mask=[False, True, False],
        ),
        lambda x: x[:, row],
    )


@case
def slice_by_size(c: Case) -> Given:
    return (
        (1, c.size(4), 5),
        lambda x: mb.slice_by_size(x=x, begin=[0, 2, -4], size=[1, -1, 3]),
        lambda x: x[:, 2:, 1:4],
    )


@case
def pad(c: Case) -> Given:
    mode, widths = c.choose("constant", "reflect", "replicate"), [c.size(0, 2) for _ in range(4)]
    numpy_mode = {"replicate": "edge"}.get(mode, mode)
    options = {"constant_values": 1.5} if mode == "constant" else {}
    pairs = [(0, 0), (0, 0), tuple(widths[:2]), tuple(widths[2:])]
    return (
        (1, c.size(), c.size(3), c.size(3)),
        lambda x: mb.pad(x=x, pad=widths, mode=mode, constant_val=c.scalar(1.5)),
        lambda x: np.pad(x, pairs, numpy_mode, **options),
    )


@case
def cast(c: Case) -> Given:
    return (
        (1, c.size(), c.size()),
        lambda x: mb.cast(
            x=mb.cast(x=mb.mul(x=x, y=c.scalar(4)), dtype="int32"),
            dtype=types.builtin_to_string(types.numpy_type_to_builtin_type(c.dtype)),
        ),
        lambda x: np.trunc(4 * x),
    )


@pytest.fixture(scope="module", autouse=True)
def _frozen_garbage() -> Iterator[None]:
    # Each conversion by coremltools collects garbage, among all that TensorFlow has loaded.
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", sorted(CASES))
def test_an_operation_gives_what_numpy_or_tensorflow_gives(
    name: str, dtype: Any, tmp_path: Path
) -> None:
    for seed in range(4):
        c = Case(seed, dtype)
        shape, build, expected = CASES[name](c)
        engine = CoreMLReferenceEngine(save(tmp_path, convert(build, shape, dtype)), threads=1)
        x = c.values(SAMPLES, *shape[1:])
        found = engine.run(x)
        assert found.dtype == dtype
        assert engine.outputs[0].shape == (None, *found.shape[1:])
        right = np.asarray(expected(f32(x)))
        relative, absolute = (1e-5, 1e-5) if dtype == np.float32 else (2e-3, 2e-3)
        np.testing.assert_allclose(f32(found), right, relative, absolute, err_msg=f"seed {seed}")


def test_float16_is_rounded_after_each_operation(tmp_path: Path) -> None:
    # 2048 + 1 is no float16 number; ties go to the even neighbour, and the 1 is lost for good.
    package = save(
        tmp_path,
        convert(
            lambda x: mb.sub(x=mb.add(x=x, y=np.float16(1)), y=np.float16(2048)),
            (1, 2),
            np.float16,
        ),
    )
    engine = CoreMLReferenceEngine(package, threads=1)
    found = engine.run(np.array([[2048, 2050]], np.float16))
    assert found.tolist() == [[0, 4]]


def test_an_overflow_becomes_infinity(tmp_path: Path) -> None:
    package = save(tmp_path, convert(lambda x: mb.mul(x=x, y=x), (1, 1), np.float16))
    found = CoreMLReferenceEngine(package, threads=1).run(np.array([[255], [256]], np.float16))
    assert found.tolist() == [[65024], [np.inf]]


@pytest.mark.parametrize("precision", ["FLOAT16", "FLOAT32"])
def test_what_the_converter_optimizes_computes_the_same(precision: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(8, 3, 3, 3)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec((1, 3, 9, 9))], opset_version=ct.target.macOS13)
    def program(x: Any) -> Any:
        x = mb.conv(x=x, weight=weight, pad_type="same")
        x = mb.relu(x=mb.add(x=x, y=np.float32(0.5)))
        return mb.softmax(x=mb.reduce_mean(x=x, axes=[2, 3], keep_dims=False), axis=-1)

    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.macOS13,
        compute_precision=ct.precision[precision],
        skip_model_load=True,
    )
    engine = CoreMLReferenceEngine(save(tmp_path, model), threads=1)
    x = random.random((5, 3, 9, 9), np.float32)
    hidden = tf.nn.relu(convolve(x, weight, 1, "SAME", 1, 1) + 0.5)
    expected = tf.nn.softmax(np.mean(hidden, axis=(2, 3))).numpy()
    np.testing.assert_allclose(
        engine.run(x), expected, atol=1e-3 if precision == "FLOAT16" else 1e-6
    )


def test_an_unknown_operation_is_named_with_its_output(tmp_path: Path) -> None:
    package = save(
        tmp_path, convert(lambda x: mb.erf(x=x, name="error_function"), (1, 3), np.float32)
    )
    with pytest.raises(UnknownOperationError, match="operation 'erf', which makes error_function"):
        CoreMLReferenceEngine(package, threads=1)


def test_an_unknown_form_of_an_operation_is_refused(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.max_pool(
            x=x, kernel_sizes=[2], strides=[2], pad_type="valid", ceil_mode=True, name="pooled"
        )

    engine = CoreMLReferenceEngine(save(tmp_path, convert(build, (1, 1, 5), np.float32)), 1)
    with pytest.raises(
        UnknownOperationError, match=r"max_pool that makes pooled gives \(1, 1, 2\)"
    ):
        engine.run(np.zeros((1, 1, 5), np.float32))


def test_a_parameter_that_is_no_constant_is_refused(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.conv(x=x, weight=x, name="squared")

    package = save(tmp_path, convert(build, (1, 3, 1), np.float32, ct.target.macOS14))
    with pytest.raises(UnknownOperationError, match="constant weight in the conv that makes sq"):
        CoreMLReferenceEngine(package, threads=1)


def test_a_program_for_another_batch_than_one_is_refused(tmp_path: Path) -> None:
    package = save(tmp_path, convert(lambda x: mb.relu(x=x), (2, 3), np.float32))
    with pytest.raises(UnknownOperationError, match=r"\(2, 3\), and .* a batch of 1"):
        CoreMLReferenceEngine(package, threads=1)


def test_a_program_without_its_weights_is_refused(tmp_path: Path) -> None:
    weight = np.ones((64, 64), np.float32)
    package = save(tmp_path, convert(lambda x: mb.linear(x=x, weight=weight), (1, 64), np.float32))
    shutil.rmtree(package / "Data" / "com.apple.CoreML" / "weights")
    with pytest.raises(ModelFileError, match=r"mlpackage"):
        CoreMLReferenceEngine(package, threads=1)


class Compressible:
    """A linear layer large enough for coremltools to compress."""

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        self.weight = random.normal(size=(64, 96)).astype(np.float16)
        self.x = random.normal(size=(7, 96)).astype(np.float16)
        self.model = convert(lambda x: mb.linear(x=x, weight=self.weight), (1, 96), np.float16)

    def check(self, folder: Path, model: Any, kind: str, weight: Array) -> None:
        package = save(folder, model)
        assert kind in {operation.type for operation in list_operations(model.get_spec())}
        found = CoreMLReferenceEngine(package, threads=1).run(self.x)
        np.testing.assert_allclose(f32(found), f32(self.x) @ f32(weight).T, 2e-3, 2e-3)


@pytest.fixture(scope="module")
def compressible() -> Compressible:
    return Compressible()


def test_int8_weights(compressible: Compressible, tmp_path: Path) -> None:
    optimize = ct.optimize.coreml
    config = optimize.OptimizationConfig(
        optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
    )
    model = optimize.linear_quantize_weights(compressible.model, config)
    # coremltools finds the integers in float16, and restores weights in float32.
    weight = compressible.weight
    scale = np.abs(weight).max(axis=1, keepdims=True) * 2 / 254
    restored = (f32(np.round(weight / scale)) * scale).astype(np.float16)
    compressible.check(tmp_path, model, "constexpr_affine_dequantize", restored)


def test_pruned_weights(compressible: Compressible, tmp_path: Path) -> None:
    optimize = ct.optimize.coreml
    config = optimize.OptimizationConfig(
        optimize.OpThresholdPrunerConfig(threshold=0.5, minimum_sparsity_percentile=0.1)
    )
    model = optimize.prune_weights(compressible.model, config)
    weight = compressible.weight
    pruned = np.where(np.abs(weight) < 0.5, np.float16(0), weight)
    compressible.check(tmp_path, model, "constexpr_sparse_to_dense", pruned)


def test_a_palette_of_16(compressible: Compressible, tmp_path: Path) -> None:
    indices = np.random.default_rng(4).integers(0, 16, (64, 96), np.uint8)
    palette = np.linspace(-2, 2, 16, dtype=np.float16)
    # Two four-bit indices in a byte, the first in its low half.
    pairs = indices.reshape(-1, 2)
    packed = pairs[:, 0] | pairs[:, 1] << 4

    def build(x: Any) -> Any:
        weight = mb.constexpr_lut_to_dense(
            indices=packed, lut=palette, shape=np.array([64, 96], np.uint32)
        )
        return mb.linear(x=x, weight=weight)

    compressible.check(
        tmp_path, convert(build, (1, 96), np.float16), "constexpr_lut_to_dense", palette[indices]
    )


def test_scales_for_blocks_of_weights(compressible: Compressible, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    data = random.integers(-128, 128, (64, 96), np.int8)
    scale = random.uniform(0.01, 0.02, (64, 3)).astype(np.float16)

    def build(x: Any) -> Any:
        weight = mb.constexpr_blockwise_shift_scale(data=data, scale=scale)
        return mb.linear(x=x, weight=weight)

    restored = (data * np.repeat(f32(scale), 32, axis=1)).astype(np.float16)
    model = convert(build, (1, 96), np.float16, ct.target.macOS15)
    compressible.check(tmp_path, model, "constexpr_blockwise_shift_scale", restored)


def test_it_agrees_with_the_float_model(exported: Path, garments: Path) -> None:
    with np.load(garments / "test.npz") as data:
        images = data["images"][:1_000]
    model = hemline.load(exported / "separable.float16.mlpackage", engine="coreml-reference")
    assert model.engine.inputs[0].shape == (None, 28, 28, 1)
    found = model.predict(images)
    expected = hemline.load(exported / "separable.float.keras").predict(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-2)
    assert (found.indices == expected.indices).mean() > 0.99
    # BLAS may add a single row in another order, and float16 then rounds to a step of 2⁻¹¹ beside.
    one = model.predict(images[5]).probabilities
    np.testing.assert_allclose(one, found.probabilities[5:6], atol=2e-3)


def test_facts_are_read_from_inside_the_package(exported: Path, tmp_path: Path) -> None:
    alone = tmp_path / "separable.float16.mlpackage"
    shutil.copytree(exported / alone.name, alone)
    model = hemline.load(alone, engine="coreml-reference")
    assert model.require_facts().model == "separable"


def test_engines_are_chosen_by_name() -> None:
    assert engine_for(Path("a.mlpackage")).name == "coreml"
    assert engine_for(Path("a.mlpackage"), "coreml-reference") is CoreMLReferenceEngine
    assert engine_for(Path("a.tflite"), "litert").name == "litert"
    with pytest.raises(ModelFileError, match=r"no engine 'coreml'.*'.tflite'; known: litert"):
        engine_for(Path("a.tflite"), "coreml")
    with pytest.raises(ModelFileError, match=r"'.pt'; known: none by name"):
        engine_for(Path("a.pt"), "litert")


def test_its_version_is_hemline_s() -> None:
    assert CoreMLReferenceEngine.version() == hemline.__version__


off_macos = pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself runs on macOS")


@off_macos
def test_core_ml_names_it_off_macos(exported: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="the engine coreml-reference"):
        hemline.load(exported / "separable.float16.mlpackage")


@off_macos
def test_verify_uses_it_and_says_so(
    exported: Path, garments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "separable"
    shutil.copytree(exported, folder)
    # More than float16 can cost: it leaves more than 99 % of the classes as they are.
    main(["verify", str(folder), "--data", str(garments / "test.npz"), "--margin", "5"])
    table = capsys.readouterr().out
    assert "PASS (reference) |" in table
    assert "separable.float16.mlpackage: PASS: with 95 % confidence" in table
    assert f"({CAVEAT})" in table


@off_macos
def test_bench_never_times_it(exported: Path) -> None:
    report = bench([exported], schedule=Schedule(warmup_calls=1, calls_per_round=1, rounds=1))
    assert "says nothing of its speed" in report.not_run["separable.float16.mlpackage"]

"""Core ML packages evaluated in NumPy, on any system: a reference, not Apple's runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hemline.engines.base import require_one
from hemline.engines.coreml import (
    CoreMLEngine,
    describe_tensors,
    list_operations,
    open_package,
    why_no_coremltools,
)
from hemline.engines.mil_operations import COMPUTATIONS, MOVES, OPERANDS, Operation
from hemline.errors import ModelFileError, UnknownOperationError
from hemline.facts import TensorSpec
from hemline.quiet import quiet

CAVEAT = "a reference evaluation, not Apple hardware"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """What the program says of a value: its shape, without samples, and its type."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One operation, ready to run.

    Attributes:
        kind: its MIL type.
        function: evaluates it.
        operands: for each operand the name of its value, or the names of a list of them.
        parameters: its other inputs.
        outputs: what it makes.
        finished: values that no later step reads.
    """

    kind: str
    function: Operation
    operands: Mapping[str, str | tuple[str, ...]]
    parameters: Mapping[str, Any]
    outputs: tuple[_Value, ...]
    finished: tuple[str, ...]


class CoreMLReferenceEngine(CoreMLEngine):
    """The MIL program of an .mlpackage, as saved, evaluated operation by operation.

    Compressed weights are decompressed from what is on disk. Each operation computes in float32,
    and its result is rounded to the type that the program gives its output, float16 for the most
    part, to nearest with ties to even. That is a choice: Apple documents that a program executes
    in float16 or float32 (https://apple.github.io/coremltools/docs-guides/source/
    typed-execution.html), but not the width or order of accumulation, nor where roundings fall.
    So a device may differ from this engine by some float16 roundings; a wrong graph, wrong
    weights or an overflow show here all the same.

    Any number of samples runs at once, though the program is traced for one. The number of
    threads is that of NumPy's BLAS.
    """

    name: ClassVar[str] = "coreml-reference"
    trial_limit_s: ClassVar[float] = 30.0

    def __init__(self, path: Path, threads: int) -> None:  # noqa: ARG002
        self._model: Any = open_package(path, load=False)
        spec = self._model.get_spec()
        _require_known(path, spec)
        function = _read_program(path, self._model, spec)
        # A classifier's only use of `classify` is to look up labels, which Hemline does itself.
        classify = [op for op in function.operations if op.op_type == "classify"]
        self._source = _value(path, require_one(path, "input", list(function.inputs.values())))
        self._result = _value(
            path,
            classify[0].probabilities
            if classify
            else require_one(path, "output", list(function.outputs)),
        )
        for value in (self._source, self._result):
            if value.shape[:1] != (1,):
                raise UnknownOperationError(
                    f"{path}: {value.name} is {value.shape}, and coreml-reference knows programs "
                    "with a batch of 1 in front only"
                )
        self._constants, self._steps = _plan(path, function, self._result.name)
        if classify:
            (source,), (result,) = describe_tensors(path, spec)
        else:
            source, result = _spec(self._source), _spec(self._result)
        self.inputs, self.outputs = (
            (replace(tensor, shape=(None, *tensor.shape[1:])),) for tensor in (source, result)
        )

    def run_all(self, tensors: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        values = dict(self._constants)
        values[self._source.name] = tensors[0][:, np.newaxis]
        # An overflow becomes infinity, as in float16 hardware; verify finds it in the output.
        with np.errstate(all="ignore"):
            for step in self._steps:
                values |= _evaluate(step, values)
                for name in step.finished:
                    del values[name]
        return [values[self._result.name][:, 0].astype(self.outputs[0].dtype)]

    @classmethod
    def why_unavailable(cls) -> str | None:
        return why_no_coremltools()

    @classmethod
    def version(cls) -> str:
        return version("hemline")


def _require_known(path: Path, spec: Any) -> None:
    for operation in list_operations(spec):
        kind = operation.type
        if not (
            kind in COMPUTATIONS
            or kind in MOVES
            or kind in ("const", "classify")
            or kind.startswith("constexpr_")
        ):
            raise UnknownOperationError(
                f"{path}: coreml-reference does not know the operation {kind!r}, which makes "
                f"{operation.outputs[0].name}"
            )


def _read_program(path: Path, model: Any, spec: Any) -> Any:
    """Returns the MIL function of a saved package, its weights included."""
    with quiet():
        from coremltools.converters.mil.frontend.milproto.load import load
    try:
        program = load(spec, spec.specificationVersion, model.weights_dir)
    # coremltools checks types and shapes all the way, with exceptions of many kinds.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(f"{path}: its program is not valid: {reason}") from error
    return program.functions["main"]


def _plan(
    path: Path, function: Any, result: str
) -> tuple[dict[str, NDArray[Any]], tuple[_Step, ...]]:
    """Returns the constant operands by name, each as one sample, and the steps in order."""
    constants: dict[str, NDArray[Any]] = {}
    steps: list[_Step] = []
    for operation in function.operations:
        kind = operation.op_type
        if kind == "classify" or all(_constant(var) is not None for var in operation.outputs):
            continue
        operands: dict[str, str | tuple[str, ...]] = {}
        parameters: dict[str, Any] = {}
        for name, given in operation.inputs.items():
            if name in OPERANDS:
                several = given if isinstance(given, tuple | list) else (given,)
                for var in several:
                    value = _constant(var)
                    if value is not None:
                        constants[var.name] = value[np.newaxis]
                names = tuple(var.name for var in several)
                operands[name] = names if name == "values" else names[0]
            else:
                parameters[name] = _parameter(path, operation, name, given)
        steps.append(
            _Step(
                kind=kind,
                function=COMPUTATIONS.get(kind) or MOVES[kind],
                operands=operands,
                parameters=parameters,
                outputs=tuple(_value(path, var) for var in operation.outputs),
                finished=(),
            )
        )
    needed = {result, *constants}
    for i in reversed(range(len(steps))):
        read = {name for names in steps[i].operands.values() for name in _names(names)}
        made = {output.name for output in steps[i].outputs}
        steps[i] = replace(steps[i], finished=tuple((read | made) - needed))
        needed |= read
    return constants, tuple(steps)


def _names(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _constant(var: Any) -> NDArray[Any] | None:
    """Returns a constant's value, decompressed if it is stored so; None for no constant."""
    if var.val is not None:
        return np.asarray(var.val)
    if var.op is not None and var.op.op_type.startswith("constexpr_"):
        return np.asarray(var.op.materialized_val_inference())
    return None


def _parameter(path: Path, operation: Any, name: str, var: Any) -> Any:
    """Returns a parameter: floats as a float32 array, all else as Python's own types."""
    value = _constant(var)
    if value is None:
        raise UnknownOperationError(
            f"{path}: coreml-reference needs a constant {name} in the {operation.op_type} that "
            f"makes {operation.outputs[0].name}"
        )
    return value.astype(np.float32) if value.dtype.kind == "f" else value.tolist()


def _value(path: Path, var: Any) -> _Value:
    from coremltools.converters.mil.mil import types

    if not all(isinstance(size, int | np.integer) for size in var.shape):
        raise UnknownOperationError(
            f"{path}: {var.name} has no fixed shape, and coreml-reference knows fixed ones only"
        )
    return _Value(
        name=var.name,
        shape=tuple(int(size) for size in var.shape),
        dtype=np.dtype(types.nptype_from_builtin(var.dtype)),
    )


def _spec(value: _Value) -> TensorSpec:
    return TensorSpec(name=value.name, shape=value.shape, dtype=value.dtype.name)


def _evaluate(step: _Step, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    def operand(name: str) -> NDArray[Any]:
        value = values[name]
        if step.kind in COMPUTATIONS and value.dtype == np.float16:
            return value.astype(np.float32)
        return value

    operands = {
        name: operand(given) if isinstance(given, str) else [operand(each) for each in given]
        for name, given in step.operands.items()
    }
    made = step.function(**operands, **step.parameters)
    results = made if isinstance(made, list) else [made]
    for output, result in zip(step.outputs, results, strict=True):
        if result.shape[1:] != output.shape:
            raise UnknownOperationError(
                f"the {step.kind} that makes {output.name} gives {result.shape[1:]}, the program "
                f"says {output.shape}: coreml-reference does not know this form of it"
            )
    return {
        output.name: result.astype(output.dtype, copy=False)
        for output, result in zip(step.outputs, results, strict=True)
    }

"""The calls that `hemline bench` times, all on the same noise.

`predict` is what a user calls, from images to answers. `bare` is the engine's own set, invoke and
get, through Hemline's engine, on the tensors that `predict` would make of those images. The rest
are peers: the same engine by a script without Hemline, and the ways in which Keras is called.
"""

import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.benchmark.timing import Call
from hemline.errors import InputError
from hemline.facts import ModelFacts, Task, TensorSpec
from hemline.limits import DRAWN_ELEMENTS
from hemline.model import Model

_SEED = 0


def predict_call(model: Model, batch: int) -> Call | None:
    """Returns what a user calls with one image or a batch; None for a file without facts."""
    if model.facts is None:
        return None
    is_classifier = model.facts.task == Task.CLASSIFICATION
    return Call(model.predict if is_classifier else model.outputs, _images(model.facts, batch))


def bare_call(model: Model, batch: int) -> Call:
    """Returns the engine's own call on ready tensors.

    An engine whose file has a fixed batch runs the images of a larger one in a loop.
    """
    tensors = _tensors(model, batch)
    if len(tensors) != 1:
        return _loop(model, model.engine.run_all, tensors, batch)
    return _loop(model, model.engine.run, tensors[0], batch)


def alone_call(model: Model, threads: int, batch: int) -> Call | None:
    """Returns the same call made by a script that has only the engine's Python package.

    None for an engine that is not known here by its package, and for a file that has several
    inputs or outputs.
    """
    opened = {"litert": _litert_alone, "onnxruntime": _onnxruntime_alone}.get(model.engine.name)
    if opened is None or len(model.engine.inputs) != 1 or len(model.engine.outputs) != 1:
        return None
    tensor = _tensors(model, batch)[0]
    one = tensor if _takes(model, batch) else tensor[:1]
    return _loop(model, opened(model.path, threads, one), tensor, batch)


def peer_calls(model: Model, batch: int) -> dict[str, Call]:
    """Returns the other calls that an engine offers to users, by name, on ready tensors."""
    tensor = _tensors(model, batch)[0]
    return {name: Call(call, tensor) for name, call in model.engine.peer_calls().items()}


def _loop(model: Model, run: Callable[[Any], object], argument: Any, batch: int) -> Call:
    if batch == 1 or _takes(model, batch):
        return Call(run, argument)
    if isinstance(argument, np.ndarray) and len(argument) == batch:
        return Call(partial(_each, run), [argument[i : i + 1] for i in range(batch)])
    return Call(partial(_each, run), [argument] * batch)


def _each(run: Callable[[Any], object], arguments: Sequence[Any]) -> None:
    for argument in arguments:
        run(argument)


def _takes(model: Model, batch: int) -> bool:
    """Says whether the engine takes a batch of any size, or of just this one, at once."""
    return all(spec.shape[:1] in ((None,), (batch,)) for spec in model.engine.inputs)


def _images(facts: ModelFacts, batch: int) -> NDArray[Any]:
    taken = facts.input
    noise = _noise_bytes(taken.shape if batch == 1 else (batch, *taken.shape))
    if taken.preprocessing is not None:
        return noise
    shares = noise.astype(np.float32) / np.float32(255)
    return (taken.minimum + (taken.maximum - taken.minimum) * shares).astype(np.float32)


def _tensors(model: Model, batch: int) -> list[NDArray[Any]]:
    if model.facts is not None:
        return [model.tensor(_images(model.facts, batch))]
    at_once = batch if _takes(model, batch) else 1
    return [_noise(spec, at_once) for spec in model.engine.inputs]


def _noise(spec: TensorSpec, batch: int) -> NDArray[Any]:
    """Returns noise for an input, `batch` of them where its first size is free."""
    free = spec.shape[:1] == (None,)
    sizes = (batch, *spec.shape[1:]) if free else spec.shape
    noise, dtype = _noise_bytes(tuple(size or 1 for size in sizes)), np.dtype(spec.dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        return noise.view(dtype)
    if dtype.kind in "iub":
        # Wide integers may be positions in a table, and only 0 and 1 are sure to be in it.
        return (noise & 1).astype(dtype)
    return (noise / 255).astype(dtype)


def _noise_bytes(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    if math.prod(shape) > DRAWN_ELEMENTS:
        raise InputError(
            f"a call on {list(shape)} takes {math.prod(shape):,} elements; at most "
            f"{DRAWN_ELEMENTS:,} are drawn: choose a smaller batch"
        )
    # NumPy's own generators would cost a process 3 MiB.
    noise = random.Random(_SEED).randbytes(math.prod(shape))
    return np.frombuffer(noise, np.uint8).reshape(shape)


def _litert_alone(path: Path, threads: int, tensor: NDArray[Any]) -> Callable[[Any], object]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    source = interpreter.get_input_details()[0]
    if tuple(source["shape"]) != tensor.shape:
        interpreter.resize_tensor_input(source["index"], tensor.shape)
    interpreter.allocate_tensors()
    index, result = source["index"], interpreter.get_output_details()[0]["index"]

    def run(tensor: NDArray[Any]) -> object:
        interpreter.set_tensor(index, tensor)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return run


def _onnxruntime_alone(
    path: Path,
    threads: int,
    tensor: NDArray[Any],  # noqa: ARG001 - a session takes what fits
) -> Callable[[Any], object]:
    import onnxruntime

    from hemline.engines.onnxruntime import EXACT_INTEGERS

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # The same arithmetic, so that what the engine adds is all that differs.
    options.add_session_config_entry(*EXACT_INTEGERS)
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], enable_fallback=False
    )
    name = session.get_inputs()[0].name

    def run(tensor: NDArray[Any]) -> object:
        return session.run(None, {name: tensor})[0]

    return run

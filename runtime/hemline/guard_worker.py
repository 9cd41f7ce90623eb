"""The child process that tries a file: `python -m hemline.guard_worker`.

`hemline.guard` starts it, and limits its time and, where the system can, its memory. It answers as
`hemline.child` says.
"""

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline import child
from hemline.child import Say
from hemline.documents import to_json
from hemline.engines import engine_for
from hemline.errors import HemlineError, ModelFileError
from hemline.facts import TensorSpec
from hemline.inspection import inspect
from hemline.model import open_model

# coremltools imports these where they are installed, which takes seconds, and needs none of them
# to read a package.
_NEEDLESS = ("tensorflow", "torch", "sklearn", "xgboost", "libsvm")
# How long the child may outlive a parent that was killed before it could stop it.
_GRACE_S = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what was asked for, and tells of it on stdout."""
    parser = argparse.ArgumentParser(prog="python -m hemline.guard_worker", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--engine")
    parser.add_argument("--compute-units")
    parser.add_argument("--sha256")
    parser.add_argument("--inspect", action="store_true")
    options = parser.parse_args(arguments)
    limit_resources(options.seconds, options.bytes)
    if options.file.suffix == ".mlpackage":
        sys.modules.update(dict.fromkeys(_NEEDLESS))  # type: ignore[arg-type]
    return child.answer(lambda say: work(options, say))


def limit_resources(seconds: float, size: int) -> None:
    """Limits this process, as far as the system can: Windows limits nothing, macOS no memory."""
    if hasattr(signal, "alarm"):
        signal.alarm(math.ceil(seconds) + _GRACE_S)
    try:
        import resource
    except ImportError:
        return
    # RLIMIT_DATA counts what is allocated; RLIMIT_AS counts the code of libraries as well.
    for kind, limit in (
        (resource.RLIMIT_DATA, size),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (allowed, hard))


def work(options: argparse.Namespace, say: Say) -> None:
    """Opens a file and runs it once, or reads what it holds.

    Raises:
        HemlineError: its engine refuses it, or it needs more memory than is allowed.
    """
    path = options.file
    try:
        if options.inspect:
            say({"begin": "inspect"})
            found = inspect(path, compute_units=options.compute_units, trust=True)
            say({"inspect": to_json(found)})
            return
        say({"begin": "load"})
        model = open_model(
            path,
            engine_for(path, options.engine),
            compute_units=options.compute_units,
            digest=options.sha256,
        )
        inputs = [_zeros(path, spec, options.bytes) for spec in model.engine.inputs]
        say({"begin": "run"})
        try:
            model.engine.run_all(inputs)
        except MemoryError:
            raise
        # Engines have exceptions of many kinds.
        except Exception:
            # Where a size besides the batch is left open, 1 need not be one that the model takes.
            if all(None not in spec.shape[1:] for spec in model.engine.inputs):
                raise
    except HemlineError:
        raise
    except MemoryError as error:
        raise ModelFileError(
            f"{path} needs more memory than the {options.bytes / 2**30:.1f} GiB that a file from "
            "anywhere may take; if you trust it, load it with trust=True (--trust)"
        ) from error
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(f"{path} cannot be opened and run: {reason}") from error


def _zeros(path: Path, spec: TensorSpec, allowed_bytes: int) -> NDArray[Any]:
    shape = tuple(1 if size is None else size for size in spec.shape)
    dtype = np.dtype(spec.dtype)
    size = math.prod(shape) * dtype.itemsize
    if size > allowed_bytes:
        raise ModelFileError(
            f"{path}: its input {spec.name} is {spec.dtype} {list(shape)}, {size:,} bytes, and "
            f"a file from anywhere may take {allowed_bytes:,}; if you trust it, load it with "
            "trust=True (--trust)"
        )
    return np.zeros(shape, dtype)


if __name__ == "__main__":
    sys.exit(main())

"""Files from anywhere, first opened and run once in a child process.

A damaged or hostile model file can crash its engine, hang it, or have it take all memory, and no
`except` helps against that. So what no manifest vouches for is tried where that does no harm. It is
no sandbox: the child has the rights of its user, and an engine that a file can take over is taken
over there.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from hemline import child
from hemline.commit import newest
from hemline.engines import engine_for
from hemline.errors import ModelFileError
from hemline.files import sha256, size_bytes
from hemline.limits import CHILD_BYTES, CHILD_MOST_BYTES
from hemline.paths import require_ordinary

WORKER = "hemline.guard_worker"

_STEPS = {"load": "opening it", "run": "running it once", "inspect": "reading it"}
# A thread of OpenBLAS for each core would take the memory that is meant for the file.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

# Files that passed, so that a process tries each only once.
_passed: set[tuple[Path, str, str | None, str | None]] = set()


def try_file(path: Path, *, engine: str | None = None, compute_units: str | None = None) -> str:
    """Has a child process open a file and run it once, on zeros.

    Args:
        path: the file.
        engine: as `hemline.load` takes it.
        compute_units: likewise.

    Returns:
        The SHA-256 of what was tried.

    Raises:
        ModelFileError: the child crashed, hung or needed too much memory, or the engine refuses
            the file.
        ManifestError: the facts inside it are not valid.
        EngineUnavailableError: its engine is not installed or not for this system.
    """
    limit_s = engine_for(path, engine).trial_limit_s
    file = newest(path)
    require_ordinary(file)
    digest = sha256(file)
    key = path.resolve(), digest, engine, compute_units
    if key not in _passed:
        options = [
            f"--{name}={value}"
            for name, value in (("engine", engine), ("compute-units", compute_units))
            if value is not None
        ]
        _ask(path, limit_s, [*options, f"--sha256={digest}"])
        _passed.add(key)
    return digest


def inspect_file(path: Path, compute_units: str) -> object:
    """Has a child process read what a file holds.

    Returns:
        A `hemline.inspection.Inspection` as JSON.

    Raises:
        ModelFileError: as `try_file`.
        ManifestError: the facts inside it, or the manifest beside it, are not valid.
        EngineUnavailableError: a package that reads this kind of file is not installed.
    """
    limit_s = engine_for(path).trial_limit_s
    return _ask(path, limit_s, ["--inspect", f"--compute-units={compute_units}"]).get("inspect")


def _ask(path: Path, limit_s: float, options: Sequence[str]) -> dict[str, object]:
    if not sys.executable or getattr(sys, "frozen", False):
        raise ModelFileError(
            f"{path} is in no manifest, and there is no Python interpreter to try it in a process "
            "of its own; keep its manifest beside it or, if you trust it, load it with trust=True"
        )
    memory = min(CHILD_BYTES + 4 * size_bytes(newest(path)), CHILD_MOST_BYTES)
    arguments = [f"--seconds={limit_s}", f"--bytes={memory}", *options, "--", str(path)]
    answer = child.ask(WORKER, arguments, limit_s, _STEPS, environment=_ENVIRONMENT)
    if answer.error is not None:
        raise answer.error
    if answer.failure is not None:
        raise ModelFileError(
            f"{path} is in no manifest, so it was tried in a child process, of at most "
            f"{limit_s:g} s and {memory / 2**30:.1f} GiB: {answer.failure}; get the file again or, "
            "if you trust it, load it with trust=True (--trust)"
        )
    return dict(answer.results)

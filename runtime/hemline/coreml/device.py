"""Core ML packages on this Mac, each opened in a child process with a time limit.

A model whose compilation for the Neural Engine failed can kill its process with SIGKILL when it
first predicts (https://github.com/apple/coremltools/issues/2758), and the choice of ALL can abort
it (https://github.com/ultralytics/ultralytics/pull/24885). Here that is a result which says so.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline import child
from hemline.arrays import read_array
from hemline.child import Answer
from hemline.coreml.plan import ComputePlan
from hemline.documents import from_json
from hemline.errors import EngineUnavailableError, ModelFileError

# Compiling a large model for the Neural Engine took 140 s in coremltools' issue 2758.
TIME_LIMIT_S = 300.0
WORKER = "hemline.coreml.worker"

_STEPS = {
    "load": "loading it",
    "plan": "planning it",
    "timing": "timing it",
    "outputs": "running it",
}

# That Core ML is not there or refuses the package is a result, and no error.
_RESULTS = (EngineUnavailableError, ModelFileError)


def plan_package(path: Path, compute_units: str) -> tuple[ComputePlan | None, str | None]:
    """Returns a package's compute plan, or None and the reason why there is none.

    Raises:
        ChecksumError: it is not the file that its manifest records.
        ManifestError: its manifest or the facts inside it are not valid.
    """
    answer = ask_child(path, compute_units, ["--plan"])
    if "plan" not in answer.results:
        return None, answer.failure
    return from_json(ComputePlan, answer.results["plan"], f"the compute plan of {path}"), None


def run_package(
    path: Path, compute_units: str, images: NDArray[Any], *, expected_sha256: str
) -> tuple[NDArray[np.float32] | None, Answer]:
    """Returns a package's outputs, float32 (n, *output shape), and what else its child said.

    None instead if the child did not finish: its answer has the failure.

    Args:
        path: the package.
        compute_units: what Core ML may run on.
        images: a batch, as `Model.outputs` takes it.
        expected_sha256: the package's.

    Raises:
        ChecksumError: it is not the file that its manifest records.
        ManifestError: its manifest or the facts inside it are not valid.
        InputError: the images do not fit.
    """
    with tempfile.TemporaryDirectory(prefix="hemline-") as folder:
        given, made = Path(folder) / "images.npy", Path(folder) / "outputs.npy"
        np.save(given, images, allow_pickle=False)
        steps = ["--sha256", expected_sha256, "--outputs", str(given), str(made)]
        answer = ask_child(path, compute_units, steps)
        if "outputs" not in answer.results:
            return None, answer
        outputs: NDArray[np.float32] = read_array(made)
    return outputs, answer


def ask_child(
    path: Path, compute_units: str, steps: Sequence[str], *, time_limit_s: float | None = None
) -> Answer:
    """Has a child process open a package and do the steps asked for.

    A crash, a hang, or an answer that is no JSON is the answer's failure.

    Args:
        path: the package.
        compute_units: what Core ML may run on.
        steps: options of `hemline.coreml.worker`: `--plan`, `--timing WARMUP CALLS ROUNDS BATCH`
            (no rounds: as many as it takes), `--outputs IMAGES.npy OUTPUTS.npy`, `--sha256` that
            the package must have.
        time_limit_s: for all of it; `TIME_LIMIT_S` unless given.

    Raises:
        ChecksumError: it is not the file that its manifest records.
        ManifestError: its manifest or the facts inside it are not valid.
    """
    arguments = [str(path), compute_units, *steps]
    limit_s = TIME_LIMIT_S if time_limit_s is None else time_limit_s
    answer = child.ask(WORKER, arguments, limit_s, _STEPS)
    if answer.error is not None and type(answer.error) not in _RESULTS:
        raise answer.error
    return answer

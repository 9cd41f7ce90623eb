"""Core ML packages on this Mac, each opened in a child process with a time limit.

A model whose compilation for the Neural Engine failed can kill its process with SIGKILL when it
first predicts (https://github.com/apple/coremltools/issues/2758), and the choice of ALL can abort
it (https://github.com/ultralytics/ultralytics/pull/24885). Here that is a result which says so.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline import errors
from hemline.coreml_plan import ComputePlan
from hemline.documents import from_json

# Compiling a large model for the Neural Engine took 140 s in coremltools' issue 2758.
TIME_LIMIT_S = 300.0
WORKER = (sys.executable, "-m", "hemline.coreml_worker")

_STEPS = {
    "load": "loading it",
    "plan": "planning it",
    "timing": "timing it",
    "outputs": "running it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a child process found out before it ended.

    Attributes:
        results: parsed JSON by step of the steps that it finished.
        failure: why it did not finish, or None.
        refused: the failure is an answer: Core ML is not there, or refuses the package.
    """

    results: Mapping[str, Any]
    failure: str | None
    refused: bool = False


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
    path: Path, compute_units: str, images: NDArray[Any]
) -> tuple[NDArray[np.float32] | None, Answer]:
    """Returns a package's outputs, float32 (n, *output shape), and what else its child said.

    None instead if the child did not finish: its answer has the failure.

    Args:
        path: the package.
        compute_units: what Core ML may run on.
        images: a batch, as `Model.outputs` takes it.

    Raises:
        ChecksumError: it is not the file that its manifest records.
        ManifestError: its manifest or the facts inside it are not valid.
        InputError: the images do not fit.
    """
    with tempfile.TemporaryDirectory(prefix="hemline-") as folder:
        given, made = Path(folder) / "images.npy", Path(folder) / "outputs.npy"
        np.save(given, images, allow_pickle=False)
        answer = ask_child(path, compute_units, ["--outputs", str(given), str(made)])
        if "outputs" not in answer.results:
            return None, answer
        outputs: NDArray[np.float32] = np.load(made, allow_pickle=False)
    return outputs, answer


def ask_child(
    path: Path, compute_units: str, steps: Sequence[str], *, time_limit_s: float | None = None
) -> Answer:
    """Has a child process open a package and do the steps asked for.

    A crash, a hang, or an answer that is no JSON is the answer's failure.

    Args:
        path: the package.
        compute_units: what Core ML may run on.
        steps: options of `hemline.coreml_worker`: `--plan`, `--timing WARMUP CALLS ROUNDS BATCH`
            (no rounds: as many as it takes), `--outputs IMAGES.npy OUTPUTS.npy`.
        time_limit_s: for all of it; `TIME_LIMIT_S` unless given.

    Raises:
        ChecksumError: it is not the file that its manifest records.
        ManifestError: its manifest or the facts inside it are not valid.
    """
    limit = TIME_LIMIT_S if time_limit_s is None else time_limit_s
    command = [*WORKER, str(path), compute_units, *steps]
    status, output, complaints = _run(command, limit)
    results: dict[str, Any] = {}
    step = "starting"
    for line in output.splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            return Answer(results=results, failure=f"its process said {line[:200]!r}, not JSON")
        if "error" in answer:
            return Answer(results=results, failure=_read_error(answer["error"]), refused=True)
        if "begin" in answer:
            step = _STEPS.get(answer["begin"], "working")
        else:
            results |= answer
    # Core ML may still crash while the process ends; by then everything was said.
    if results.pop("done", False):
        return Answer(results=results, failure=None)
    if status is None:
        failure = f"its process did not end within {limit:g} s while {step}, and was stopped"
    elif status < 0:
        failure = f"its process was killed by {_signal_name(-status)} while {step}"
    else:
        failure = f"its process ended with status {status} while {step}"
    last = complaints.strip().splitlines()[-1:]
    return Answer(results=results, failure="; its last words: ".join([failure, *last])[:500])


def _run(command: Sequence[str], limit: float) -> tuple[int | None, str, str]:
    """Runs a command in a process group of its own; its status is None if the time was up."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, complaints = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            return None, *process.communicate()
        except BaseException:
            _kill_group(process)
            raise
        return process.returncode, output, complaints


def _kill_group(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read_error(error: Mapping[str, str]) -> str:
    """Returns the message of an error that is a result, and raises any other.

    That Core ML is not there or refuses the package is a result.
    """
    kind = error["kind"]
    if kind in ("EngineUnavailableError", "ModelFileError"):
        return error["message"]
    found: type[errors.HemlineError] = getattr(errors, kind)
    raise found(error["message"])

"""Work that may crash or hang, done by a child process that answers in JSON.

The child prints one JSON object a line: `begin` with the name of each step as it starts, then each
step's result under its name; `error` for an error of Hemline's; `done` at the end. So whoever
reads it knows what was going on when it died.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from hemline import errors
from hemline.errors import HemlineError, ModelFileError

Say = Callable[[dict[str, Any]], None]

_LAST_WORDS_BYTES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a child process found out before it ended.

    Attributes:
        results: parsed JSON by step of the steps that it finished.
        failure: why it did not finish, or None.
        error: the failure as an error of Hemline's, if the child raised one.
    """

    results: Mapping[str, Any]
    failure: str | None
    error: HemlineError | None = None

    @property
    def refused(self) -> bool:
        """Whether the failure is an answer, and no crash, hang or babble."""
        return self.error is not None


def command_of(module: str) -> tuple[str, ...]:
    """Returns the command that runs a module of Hemline's in a child.

    With -P, since Python would else look for every module in the working folder first, and that
    may be the folder that a file from anywhere came with.
    """
    return (sys.executable, "-P", "-m", module)


def ask(
    command: Sequence[str],
    time_limit_s: float,
    steps: Mapping[str, str],
    *,
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Runs a command that answers as described above.

    A crash, a hang, or an answer that is no JSON is the answer's failure.

    Args:
        command: what to run.
        time_limit_s: for all of it; then the child and its own children are killed.
        steps: what to call each step in a failure, such as "running it".
        environment: variables to set for the child.
    """
    # The folders that this process imports from are those that the child may.
    folders = os.pathsep.join(filter(None, sys.path))
    variables = os.environ | {"PYTHONPATH": folders} | dict(environment or {})
    status, output, last_words = _run(command, time_limit_s, variables)
    results: dict[str, Any] = {}
    step = "starting"
    for line in output.splitlines():
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            return Answer(results=results, failure=f"its process said {line[:200]!r}, not JSON")
        if "error" in answer:
            error = _rebuild(answer["error"])
            return Answer(results=results, failure=str(error), error=error)
        if "begin" in answer:
            step = steps.get(answer["begin"], "working")
        else:
            results |= answer
    # A library may still crash while the process ends; by then everything was said.
    if results.pop("done", False):
        return Answer(results=results, failure=None)
    if status is None:
        failure = f"its process did not end within {time_limit_s:g} s while {step}, and was stopped"
    elif status < 0:
        failure = f"its process was killed by {_signal_name(-status)} while {step}"
    else:
        failure = f"its process ended with status {status} while {step}"
    # LiteRT tells which kernels it took.
    last = [line for line in last_words.strip().splitlines() if not line.startswith("INFO: ")][-1:]
    return Answer(results=results, failure="; its last words: ".join([failure, *last])[:500])


def answer(work: Callable[[Say], None]) -> int:
    """In the child: does the work, which says its steps and results, and returns the exit status.

    An error of Hemline's is said; any other ends the child as it ends any program.
    """
    # What libraries print must not stand between the lines of JSON.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def say(found: dict[str, Any]) -> None:
            print(json.dumps(found), file=answers, flush=True)

        try:
            work(say)
        except HemlineError as error:
            say({"error": {"kind": type(error).__name__, "message": str(error)}})
            return 2
        say({"done": True})
    return 0


def _run(
    command: Sequence[str], limit: float, variables: Mapping[str, str]
) -> tuple[int | None, str, str]:
    """Runs a command in a process group of its own; its status is None if the time was up."""
    # A file, of which only the end is read, since a library may complain without end.
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=variables,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        try:
            output, _ = process.communicate(timeout=limit)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            _kill_group(process)
            (output, _), status = process.communicate(), None
        except BaseException:
            _kill_group(process)
            raise
        return status, output, _read_end(complaints)


def _read_end(file: BinaryIO) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LAST_WORDS_BYTES))
    return file.read().decode("utf-8", errors="replace")


def _kill_group(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _rebuild(error: Any) -> HemlineError:
    """Returns the error that the child raised."""
    try:
        kind, message = error["kind"], error["message"]
    except (TypeError, KeyError):
        kind, message = "", repr(error)
    found = getattr(errors, str(kind), None)
    if isinstance(found, type) and issubclass(found, HemlineError):
        return found(message)
    return ModelFileError(f"{kind}: {message}")

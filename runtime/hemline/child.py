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
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hemline import errors
from hemline.errors import HemlineError, ModelFileError
from hemline.limits import ANSWER_BYTES

Say = Callable[[dict[str, Any]], None]

_LAST_WORDS_BYTES = 2_000
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
# How long a child may take to end after it closed its stdout.
_END_S = 10.0


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


def command_of(module: str, arguments: Sequence[str]) -> list[str]:
    """Returns the command that runs a module of Hemline's in a child.

    Python starts isolated (-I): without the working folder, which may be the one that a file from
    anywhere came in, without what the environment names, the user's own packages and their
    `sitecustomize`. The child then imports from where this process does, the working folder and
    relative entries left out; Hemline's own folder is always among them.
    """
    start = (
        "import runpy, sys; sys.path[:] = sys.argv[2:2 + int(sys.argv[1])]; "
        "del sys.argv[1:2 + int(sys.argv[1])]; "
        "from hemline import child; child.die_with_parent(); "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    folders = _import_folders()
    flags = [*(["-B"] if sys.dont_write_bytecode else []), "-X", f"utf8={sys.flags.utf8_mode}"]
    return [sys.executable, "-I", *flags, "-c", start, str(len(folders)), *folders, *arguments]


def _import_folders() -> list[str]:
    own = str(Path(__file__).resolve().parents[1])
    working = _working_folder()
    found = []
    for entry in map(os.fspath, sys.path):
        folder = Path(os.fsdecode(entry))
        if folder.is_absolute() and (str(folder) == own or not _is_same(folder, working)):
            found.append(str(folder))
    return list(dict.fromkeys([*found, own]))


def _working_folder() -> Path | None:
    # It may have been deleted.
    with suppress(OSError):
        return Path.cwd()
    return None


def _is_same(folder: Path, other: Path | None) -> bool:
    with suppress(OSError):
        return other is not None and folder.samefile(other)
    return False


def ask(
    module: str,
    arguments: Sequence[str],
    time_limit_s: float,
    steps: Mapping[str, str],
    *,
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Runs a module that answers as described above, in a child process.

    A crash, a hang, an answer that is no JSON or too long is the answer's failure.

    Args:
        module: what to run, with `answer`.
        arguments: for it.
        time_limit_s: for all of it; then the child and its own children are killed.
        steps: what to call each step in a failure, such as "running it".
        environment: variables to set for the child.
    """
    variables = os.environ | dict(environment or {})
    command = command_of(module, arguments)
    status, output, last_words = _run(command, time_limit_s, variables)
    results: dict[str, Any] = {}
    if len(output) > ANSWER_BYTES:
        return Answer(results={}, failure=f"its process said more than {ANSWER_BYTES:,} bytes")
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


def die_with_parent() -> None:
    """In the child, before anything else: has it killed when its parent ends, however that does.

    Linux does so by itself. Elsewhere, and if the parent was gone before Linux was asked, a thread
    notices the end of stdin: that is a pipe which the parent alone holds open, and never writes to.
    An engine that keeps Python's lock while it hangs holds up the thread too, until its time is up.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 1):
                pass
        # With the children that it may have, if the group is its own.
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _run(
    command: Sequence[str], limit: float, variables: Mapping[str, str]
) -> tuple[int | None, str, str]:
    """Runs a command in a process group of its own; its status is None if the time was up.

    Returns:
        The status, what it printed, and the last of what it complained of.
    """
    ours, held = os.pipe()
    # A file, of which only the end is read, since a library may complain without end.
    try:
        with (
            tempfile.TemporaryFile() as complaints,
            subprocess.Popen(
                command,
                stdin=ours,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=variables,
                start_new_session=True,
            ) as process,
        ):
            printed: list[bytes] = []
            reader = threading.Thread(target=_read_start, args=(process.stdout, printed))
            reader.start()
            try:
                reader.join(limit)
                is_late = reader.is_alive()
                if not is_late and sum(map(len, printed)) <= ANSWER_BYTES:
                    # It has said all, and may take a moment to end.
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_END_S)
            finally:
                ended = process.poll()
                _kill_group(process)
                reader.join()
            status = None if is_late else process.wait() if ended is None else ended
            output = b"".join(printed).decode("utf-8", errors="replace")
            return status, output, _read_end(complaints)
    finally:
        os.close(ours)
        os.close(held)


def _read_start(stream: IO[bytes], printed: list[bytes]) -> None:
    """Reads what a child prints, to its end or until it is more than any answer."""
    count = 0
    while count <= ANSWER_BYTES and (part := os.read(stream.fileno(), 1 << 16)):
        printed.append(part)
        count += len(part)


def _read_end(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LAST_WORDS_BYTES))
    return file.read().decode("utf-8", errors="replace")


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
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

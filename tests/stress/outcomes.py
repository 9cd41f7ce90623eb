"""What comes of reading something damaged: it is read, or refused as it should be, or a fault."""

import contextlib
import io
import os
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hemline.errors import HemlineError

READ, REFUSED, FAULT = "read", "refused", "FAULT"
# Long enough for the slowest reader on a busy machine, and short of any loop without end.
LIMIT_S = 60

Outcome = tuple[str, str]


class TooLongError(BaseException):
    """A reader did not end."""


def of_call(call: Callable[[], object], kind: type[HemlineError] = HemlineError) -> Outcome:
    """Calls the library, which may raise an error of one kind; returns what came of it.

    Returns:
        A word, and what there is to say of it.
    """
    with _watched() as leaks:
        try:
            call()
        except kind as error:
            found = REFUSED, str(error)
        except BaseException as error:
            found = FAULT, _describe(error)
        else:
            found = READ, ""
    return (FAULT, f"this leaks: {leaks}; {found[1]}") if leaks else found


def of_command(main: Callable[[list[str]], int], words: Sequence[str | Path]) -> Outcome:
    """Runs a command in this process: status 0 to 2, and for 2 one line on stderr that is meant.

    Returns: as `of_call`.
    """
    with _watched() as leaks:
        try:
            status, complaint = run(main, words)
        except BaseException as error:
            return FAULT, _describe(error)
    if leaks:
        return FAULT, f"this leaks: {leaks}; {complaint}"
    if status in (0, 1):
        return (FAULT, f"status {status}: {complaint}") if complaint else (READ, "")
    is_clean = status == 2 and complaint.count("\n") == 1 and complaint.endswith("\n")
    is_meant = complaint.startswith(("hemline: ", "release: ")) and "unforeseen:" not in complaint
    return (REFUSED if is_clean and is_meant else FAULT), complaint.strip()


def run(main: Callable[[list[str]], int], words: Sequence[str | Path]) -> tuple[int, str]:
    """Runs a command in this process; returns its status, and what it complains of."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        status = main([str(word) for word in words])
    return status, errors.getvalue()


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    """Limits the time; at the end, tells of warnings and of what native code wrote to stderr."""
    leaks: list[str] = []
    signal.signal(signal.SIGALRM, _stop)
    with warnings.catch_warnings(record=True) as warned, tempfile.TemporaryFile() as printed:
        warnings.simplefilter("always")
        # Which Python by itself shows nobody.
        for kind in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        kept = os.dup(2)
        os.dup2(printed.fileno(), 2)
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            yield leaks
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.dup2(kept, 2)
            os.close(kept)
            printed.seek(0)
            leaks += [str(one.message) for one in warned]
            leaks += printed.read().decode(errors="replace").splitlines()


def _stop(*_: object) -> None:
    raise TooLongError(f"more than {LIMIT_S} s")


def _describe(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)[-3:])

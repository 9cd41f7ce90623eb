"""What commands share: their parsers, numbers given as words, and progress on stderr."""

import argparse
import io
import math
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from typing import Any, TextIO, TypeAlias, cast

from hemline.errors import HemlineError, OutputError
from hemline.terminal import printable, show

# Of POSIX and Windows.
_SIGINT = 2

# In quotes, since argparse makes it generic for type checkers only.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def show_progress(text: str) -> None:
    """Shows what is going on, on one line of a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{printable(text)}", end="", file=sys.stderr, flush=True)


def end_progress() -> None:
    """Clears the progress line."""
    show_progress("")


def run_safely(work: Callable[[], int], *, program: str = "hemline", verbose: bool = False) -> int:
    """Does a program's work and returns its exit status, whatever happens.

    Status 1 is for what ran and FAILed, so nothing that is raised ends in it: 2, with one line on
    stderr. An interrupt is 130, as shells have it. A reader of stdout that leaves early, `head`
    say, changes nothing.

    Args:
        work: returns the status.
        program: what to call it.
        verbose: shows where a failure arose, and how to report it.
    """

    def fail(message: str, status: int = 2) -> int:
        try:
            if verbose:
                for line in traceback.format_exc().splitlines():
                    show(line, file=sys.stderr)
            show(f"{program}: {message}", file=sys.stderr)
            sys.stderr.flush()
        except (OSError, ValueError):
            # Closed or full, stderr takes no complaint, and there is nobody else to tell.
            _drop(sys.stderr)
        return status

    try:
        _require_streams()
        with redirect_stdout(cast(TextIO, _Patient(sys.stdout))):
            try:
                status = work()
            finally:
                # Also what argparse prints before it exits.
                sys.stdout.flush()
    except HemlineError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        # The terminal shows ^C.
        with suppress(OSError, ValueError):
            print(file=sys.stderr)
        return fail("interrupted", 128 + _SIGINT)
    except OSError as error:
        _drop(sys.stdout)
        named = [str(part) for part in (error.filename, error.strerror) if part is not None]
        return fail(": ".join(named) or str(error))
    except Exception as error:
        _drop(sys.stdout)
        reason = (str(error).strip() or "no reason given").splitlines()[0][:300]
        return fail(
            f"unforeseen: {type(error).__name__}: {reason}; a fault of Hemline's: report it as "
            "SECURITY.md says, with what -v and `hemline doctor` print"
        )
    return status


class _Patient:
    """Stdout that falls silent once its reader has gone: the work still ends as it would."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            _drop(sys.stdout)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            _drop(sys.stdout)


def _require_streams() -> None:
    """Makes the standard streams such that a command can speak: each open, and in any encoding.

    Raises:
        OutputError: stdout is closed.
    """
    # A closed one's descriptor would go to the next file that is opened, which libraries that
    # write to 1 or 2 would then write into.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        # For as long as the process.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stdout is None:
        raise OutputError("stdout is closed; send it to a file, or to /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop(stream: TextIO) -> None:
    """Sends what is still to be written to a stream nowhere: Python ends in 120 over it at exit."""
    with suppress(OSError, ValueError, AttributeError):
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds the option that opens files as `hemline.load` does with `trust`."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="open a file that no manifest lists at once, not first in a child process",
    )


def points(text: str) -> float:
    """Returns percentage points between 0 and 100, as argparse's `type`."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < 100:
        raise argparse.ArgumentTypeError(f"expected points between 0 and 100, got {text!r}")
    return found


def above_zero(text: str) -> float:
    """Returns percent above 0, as argparse's `type`."""
    try:
        percent = float(text)
    except ValueError:
        percent = math.nan
    if not 0 < percent < math.inf:
        raise argparse.ArgumentTypeError(f"expected percent above 0, got {text!r}")
    return percent


def positive(text: str, most: int = (1 << 31) - 1) -> int:
    """Returns a whole number of 1 or more, as argparse's `type`."""
    # Python itself refuses to read numbers of thousands of digits.
    number = int(text) if text.isdecimal() and len(text) < 20 else 0
    if not 1 <= number <= most:
        found = repr(text[:40])
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {most:,}, got {found}")
    return number

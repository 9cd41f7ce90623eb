"""What commands share: their parsers, numbers given as words, and progress on stderr."""

import argparse
import math
import sys
from typing import TypeAlias

from hemline.terminal import printable

# In quotes, since argparse makes it generic for type checkers only.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def show_progress(text: str) -> None:
    """Shows what is going on, on one line of a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{printable(text)}", end="", file=sys.stderr, flush=True)


def end_progress() -> None:
    """Clears the progress line."""
    show_progress("")


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


def positive(text: str) -> int:
    """Returns a whole number of 1 or more, as argparse's `type`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)

"""Text from files, made harmless where people read it."""

from typing import TextIO


def printable(text: str) -> str:
    r"""Returns text with all that could act on a terminal written out, such as `\x1b`.

    That is every character that Unicode counts as control, format (bidirectional overrides among
    them), surrogate, unassigned or a separator other than the space; line breaks too.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show(line: str, file: TextIO | None = None) -> None:
    """Prints one line, harmless; on stdout unless told otherwise."""
    print(printable(line), file=file)

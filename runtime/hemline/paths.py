"""What a path from anywhere may be: nothing that blocks, and nothing outside its folder."""

import json
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from hemline.errors import ModelFileError
from hemline.files import describe_unread, list_package, read_regular, require_regular
from hemline.limits import DOCUMENT_BYTES


def require_plain_name(name: str) -> None:
    """Raises unless a name is that of a file in the folder at hand, on every system.

    Raises:
        ValueError: it leads elsewhere, or holds what no file name should.
    """
    if not _is_plain(name) or "/" in name:
        raise ValueError(f"an artifact must be a plain file name in the folder, got {name!r}")


def require_ordinary(path: Path) -> None:
    """Raises unless a path is a file, or a package of nothing but folders and files of its own.

    Raises:
        ModelFileError: it is a pipe or a device, which may block whoever reads it; or there is
            one in the package, or a link.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise ModelFileError(describe_unread(path, error)) from error
    if not stat.S_ISDIR(mode):
        require_regular(path, mode)
        return
    for inner in list_package(path):
        if inner.is_symlink() or not (inner.is_file() or inner.is_dir()):
            raise ModelFileError(
                f"{path} holds {inner.relative_to(path).as_posix()!r}, a link or no ordinary file; "
                "a package holds its own files and folders only"
            )


def require_members_inside(archive: Path, names: Iterable[str]) -> None:
    """Raises if an archive has members that would be unpacked outside the folder at hand.

    Raises:
        ModelFileError: it has.
    """
    for name in names:
        if not all(map(_is_plain, PurePosixPath(name).parts)):
            raise ModelFileError(f"{archive} has a member {name!r}, outside its own folder")


def require_inside(package: Path) -> None:
    """Raises if a Core ML package's Manifest.json names a path that is not in the package.

    What is no such document at all is left to Core ML, which refuses it.

    Raises:
        ModelFileError: it does.
    """
    try:
        entries = json.loads(read_regular(package / "Manifest.json", DOCUMENT_BYTES))[
            "itemInfoEntries"
        ]
        named = [str(entry["path"]) for entry in entries.values()]
    except (ModelFileError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return
    for path in named:
        if not all(map(_is_plain, PurePosixPath(path).parts)):
            raise ModelFileError(
                f"{package}: its Manifest.json names {path!r}, which is not in the package"
            )


def _is_plain(part: str) -> bool:
    """Tells whether a part of a path is just a name: no way up, no drive, no other separator."""
    return part not in ("", ".", "..", "/", "//") and not any(
        c in "\\:" or ord(c) < 32 or 127 <= ord(c) < 160 or "\ud800" <= c <= "\udfff" for c in part
    )

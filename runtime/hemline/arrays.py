"""NumPy's files, read as arrays of numbers and nothing else.

What a file is is told by its content, never by its name.
"""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hemline.errors import DataError, HemlineError
from hemline.files import open_regular
from hemline.limits import DATA_BYTES


def read_array(path: Path, error: type[HemlineError] = DataError) -> NDArray[Any]:
    """Reads an .npy file.

    Args:
        path: the file.
        error: what to raise.

    Raises:
        HemlineError: of the kind asked for: it is no such file, is damaged, or too large.
    """
    with open_regular(path, DATA_BYTES, error) as file:
        try:
            found = _read(file)
            if file.read(1):
                raise ValueError("more follows than its header announces")
        # NumPy raises whatever a damaged header runs into.
        except Exception as failure:
            raise error(f"cannot read {path} as an .npy file: {_reason(failure)}") from failure
    return found


def read_arrays(
    path: Path,
    names: Sequence[str],
    *,
    optional: Sequence[str] = (),
    error: type[HemlineError] = DataError,
) -> dict[str, NDArray[Any]]:
    """Reads some of the arrays in an .npz file. Others that it holds are not looked at.

    Args:
        path: the file.
        names: of arrays that it must have.
        optional: of those that it may have.
        error: what to raise.

    Returns:
        The arrays that are there, by name.

    Raises:
        HemlineError: of the kind asked for: it is no such file, lacks an array, is damaged, or too
            large.
    """
    with open_regular(path, DATA_BYTES, error) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = {member.filename: member for member in archive.infolist()}
                there = [name for name in (*names, *optional) if f"{name}.npy" in members]
                missing = [name for name in names if name not in there]
                if missing:
                    held = ", ".join(sorted(members)[:10]) or "nothing"
                    raise ValueError(f"it has no array {missing[0]!r}; it holds {held}")
                unpacked = sum(members[f"{name}.npy"].file_size for name in there)
                if unpacked > DATA_BYTES:
                    raise ValueError(
                        f"its arrays have {unpacked:,} bytes; at most {DATA_BYTES:,} are read"
                    )
                found = {}
                for name in there:
                    with archive.open(f"{name}.npy") as member:
                        found[name] = _read(member)
                return found
        # What zipfile, zlib and NumPy raise over damaged archives is of many kinds.
        except Exception as failure:
            wanted = " and ".join(f"`{name}`" for name in names)
            if optional:
                wanted += f", and {' or '.join(f'`{name}`' for name in optional)}"
            raise error(
                f"{path} must be an .npz file with {wanted}: {_reason(failure)}"
            ) from failure


def _read(file: IO[bytes]) -> NDArray[Any]:
    with warnings.catch_warnings():
        # NumPy's remarks on headers that Python 2 wrote.
        warnings.simplefilter("ignore")
        found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return found


def _reason(failure: Exception) -> str:
    lines = str(failure).strip().splitlines()
    return lines[0][:200] if lines else type(failure).__name__

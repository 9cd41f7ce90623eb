"""A model as C source for TensorFlow Lite Micro: read back, and run, from the array in its text.

`hemline_export.c_source` writes it: a folder with one .cc file, whose only array of numbers is the
.tflite file, and its header.
"""

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from hemline.engines.base import Engine
from hemline.engines.litert import LiteRTEngine
from hemline.engines.structure import FileStructure
from hemline.errors import ModelFileError
from hemline.files import read_regular
from hemline.limits import MODEL_BYTES

_ARRAY = re.compile(r"\bunsigned char \w+\[\] = \{([0-9a-fx,\s]*)\};")


class CSourceEngine(Engine):
    """The .tflite file in a folder of C source, in TensorFlow Lite Micro."""

    name: ClassVar[str] = "micro"

    def __init__(self, path: Path, threads: int) -> None:
        # Not installed everywhere, and not needed to read the file.
        from hemline.engines.micro import MicroEngine

        self._engine = MicroEngine(path, threads, content=read_array(path))
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs

    def run_all(self, tensors: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return self._engine.run_all(tensors)

    def arena_bytes(self) -> int:
        """Returns what `MicroEngine.arena_bytes` does."""
        return self._engine.arena_bytes()

    def embedded_facts(self) -> bytes | None:
        return self._engine.embedded_facts()

    @classmethod
    def read_facts(cls, path: Path, content: bytes | None = None) -> bytes | None:  # noqa: ARG003
        return _open(path).embedded_facts()

    @classmethod
    def structure(cls, path: Path, content: bytes | None = None) -> FileStructure:  # noqa: ARG003
        return _open(path).describe()

    @classmethod
    def why_unavailable(cls) -> str | None:
        try:
            version("tflite-micro")
        except PackageNotFoundError:
            return "needs TensorFlow Lite Micro: pip install 'hemline[micro]'"
        return None

    @classmethod
    def version(cls) -> str:
        return version("tflite-micro")


def read_array(folder: Path) -> bytes:
    """Returns the .tflite file that stands as an array in a folder's .cc file.

    Raises:
        ModelFileError: there is no such folder, .cc file or array, or several.
    """
    sources = sorted(folder.glob("*.cc"))
    if len(sources) != 1:
        raise ModelFileError(f"{folder} holds {len(sources)} .cc files, expected exactly one")
    try:
        found = _ARRAY.findall(read_regular(sources[0], MODEL_BYTES).decode())
        (numbers,) = found
        return bytes(int(number, 16) for number in numbers.replace(",", " ").split())
    except ValueError as error:
        raise ModelFileError(
            f"{sources[0]} holds no array of bytes as `hemline export --recipes micro` writes it"
        ) from error


def _open(folder: Path) -> LiteRTEngine:
    return LiteRTEngine(folder, 1, content=read_array(folder))

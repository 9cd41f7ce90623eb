"""The journal of a commit: what it does to each name in its folder."""

from dataclasses import dataclass
from pathlib import Path

from hemline.documents import read_document, write_document
from hemline.paths import require_plain_name

SCHEMA = "hemline.commit/1"
FILE_NAME = ".hemline-journal.json"
# What may be committed: model files, and records of them.
MODELS = (".keras", ".tflite", ".onnx", ".mlpackage", ".csource")
SUFFIXES = (*MODELS, ".json", ".npz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What a commit does to one name in the folder.

    Attributes:
        name: the file's or package's.
        sha256: of what goes there; None if what is there goes away.
        replaces: the SHA-256 of what is there before; None if nothing is.
    """

    name: str
    sha256: str | None
    replaces: str | None

    def __post_init__(self) -> None:
        require_plain_name(self.name)
        if self.name.startswith(".") or not self.name.endswith(SUFFIXES):
            raise ValueError(f"{self.name!r} is no name of a model file or record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """What a commit does."""

    moves: tuple[Move, ...]


def read_journal(folder: Path) -> Journal:
    """Reads a commit's journal.

    Raises:
        ManifestError: there is none, or it is not valid.
    """
    return read_document(folder / FILE_NAME, SCHEMA, Journal)


def write_journal(folder: Path, journal: Journal) -> None:
    """Writes a commit's journal.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_document(folder / FILE_NAME, SCHEMA, journal)

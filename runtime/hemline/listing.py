"""What a folder's manifest says of one file: all that loading it takes.

`hemline.manifest` reads the document whole and checks all of it, which `hemline verify` and the
other commands do. To a process that only predicts, that would be a tenth of its time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemline.commit import newest
from hemline.documents import decode_fields, from_json, read_content
from hemline.errors import ChecksumError, ManifestError, ModelFileError
from hemline.facts import ModelFacts
from hemline.files import sha256
from hemline.paths import require_ordinary

SCHEMA = "hemline.manifest/1"
FILE_NAME = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a manifest says of a file that it lists.

    Attributes:
        sha256: the one that the file must have.
        model: what all files of the manifest share.
    """

    sha256: str
    model: ModelFacts


def find_listed(path: Path) -> Listed | None:
    """Returns what the manifest beside a file says of it; None if there is none that lists it.

    Raises:
        ManifestError: the manifest is not valid.
    """
    document = newest(path.parent / FILE_NAME)
    if not document.is_file():
        return None
    content = decode_fields(SCHEMA, read_content(document), str(document))
    try:
        files = [content["float_model"], *content["artifacts"]]
        recorded: Any = {file["file"]: file["sha256"] for file in files}.get(path.name)
        facts = from_json(ModelFacts, content["model"], f"{document}.model")
    except (KeyError, TypeError) as error:
        raise ManifestError(
            f"{document} is damaged ({error!r}): restore it, or export again"
        ) from error
    return None if recorded is None else Listed(sha256=str(recorded), model=facts)


def check_sha256(path: Path, expected: str) -> None:
    """Raises unless a file or package is byte for byte the one that a manifest records.

    Raises:
        ModelFileError: there is no such file, or no ordinary one.
        ChecksumError: its content differs.
    """
    if not path.exists():
        raise ModelFileError(f"{path} is named in its manifest, but is not there; export again")
    require_ordinary(path)
    require_sha256(path, sha256(path), expected)


def require_sha256(path: Path, found: str, expected: str) -> None:
    """Raises unless the SHA-256 found of a file's content is the one that a manifest records.

    Raises:
        ChecksumError: it is another.
    """
    if found != expected:
        raise ChecksumError(
            f"{path} has SHA-256 {found[:16]}…, its manifest says {expected[:16]}…; "
            "the file was changed after the export: restore it, or export again"
        )

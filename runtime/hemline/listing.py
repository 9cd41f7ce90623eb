"""What a folder's manifest says of one file: all that loading it takes.

`hemline.manifest` reads the document whole and checks all of it, which `hemline verify` and the
other commands do. To a process that only predicts, that would be a tenth of its time.
"""

from pathlib import Path
from typing import Any

from hemline.commit import newest
from hemline.documents import decode_fields, from_json, read_content
from hemline.errors import ChecksumError, ManifestError, ModelFileError
from hemline.facts import ModelFacts
from hemline.files import sha256

SCHEMA = "hemline.manifest/1"
FILE_NAME = "manifest.json"


def find_listed(path: Path) -> ModelFacts | None:
    """Returns what a file's model is, by the manifest beside it; None if none lists the file.

    Raises:
        ChecksumError: the file is not the one that the manifest records.
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
    if recorded is None:
        return None
    check_sha256(newest(path), recorded)
    return facts


def check_sha256(path: Path, expected: str) -> None:
    """Raises unless a file or package is byte for byte the one that a manifest records.

    Raises:
        ModelFileError: there is no such file.
        ChecksumError: its content differs.
    """
    if not path.exists():
        raise ModelFileError(f"{path} is named in its manifest, but is not there; export again")
    found = sha256(path)
    if found != expected:
        raise ChecksumError(
            f"{path} has SHA-256 {found[:16]}…, its manifest says {expected[:16]}…; "
            "the file was changed after the export: restore it, or export again"
        )

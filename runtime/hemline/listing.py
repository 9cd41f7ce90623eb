"""What a folder's manifest says of one file: all that loading it takes.

`hemline.manifest` reads the document whole and checks all of it, which `hemline verify` and the
other commands do. To a process that only predicts, that would be a tenth of its time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemline.commit import newest
from hemline.documents import decode_fields, from_json, read_content
from hemline.errors import ManifestError
from hemline.facts import ModelFacts

SCHEMA = "hemline.manifest/1"
FILE_NAME = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a manifest says of a file that it lists.

    Attributes:
        sha256: the one that the file must have.
        size_bytes: likewise.
        model: what all files of the manifest share.
    """

    sha256: str
    size_bytes: int
    model: ModelFacts


def find_listed(path: Path) -> Listed | None:
    """Returns what the manifest beside a file says of it; None if there is none that lists it.

    Raises:
        ManifestError: the manifest is not valid.
    """
    document = newest(path.parent / FILE_NAME)
    # Also a link that leads nowhere: whoever put it there expects it to be heeded.
    if not document.exists() and not document.is_symlink():
        return None
    content = decode_fields(SCHEMA, read_content(document), str(document))
    try:
        files = [content["float_model"], *content["artifacts"]]
        recorded: Any = {file["file"]: file for file in files}.get(path.name)
        facts = from_json(ModelFacts, content["model"], f"{document}.model")
        if recorded is None:
            return None
        digest, size = recorded["sha256"], recorded["size_bytes"]
    except (KeyError, TypeError) as error:
        raise ManifestError(
            f"{document} is damaged ({error!r}): restore it, or delete it and export again"
        ) from error
    if type(digest) is not str or type(size) is not int:
        raise ManifestError(f"{document} is damaged: {path.name} has no valid SHA-256 or size")
    return Listed(sha256=digest, size_bytes=size, model=facts)

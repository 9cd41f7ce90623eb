"""manifest.json: what a folder of artifacts holds, and the check that it still holds it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hemline.artifact_facts import ArtifactFacts
from hemline.commit import newest
from hemline.documents import read_document, write_document
from hemline.errors import ManifestError
from hemline.facts import ModelFacts
from hemline.listing import FILE_NAME, SCHEMA, Listed
from hemline.paths import require_plain_name
from hemline.snapshot import check_listed


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatModel:
    """The float Keras file that all artifacts of a folder come from."""

    file: str
    sha256: str
    size_bytes: int
    parameters: int

    def __post_init__(self) -> None:
        require_plain_name(self.file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One exported file and how it was made."""

    file: str
    sha256: str
    size_bytes: int
    facts: ArtifactFacts

    def __post_init__(self) -> None:
        require_plain_name(self.file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A folder of artifacts made from one float model.

    Attributes:
        model: what all artifacts share.
        float_model: what they were made from.
        calibration_sample_sha256: the first 16 hex digits of the SHA-256 of each sample that
            calibration saw, so that a test on one of them is noticed.
        artifacts: the files.
        omitted: for each recipe that cannot take this model, by its name and suffix, the reason.
        golden_sha256: of the folder's golden.json; None if it has none.
    """

    model: ModelFacts
    float_model: FloatModel
    calibration_sample_sha256: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    omitted: dict[str, str]
    golden_sha256: str | None

    def __post_init__(self) -> None:
        names = [self.float_model.file, *(artifact.file for artifact in self.artifacts)]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]} is listed more than once")
        for artifact in self.artifacts:
            artifact.facts.require_bounds(self.model.task)
            parent = artifact.facts.parent_sha256
            if parent != self.float_model.sha256:
                raise ValueError(
                    f"{artifact.file} was made from the float model {parent[:16]}…, but "
                    f"{self.float_model.file} is {self.float_model.sha256[:16]}…: an artifact of "
                    "another training run; export again"
                )

    def sha256_by_file(self) -> dict[str, str]:
        """Returns the recorded SHA-256 of the float model's file and of each artifact's."""
        return {file.file: file.sha256 for file in self._files()}

    def listed(self, file: str) -> Listed:
        """Returns what is recorded of one of the files."""
        (found,) = (one for one in self._files() if one.file == file)
        return Listed(sha256=found.sha256, size_bytes=found.size_bytes, model=self.model)

    def _files(self) -> tuple[FloatModel | Artifact, ...]:
        return (self.float_model, *self.artifacts)


def read_manifest(folder: Path) -> Manifest:
    """Reads a folder's manifest.

    Raises:
        ManifestError: there is none, or it is not valid.
    """
    path = newest(folder / FILE_NAME)
    if not path.exists():
        raise ManifestError(f"{folder} has no {FILE_NAME}; `hemline export` makes one")
    return read_document(path, SCHEMA, Manifest)


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises unless a folder's files are byte for byte those that its manifest records.

    Raises:
        ModelFileError: a file is missing, or no ordinary one.
        ChecksumError: one differs.
    """
    for file in manifest.sha256_by_file():
        check_listed(folder / file, manifest.listed(file))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a folder's manifest, whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_document(folder / FILE_NAME, SCHEMA, manifest)

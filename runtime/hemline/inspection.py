"""`hemline inspect`: what a model file holds, without running it on data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hemline.engines import engine_for
from hemline.errors import ModelFileError
from hemline.facts import EmbeddedFacts, TensorSpec
from hemline.files import sha256, size_bytes
from hemline.manifest import FILE_NAME, read_manifest
from hemline.model import embedded_facts

SCHEMA = "hemline.inspect/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a model file holds.

    Attributes:
        file: its file name.
        engine: what runs it.
        size_bytes: of the file, or of all files of a package.
        sha256: of its content.
        manifest: `matches`, `differs` or `not listed` in the manifest beside it; `none`.
        input: its input tensor.
        output: its output tensor.
        operators: how often each operator stands in it.
        facts: the facts inside it, or None.
    """

    file: str
    engine: str
    size_bytes: int
    sha256: str
    manifest: str
    input: TensorSpec
    output: TensorSpec
    operators: Mapping[str, int]
    facts: EmbeddedFacts | None


def inspect(path: Path) -> Inspection:
    """Reads what a model file holds.

    Raises:
        ModelFileError: there is no such file, or it is not of the kind that its suffix says.
        EngineUnavailableError: a package that reads this kind of file is not installed.
        ManifestError: the facts inside it, or the manifest beside it, are not valid.
    """
    if not path.exists():
        raise ModelFileError(f"there is no model file {path}")
    engine = engine_for(path)
    structure = engine.structure(path)
    digest = sha256(path)
    return Inspection(
        file=path.name,
        engine=engine.name,
        size_bytes=size_bytes(path),
        sha256=digest,
        manifest=_manifest_state(path, digest),
        input=structure.input,
        output=structure.output,
        operators=structure.operators,
        facts=embedded_facts(path, structure.embedded_facts),
    )


def _manifest_state(path: Path, digest: str) -> str:
    if not (path.parent / FILE_NAME).is_file():
        return "none"
    recorded = read_manifest(path.parent).sha256_by_file().get(path.name)
    if recorded is None:
        return "not listed"
    return "matches" if recorded == digest else "differs"

from dataclasses import replace
from pathlib import Path

import pytest

from hemline.errors import ChecksumError, ManifestError, ModelFileError
from hemline.files import sha256
from hemline.manifest import check_files, read_manifest, write_manifest
from hemline.snapshot import check_listed


def test_a_manifest_lists_the_sha256_of_every_file(build: Path) -> None:
    folder = build / "toy"
    manifest = read_manifest(folder)
    recorded = manifest.sha256_by_file()
    assert list(recorded) == ["toy.float.keras", "toy.int8.tflite", "toy.float16.mlpackage"]
    for file, digest in recorded.items():
        assert sha256(folder / file) == digest
    check_files(folder, manifest)


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"has no manifest\.json; `hemline export` makes one"):
        read_manifest(tmp_path)


def test_a_written_manifest_is_read_back(build: Path, tmp_path: Path) -> None:
    manifest = replace(read_manifest(build / "toy"), calibration_sample_sha256=(), artifacts=())
    write_manifest(tmp_path / "new", manifest)
    assert read_manifest(tmp_path / "new") == manifest


def test_a_changed_file(build: Path) -> None:
    path = build / "toy" / "toy.int8.tflite"
    path.write_bytes(b"integerz")
    with pytest.raises(
        ChecksumError,
        match=r"toy\.int8\.tflite has SHA-256 [0-9a-f]{16}…, its manifest says [0-9a-f]{16}…; "
        r"the file was changed after the export: restore it, or delete it and export again",
    ):
        check_files(path.parent, read_manifest(path.parent))


def test_a_file_of_another_size_is_not_read(build: Path) -> None:
    path = build / "toy" / "toy.int8.tflite"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(
        ChecksumError, match=r"has 1,099,511,627,776 bytes, its manifest says 8; the file was"
    ):
        check_files(path.parent, read_manifest(path.parent))


def test_a_file_added_to_a_package(build: Path) -> None:
    package = build / "toy" / "toy.float16.mlpackage"
    listed = read_manifest(package.parent).listed(package.name)
    (package / "more").write_text("")
    with pytest.raises(ChecksumError, match="was changed after the export"):
        check_listed(package, listed)


def test_a_missing_file(build: Path) -> None:
    (build / "toy" / "toy.int8.tflite").unlink()
    with pytest.raises(ModelFileError, match="is named in its manifest, but is not there"):
        check_files(build / "toy", read_manifest(build / "toy"))


def test_a_file_that_is_listed_twice(build: Path) -> None:
    manifest = read_manifest(build / "toy")
    twice = (*manifest.artifacts, manifest.artifacts[0])
    with pytest.raises(ValueError, match=r"toy\.int8\.tflite is listed more than once"):
        replace(manifest, artifacts=twice)


def test_an_artifact_of_another_training_run(build: Path) -> None:
    manifest = read_manifest(build / "toy")
    first, second = manifest.artifacts
    other = replace(second, facts=replace(second.facts, parent_sha256="12" * 32))
    with pytest.raises(
        ValueError,
        match=r"toy\.float16\.mlpackage was made from the float model 1212121212121212…, but "
        r"toy\.float\.keras is [0-9a-f]{16}…: an artifact of another training run",
    ):
        replace(manifest, artifacts=(first, other))


@pytest.mark.parametrize("file", ["", ".", "..", "a/b.onnx", "/b.onnx", "..\\b.onnx"])
def test_files_lie_in_the_folder(build: Path, file: str) -> None:
    manifest = read_manifest(build / "toy")
    with pytest.raises(ValueError, match="a plain file name in the folder"):
        replace(manifest.artifacts[0], file=file)
    with pytest.raises(ValueError, match="a plain file name in the folder"):
        replace(manifest.float_model, file=file)

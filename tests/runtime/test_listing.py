import json
from pathlib import Path

import pytest

from hemline.errors import ChecksumError, ManifestError
from hemline.listing import Listed, check_sha256, find_listed
from hemline.manifest import read_manifest


def test_a_listed_file_is_what_the_manifest_says(build: Path) -> None:
    folder = build / "toy"
    for file in ("toy.int8.tflite", "toy.float16.mlpackage", "toy.float.keras"):
        manifest = read_manifest(folder)
        assert find_listed(folder / file) == Listed(
            sha256=manifest.sha256_by_file()[file], model=manifest.model
        )


def test_a_file_that_none_lists(build: Path, tmp_path: Path) -> None:
    assert find_listed(build / "toy" / "other.tflite") is None
    assert find_listed(tmp_path / "toy.int8.tflite") is None


def test_another_content(build: Path) -> None:
    (build / "toy" / "toy.int8.tflite").write_bytes(b"other")
    with pytest.raises(ChecksumError, match=r"toy\.int8\.tflite has SHA-256"):
        check_sha256(build / "toy" / "toy.int8.tflite", "ab" * 32)


@pytest.mark.parametrize("key", ["model", "float_model", "artifacts"])
def test_a_manifest_that_lacks_something(build: Path, key: str) -> None:
    path = build / "toy" / "manifest.json"
    document = json.loads(path.read_bytes())
    del document[key]
    path.write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=rf"manifest\.json is damaged \(KeyError\('{key}'\)\)"):
        find_listed(build / "toy" / "toy.int8.tflite")


@pytest.mark.parametrize("artifacts", [3, [3], [{}], {"a": "b"}])
def test_artifacts_of_another_kind(build: Path, artifacts: object) -> None:
    path = build / "toy" / "manifest.json"
    document = json.loads(path.read_bytes()) | {"artifacts": artifacts}
    path.write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=r"manifest\.json is damaged"):
        find_listed(build / "toy" / "toy.int8.tflite")


def test_another_schema(build: Path) -> None:
    (build / "toy" / "manifest.json").write_text('{"schema": "other/1"}')
    with pytest.raises(ManifestError, match=r"schema is 'other/1', expected 'hemline\.manifest/1'"):
        find_listed(build / "toy" / "toy.int8.tflite")

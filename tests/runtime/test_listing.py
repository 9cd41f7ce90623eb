import json
import os
from pathlib import Path

import pytest

from hemline.errors import ManifestError
from hemline.listing import find_listed
from hemline.manifest import read_manifest


def test_a_listed_file_is_what_the_manifest_says(build: Path) -> None:
    folder = build / "toy"
    for file in ("toy.int8.tflite", "toy.float16.mlpackage", "toy.float.keras"):
        manifest = read_manifest(folder)
        assert find_listed(folder / file) == manifest.listed(file)


def test_a_file_that_none_lists(build: Path, tmp_path: Path) -> None:
    assert find_listed(build / "toy" / "other.tflite") is None
    assert find_listed(tmp_path / "toy.int8.tflite") is None


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


@pytest.mark.parametrize(
    ("key", "value"), [("sha256", 3), ("size_bytes", "8"), ("size_bytes", 8.0)]
)
def test_a_sha256_or_size_of_another_kind(build: Path, key: str, value: object) -> None:
    path = build / "toy" / "manifest.json"
    document = json.loads(path.read_bytes())
    document["artifacts"][0][key] = value
    path.write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=r"toy\.int8\.tflite has no valid SHA-256 or size"):
        find_listed(build / "toy" / "toy.int8.tflite")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_manifest_that_is_a_pipe(build: Path) -> None:
    (build / "toy" / "manifest.json").unlink()
    os.mkfifo(build / "toy" / "manifest.json")
    with pytest.raises(ManifestError, match="is neither a file nor a folder"):
        find_listed(build / "toy" / "toy.int8.tflite")


def test_another_schema(build: Path) -> None:
    (build / "toy" / "manifest.json").write_text('{"schema": "other/1"}')
    with pytest.raises(ManifestError, match=r"schema is 'other/1', expected 'hemline\.manifest/1'"):
        find_listed(build / "toy" / "toy.int8.tflite")

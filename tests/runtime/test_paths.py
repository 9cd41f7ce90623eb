import json
import os
import shutil
from pathlib import Path

import pytest

import hemline
from hemline.engines.coreml import CoreMLEngine, read_spec
from hemline.errors import ManifestError, ModelFileError
from hemline.manifest import check_files, read_manifest
from hemline.paths import (
    require_inside,
    require_members_inside,
    require_ordinary,
    require_plain_name,
)

PACKAGE = "separable.float16.mlpackage"
WEIGHTS = "Data/com.apple.CoreML/weights"

OUTSIDE = [
    "/etc/passwd",
    "../secret",
    "a/../../secret",
    "..",
    "..\\secret",
    "C:secret",
    "C:\\secret",
    "\\\\host\\share",
    "a\0b",
    "a\nb",
    "a\x1bb",
    "a\x9bb",
    "\udcff",
]


@pytest.mark.parametrize("name", [*OUTSIDE, "", ".", "a/b"])
def test_names_that_are_not_plain(name: str) -> None:
    with pytest.raises(ValueError, match="must be a plain file name in the folder, got "):
        require_plain_name(name)


@pytest.mark.parametrize("name", ["cnn.int8.tflite", "..a", "émeu 日本.onnx", "-x", "a b"])
def test_names_that_are_plain(name: str) -> None:
    require_plain_name(name)
    require_members_inside(Path("a.zip"), [name, f"assets/{name}", f"./{name}"])


@pytest.mark.parametrize("name", OUTSIDE)
def test_members_outside_an_archive(name: str) -> None:
    with pytest.raises(ModelFileError, match=r"a\.zip has a member .*, outside its own folder"):
        require_members_inside(Path("a.zip"), ["config.json", name])


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_that_names_what_is_elsewhere(folder: Path, name: str) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    document["artifacts"][0]["file"] = name
    path.write_text(json.dumps(document))
    with pytest.raises(ManifestError, match="must be a plain file name in the folder"):
        read_manifest(folder)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_package_that_names_what_is_elsewhere(folder: Path, name: str) -> None:
    path = folder / PACKAGE / "Manifest.json"
    listing = json.loads(path.read_text())
    listing["itemInfoEntries"][listing["rootModelIdentifier"]]["path"] = name
    path.write_text(json.dumps(listing))
    for read in (require_inside, CoreMLEngine.read_facts, read_spec, CoreMLEngine.structure):
        with pytest.raises(ModelFileError, match=r"its Manifest\.json names .*, which is not in"):
            read(folder / PACKAGE)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, "{}", '{"itemInfoEntries": [1]}'])
def test_a_listing_of_another_form_is_left_to_core_ml(tmp_path: Path, content: str) -> None:
    (tmp_path / "Manifest.json").write_text(content)
    require_inside(tmp_path)
    require_inside(tmp_path / "none")
    with pytest.raises(ModelFileError, match="is no valid Core ML package"):
        CoreMLEngine.read_facts(tmp_path)


def test_a_package_with_a_link_out_of_it(folder: Path, tmp_path: Path) -> None:
    package = folder / PACKAGE
    require_ordinary(package)
    moved = shutil.move(package / WEIGHTS, tmp_path / "elsewhere")
    (package / WEIGHTS).symlink_to(moved)
    for trust in (False, True):
        with pytest.raises(
            ModelFileError,
            match=r"holds 'Data/com\.apple\.CoreML/weights', a link or no ordinary file",
        ):
            hemline.load(package, engine="coreml-reference", trust=trust)
    (folder / "manifest.json").unlink()
    for trust in (False, True):
        with pytest.raises(ModelFileError, match="a link or no ordinary file"):
            hemline.load(package, engine="coreml-reference", trust=trust)


def test_a_package_with_a_pipe_in_it(folder: Path) -> None:
    os.mkfifo(folder / PACKAGE / "pipe")
    with pytest.raises(ModelFileError, match="holds 'pipe', a link or no ordinary file"):
        check_files(folder, read_manifest(folder))


def test_a_link_to_a_file_is_a_file(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "link.tflite"
    path.symlink_to(exported / "separable.int8.tflite")
    require_ordinary(path)
    with pytest.raises(ModelFileError, match=r"cannot read .*none: No such file"):
        require_ordinary(tmp_path / "none")

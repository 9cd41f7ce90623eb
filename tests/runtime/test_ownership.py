import json
import os
from pathlib import Path

import numpy as np
import pytest

from hemline.errors import OutputError
from hemline.files import sha256, write_bytes
from hemline.ownership import is_ours, replacing_package, require_replaceable

RELEASED = Path(__file__).parents[2] / "artifacts" / "fashion_mnist" / "gru"
MODEL = "Data/com.apple.CoreML/model.mlmodel"


def test_all_that_is_released_is_ours() -> None:
    for path in RELEASED.iterdir():
        assert is_ours(path), path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", b'{"name": "a web site\'s"}'),
        ("manifest.json", b'{"schema": "other/1"}'),
        ("manifest.json", b'["hemline.manifest/1"]'),
        ("parity.json", b"{"),
        ("model.int8.tflite", b"somebody's"),
        ("model.keras", b"somebody's"),
        ("float_predictions.npz", b"PK"),
        ("notes.txt", b'"hemline.facts/1"'),
        ("helper.py", b"Made by `hemline export"),
    ],
)
def test_what_is_somebody_elses(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert not is_ours(path)
    with pytest.raises(OutputError, match=rf"{name} is there already, and is nothing that Hemline"):
        require_replaceable(path)
    require_replaceable(tmp_path / "free.json")


def test_arrays_of_somebody_else(tmp_path: Path) -> None:
    np.savez(tmp_path / "float_predictions.npz", images=np.zeros(3))
    assert not is_ours(tmp_path / "float_predictions.npz")


def test_a_keras_file_is_known_by_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "a.float.keras"
    path.write_bytes(b"weights")
    entry = {"file": path.name, "sha256": sha256(path)}
    manifest = {"float_model": entry, "artifacts": []}
    training = {"keras_file": path.name, "keras_sha256": sha256(path)}
    for name, document in (("manifest.json", manifest), ("training.json", training)):
        assert not is_ours(path)
        (tmp_path / name).write_text(json.dumps(document))
        assert is_ours(path)
        path.write_bytes(b"trained on")
        assert not is_ours(path)
        path.write_bytes(b"weights")
        (tmp_path / name).unlink()
    for document in ([], {"artifacts": 3}, {"artifacts": [3]}, {"float_model": "x"}):
        (tmp_path / "manifest.json").write_text(json.dumps(document))
        assert not is_ours(path)


@pytest.mark.skipif(os.name == "nt", reason="Windows makes links for administrators only")
def test_a_link_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(b'"hemline.facts/1"')
    (tmp_path / "link.tflite").symlink_to("a.tflite")
    (tmp_path / "nowhere.tflite").symlink_to("gone")
    assert is_ours(tmp_path / "a.tflite")
    for name in ("link.tflite", "nowhere.tflite"):
        with pytest.raises(OutputError, match="is there already"):
            require_replaceable(tmp_path / name)


@pytest.mark.parametrize("extra", ["notes.txt", "Data/notes.txt", "Data/com.apple.CoreML/more"])
def test_a_package_with_something_else_in_it(tmp_path: Path, extra: str) -> None:
    package = tmp_path / "a.mlpackage"
    write_bytes(package / MODEL, b'"hemline.facts/1"')
    write_bytes(package / "Manifest.json", b"{}")
    assert is_ours(package)
    write_bytes(package / extra, b"mine")
    assert not is_ours(package)
    with (
        pytest.raises(OutputError, match=r"a\.mlpackage is no package such as Hemline makes"),
        replacing_package(package),
    ):
        pass
    assert (package / extra).read_bytes() == b"mine"


def test_a_folder_named_like_an_artifact(tmp_path: Path) -> None:
    for name in ("a.float16.mlpackage", "a.micro.csource", "thesis"):
        write_bytes(tmp_path / name / "thesis.txt", b"years")
        assert not is_ours(tmp_path / name)
        with pytest.raises(OutputError), replacing_package(tmp_path / name):
            pass
        assert (tmp_path / name / "thesis.txt").read_bytes() == b"years"


def test_a_package_replaces_one_of_its_kind(tmp_path: Path) -> None:
    package = tmp_path / "a.mlpackage"
    for content in (b"old", b"new"):
        with replacing_package(package) as temporary:
            write_bytes(temporary / MODEL, content)
            assert not package.exists() or (package / MODEL).read_bytes() == b"old"
    assert (package / MODEL).read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), replacing_package(package) as temporary:  # noqa: PT012
        temporary.mkdir()
        raise ZeroDivisionError
    with (
        pytest.raises(OutputError, match=r"cannot write .*a\.mlpackage: No such file"),
        replacing_package(package),
    ):
        pass
    assert (package / MODEL).read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [package]

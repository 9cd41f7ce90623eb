import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hemline.errors import ChecksumError, ManifestError, ModelFileError, OutputError
from hemline.release import release

NAMES = [
    "bench.json",
    "float_predictions.npz",
    "golden.json",
    "manifest.json",
    "parity.json",
    "toy.float.keras",
    "toy.float16.mlpackage",
    "toy.int8.tflite",
    "training.json",
]


def change_parity(build: Path, part: str, **changes: Any) -> None:
    path = build / "toy" / "parity.json"
    document = json.loads(path.read_bytes())
    target = document["float_model"] if part == "float_model" else document["artifacts"][0]
    target |= changes
    path.write_text(json.dumps(document))


def test_a_build_that_passes_is_released(build: Path, tmp_path: Path) -> None:
    (build / "toy" / "scratch.txt").write_text("not released")
    released = tmp_path / "artifacts"
    assert release(build, released) == [released / "toy"]
    assert sorted(path.name for path in (released / "toy").iterdir()) == NAMES
    assert (released / "toy" / "toy.int8.tflite").read_bytes() == b"integers"
    assert (released / "toy" / "toy.float16.mlpackage" / "Manifest.json").read_text() == "{}"


def test_what_was_released_before_is_replaced(build: Path, tmp_path: Path) -> None:
    old = tmp_path / "artifacts" / "toy" / "old.onnx"
    old.parent.mkdir(parents=True)
    old.write_text('"hemline.facts/1"')
    notes = old.with_name("notes.txt")
    notes.write_text("not Hemline's")
    other = tmp_path / "artifacts" / "other" / "kept.onnx"
    other.parent.mkdir()
    other.write_text("kept")
    release(build, tmp_path / "artifacts")
    assert not old.exists()
    assert notes.exists()
    release(build, tmp_path / "artifacts")
    assert other.read_text() == "kept"


def refuse(build: Path, kind: type[Exception], message: str) -> None:
    released = build.parent / "artifacts"
    with pytest.raises(kind, match=message):
        release(build, released)
    assert not released.exists()


@pytest.mark.parametrize("part", ["float_model", "artifacts"])
@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_a_verdict_that_is_no_pass(build: Path, part: str, verdict: str) -> None:
    change_parity(build, part, verdict=verdict)
    refuse(build, ManifestError, rf"toy is not released, its verdicts include \['{verdict}'\]")


def test_a_model_without_a_floor(build: Path) -> None:
    change_parity(build, "float_model", floor_accuracy=None)
    refuse(build, ManifestError, "toy sets no floor for its float model: only a full build")


def test_a_ceiling_of_loss_is_a_floor_too(build: Path, tmp_path: Path) -> None:
    change_parity(build, "float_model", floor_accuracy=None, ceiling_loss=0.5)
    assert release(build, tmp_path / "artifacts") == [tmp_path / "artifacts" / "toy"]


def test_tensors_have_no_floor(build: Path, tmp_path: Path) -> None:
    change_parity(build, "float_model", floor_accuracy=None)
    path = build / "toy" / "manifest.json"
    document = json.loads(path.read_bytes())
    document["model"] |= {"task": "tensors", "labels": [], "floor_accuracy": None}
    for artifact in document["artifacts"]:
        artifact["facts"] |= {"margin_pt": None, "least_sqnr_db": 15.0, "least_cosine": 0.98}
    path.write_text(json.dumps(document))
    parity = build / "toy" / "parity.json"
    parity.write_text(json.dumps(json.loads(parity.read_bytes()) | {"task": "tensors"}))
    assert release(build, tmp_path / "artifacts") == [tmp_path / "artifacts" / "toy"]


@pytest.mark.parametrize(
    "name", ["training.json", "parity.json", "float_predictions.npz", "bench.json", "golden.json"]
)
def test_a_missing_document(build: Path, name: str) -> None:
    (build / "toy" / name).unlink()
    refuse(build, ManifestError, f"toy has no {name}; run `make all` first")


def test_a_damaged_document(build: Path) -> None:
    (build / "toy" / "bench.json").write_text("{")
    refuse(build, ManifestError, r"bench\.json: not valid JSON")


@pytest.mark.parametrize("name", ["toy.int8.tflite", "toy.float.keras", "golden.json"])
def test_a_changed_file(build: Path, name: str) -> None:
    content = (build / "toy" / name).read_bytes()
    (build / "toy" / name).write_bytes(content[:-1] + b"?")
    refuse(build, ChecksumError, f"{name} has SHA-256")


def test_a_missing_file(build: Path) -> None:
    (build / "toy" / "toy.int8.tflite").unlink()
    refuse(build, ModelFileError, r"toy\.int8\.tflite is named in its manifest, but is not there")


def test_a_stale_verdict(build: Path) -> None:
    change_parity(build, "artifacts", sha256="00" * 32)
    refuse(build, ManifestError, "is of other files than the manifest's")


def test_one_model_that_fails_holds_back_all(build: Path) -> None:
    (build / "toy").rename(build / "first")
    (build / "second").mkdir()
    (build / "second" / "manifest.json").write_text("{}")
    refuse(build, ManifestError, "second")


def test_nothing_to_release(tmp_path: Path) -> None:
    for build in (tmp_path, tmp_path / "none"):
        with pytest.raises(ManifestError, match="holds no model folders; run `make all` first"):
            release(build, tmp_path / "artifacts")


def test_an_unwritable_place(build: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose a writable folder"):
        release(build, tmp_path / "file" / "artifacts")


def test_the_command(build: Path, tmp_path: Path) -> None:
    def run(*words: str | Path) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "hemline.release", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    released = tmp_path / "artifacts"
    assert run(build, released) == (0, f"released {released / 'toy'}\n", "")
    status, out, err = run(tmp_path / "none", released)
    assert (status, out) == (2, "")
    assert err == f"release: {tmp_path / 'none'} holds no model folders; run `make all` first\n"
    assert run(build) == (2, "", "usage: python -m hemline.release BUILD RELEASED\n")

"""Commands that read leave everything as it was, in the model's folder and in the working one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import hemline
from hemline.cli import main
from hemline.files import sha256

RELEASED = Path(__file__).parents[2] / "artifacts" / "fashion_mnist" / "cnn"
FILES = ("cnn.int8.tflite", "cnn.float.keras", "cnn.float16.mlpackage")


def tree(folder: Path) -> dict[str, object]:
    """Everything in a folder: names, kinds, modes, times of change, links and contents."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else None
        if path.is_file() and not path.is_symlink():
            content = sha256(path)
        name = path.relative_to(folder).as_posix()
        found[name] = (status.st_mode, status.st_mtime_ns, content)
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a folder of artifacts in it, `model`, and something to try them on."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in (*FILES, "golden.json", "parity.json", "bench.json"):
        copy = shutil.copytree if (RELEASED / name).is_dir() else shutil.copyfile
        copy(RELEASED / name, folder / name)
    # The manifest and the records of these files alone.
    manifest = json.loads((RELEASED / "manifest.json").read_bytes())
    manifest["artifacts"] = [a for a in manifest["artifacts"] if a["file"] in FILES]
    golden = json.loads((RELEASED / "golden.json").read_bytes())
    golden["artifacts"] = [a for a in golden["artifacts"] if a["file"] in FILES]
    (folder / "golden.json").write_text(json.dumps(golden))
    manifest["golden_sha256"] = sha256(folder / "golden.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    parity = json.loads((RELEASED / "parity.json").read_bytes())
    parity["artifacts"] = [a for a in parity["artifacts"] if a["file"] in FILES]
    (folder / "parity.json").write_text(json.dumps(parity))
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (20, 28, 28), np.uint8)
    np.savez(tmp_path / "test.npz", images=pixels, labels=random.integers(0, 10, 20))
    np.save(tmp_path / "image.npy", pixels[0])
    shutil.copyfile(folder / FILES[0], tmp_path / "lone.tflite")
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMANDS = [
    ("predict", "model", "image.npy"),
    ("predict", "lone.tflite", "image.npy"),
    ("inspect", "model/cnn.int8.tflite"),
    ("inspect", "model/cnn.float16.mlpackage"),
    ("inspect", "lone.tflite"),
    ("selftest", "model"),
    ("verify", "model", "--data", "test.npz"),
    ("bench", "model", "--rounds", "1"),
    ("report", "model"),
    ("debug", "model/cnn.float.keras", "model/cnn.int8.tflite", "--data", "test.npz"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command(
    place: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(place)
    assert main(command) in (0, 1), capsys.readouterr().err
    assert tree(place) == before


@pytest.mark.parametrize("command", COMMANDS[:8], ids=" ".join)
def test_a_command_beside_a_commit_that_was_planted(
    place: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (place, place / "model"):
        (folder / "thesis").mkdir()
        (folder / "thesis" / "chapter").write_text("years")
        pending = folder / ".hemline-commit"
        (pending / "thesis").mkdir(parents=True)
        (pending / ".git").touch()
        (pending / "helper.py").write_text("import this")
        (pending / "cnn.int8.tflite").write_bytes(b"theirs")
    before = tree(place)
    assert main(command) in (0, 1), capsys.readouterr().err
    assert tree(place) == before


def test_loading(place: Path) -> None:
    before = tree(place)
    for path in ("model", "model/cnn.int8.tflite", "lone.tflite"):
        with hemline.load(path) as model:
            model.predict(np.zeros((28, 28), np.uint8))
    assert tree(place) == before


def test_records_go_where_they_are_asked_to_and_nowhere_else(place: Path) -> None:
    before = tree(place)
    assert main(["selftest", "model", "--json", "selftest.json"]) == 0
    main(["verify", "model", "--data", "test.npz", "--json", "p.json", "--junit", "j.xml"])
    main(["bench", "model", "--rounds", "1", "--json", "b.json"])
    after = tree(place)
    assert after.keys() - before.keys() == {"selftest.json", "p.json", "j.xml", "b.json"}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("option", ["--json", "--junit"])
@pytest.mark.parametrize("target", ["thesis", "model", "model/cnn.float16.mlpackage", "."])
def test_a_record_never_takes_a_folders_place(
    place: Path, option: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "thesis").mkdir()
    (place / "thesis" / "chapter").write_text("years")
    before = tree(place)
    commands = [("verify", "model", "--data", "test.npz")]
    if option == "--json":
        commands += [("selftest", "model"), ("bench", "model", "--rounds", "1"), COMMANDS[-1]]
    for command in commands:
        assert main([*command, option, target]) == 2
        err = capsys.readouterr().err
        assert err == f"hemline: cannot write {target}: it is a folder; name a file\n"
    assert tree(place) == before


@pytest.mark.parametrize("target", ["model/cnn.int8.tflite", "test.npz", "image.npy"])
def test_a_record_never_takes_a_models_or_an_arrays_place(
    place: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(place)
    for option in ("--json", "--junit"):
        assert main(["verify", "model", "--data", "test.npz", option, target]) == 2
        err = capsys.readouterr().err
        assert err == f"hemline: cannot write {target}: it is no record; name another file\n"
    assert tree(place) == before

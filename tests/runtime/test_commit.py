import errno
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from hemline import commit as commit_module
from hemline.commit import PENDING, commit, newest, writing
from hemline.errors import OutputError
from hemline.files import sha256_of, write_bytes
from hemline.journal import FILE_NAME as JOURNAL

PACKAGE = "p.mlpackage/Data/com.apple.CoreML/model.mlmodel"
OLD = {
    "a.tflite": '"hemline.facts/1" old',
    "b.json": '{"schema": "hemline.b/1", "is": "old"}',
    PACKAGE: '"hemline.facts/1" old',
    "stale.json": '{"schema": "hemline.stale/1"}',
    "other.txt": "o",
}
NEW = {
    "a.tflite": '"hemline.facts/1" new',
    "c.onnx": '"hemline.facts/1" new',
    PACKAGE: '"hemline.facts/1" new',
    "other.txt": "o",
    "b.json": OLD["b.json"],
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        write_bytes(folder / name, text.encode())


def make_old(folder: Path) -> None:
    write(folder, OLD)


def replace_by_new(folder: Path) -> None:
    with writing(folder) as stage:
        write(stage, {name: NEW[name] for name in ("a.tflite", "c.onnx", PACKAGE)})
        commit(stage, folder, remove=["stale.json", "never.json"])


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in files}
    return {name: text for name, text in found.items() if not name.startswith(".hemline-")}


def seen(folder: Path) -> dict[str, str]:
    """What a reader finds: each name in its newest place."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    pending = folder / PENDING
    if pending.is_dir():
        names |= {path.name for path in pending.iterdir() if not path.name.startswith(".")}
    found = {}
    for name in names:
        path = newest(folder / name)
        if path.is_dir():
            found |= {f"{name}/{key}": text for key, text in contents(path).items()}
        elif path.exists():
            found[name] = path.read_text()
    return found


def everything(folder: Path) -> dict[str, str]:
    """All files of a folder and what they hold, hidden ones too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_all_files_are_replaced_and_the_stale_one_goes(tmp_path: Path) -> None:
    make_old(tmp_path)
    replace_by_new(tmp_path)
    assert contents(tmp_path) == NEW


def test_the_old_files_stay_if_the_block_raises(tmp_path: Path) -> None:
    make_old(tmp_path)
    with pytest.raises(ZeroDivisionError), writing(tmp_path) as stage:  # noqa: PT012
        write_bytes(stage / "a.tflite", b"half")
        raise ZeroDivisionError
    assert contents(tmp_path) == OLD


KILLED_AT_EACH_CALL = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
import test_commit

def kill_at(n):
    calls = 0
    def counting(call):
        def counted(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return counted
    for name in ("mkdir", "open", "fsync", "rename", "replace", "unlink", "rmdir"):
        setattr(os, name, counting(getattr(os, name)))

n, status = 0, 1
while status:
    n += 1
    folder = Path(sys.argv[1], str(n))
    test_commit.make_old(folder)
    child = os.fork()
    if not child:
        kill_at(n)
        test_commit.replace_by_new(folder)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_process_killed_at_any_call_leaves_the_old_files_or_the_new_ones(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_AT_EACH_CALL, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outcomes, pending = [], 0
    for folder in sorted(tmp_path.iterdir(), key=lambda path: int(path.name)):
        pending += (folder / PENDING).is_dir()
        before = everything(folder)
        found = seen(folder)
        # Reading completes nothing.
        assert everything(folder) == before
        assert found in (OLD, NEW)
        outcomes.append(found == NEW)
        with writing(folder):
            assert contents(folder) == found
            assert not (folder / PENDING).exists()
        replace_by_new(folder)
        assert contents(folder) == NEW
        assert not list(folder.glob(".*"))
    assert outcomes == sorted(outcomes)
    assert outcomes.count(False) > 10
    assert pending > 10


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with writing(tmp_path):
        with (
            pytest.raises(OutputError, match=r"is being written by another process: wait until it"),
            writing(tmp_path),
        ):
            pass
        assert newest(tmp_path / "a.tflite") == tmp_path / "a.tflite"
    with writing(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_its_holder_deletes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, attempts = commit_module._lock, []

    def delete_before_the_first(file):
        attempts.append(file)
        if len(attempts) == 1:
            (tmp_path / ".hemline-lock").unlink()
        lock(file)

    monkeypatch.setattr(commit_module, "_lock", delete_before_the_first)
    with writing(tmp_path):
        assert len(attempts) == 2
        assert (tmp_path / ".hemline-lock").exists()


def test_a_full_disk_is_named_whichever_library_meets_it(tmp_path: Path) -> None:
    make_old(tmp_path)

    def fail() -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RuntimeError("the converter failed") from error

    for failure in (fail, lambda: int("Can't flush file (No space left on device)")):
        message = r"cannot write .*: No space left on device; bytes free: [\d,]+ in /.*; make room"
        with pytest.raises(OutputError, match=message), writing(tmp_path) as stage:  # noqa: PT012
            write_bytes(stage / "a.tflite", b"new")
            failure()
        assert contents(tmp_path) == OLD


def test_other_errors_of_the_block_pass(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(FileNotFoundError))
        stack.enter_context(writing(tmp_path))
        (tmp_path / "none").read_bytes()


def plant(folder: Path, moves: list[dict[str, str | None]], files: dict[str, str]) -> None:
    """Puts a commit into a folder that no process of Hemline's left there."""
    write(folder / PENDING, files)
    write_bytes(
        folder / PENDING / JOURNAL,
        json.dumps({"schema": "hemline.commit/1", "moves": moves}).encode(),
    )


def move(name: str, new: str | None, old: str | None = None) -> dict[str, str | None]:
    digests = [None if text is None else sha256_of(text.encode()) for text in (new, old)]
    return {"name": name, "sha256": digests[0], "replaces": digests[1]}


MINE = {"thesis/chapter.txt": "years", ".git/HEAD": "ref", "mine.tflite": "mine", "app.py": "app"}


@pytest.mark.parametrize(
    ("moves", "files"),
    [
        # No journal's, or not all of them.
        ([], {"helper.py": "import this"}),
        ([move("a.tflite", "new")], {"a.tflite": "new", "helper.py": "import this"}),
        # Names that no commit has.
        ([move("helper.py", "new")], {"helper.py": "new"}),
        ([move(".git", None, "")], {}),
        ([move("../outside.tflite", "new")], {}),
        ([move("thesis", None, "")], {}),
        # Other bytes than the journal's, or in the place of others than it says.
        ([move("a.tflite", "other")], {"a.tflite": "new"}),
        ([move("mine.tflite", "new", "theirs")], {"mine.tflite": "new"}),
        ([move("mine.tflite", "new")], {"mine.tflite": "new"}),
        # A folder that is no package.
        ([move("t.mlpackage", "")], {"t.mlpackage/helper.py": "import this"}),
    ],
)
def test_a_commit_that_none_of_hemlines_left(
    tmp_path: Path, moves: list[dict[str, str | None]], files: dict[str, str]
) -> None:
    folder = tmp_path / "folder"
    write(folder, MINE)
    plant(folder, moves, files)
    before = everything(tmp_path)
    for name in ("mine.tflite", "a.tflite", "thesis"):
        newest(folder / name)
    with (
        pytest.raises(OutputError, match=r"\.hemline-commit is no commit of Hemline's, .*move it"),
        writing(folder),
    ):
        pass
    assert everything(tmp_path) == before


def test_what_a_planted_commit_removes(tmp_path: Path) -> None:
    write(tmp_path, MINE)
    # Whoever planted it knows the content, so that it is a file which Hemline may have made.
    plant(tmp_path, [move("mine.tflite", None, "another"), move("gone.json", None, "any")], {})
    assert not newest(tmp_path / "mine.tflite").exists()
    with writing(tmp_path):
        pass
    assert everything(tmp_path) == MINE


def test_a_planted_commit_without_a_journal(tmp_path: Path) -> None:
    write(tmp_path, MINE | {f"{PENDING}/mine.tflite": "theirs"})
    assert newest(tmp_path / "mine.tflite") == tmp_path / "mine.tflite"
    with pytest.raises(OutputError, match="is no commit of Hemline's"), writing(tmp_path):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Windows makes links for administrators only")
def test_links_in_a_folder_from_anywhere_move_nothing(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    folder.mkdir()
    plant(tmp_path, [move("a.tflite", "theirs")], {"a.tflite": "theirs"})
    (tmp_path / PENDING).rename(outside)
    (folder / PENDING).symlink_to(outside)
    assert newest(folder / "a.tflite") == folder / "a.tflite"
    with pytest.raises(OutputError, match="is no commit of Hemline's: move it away"):
        replace_by_new(folder)
    (folder / PENDING).unlink()
    # Within a commit.
    plant(folder, [move("a.tflite", "theirs")], {})
    (folder / PENDING / "a.tflite").symlink_to(outside / "a.tflite")
    assert newest(folder / "a.tflite") == folder / "a.tflite"
    with pytest.raises(OutputError, match="is a link"):
        replace_by_new(folder)
    shutil.rmtree(folder / PENDING)
    (folder / ".hemline-lock").symlink_to(tmp_path / "made")
    with pytest.raises(OutputError, match="cannot write"):
        replace_by_new(folder)
    assert not (tmp_path / "made").exists()
    (folder / ".hemline-lock").unlink()
    os.mkfifo(folder / ".hemline-lock")
    with pytest.raises(OutputError, match="is no ordinary file: move it away"):
        replace_by_new(folder)


def test_what_is_not_hemlines_is_not_replaced(tmp_path: Path) -> None:
    for name in ("a.tflite", "c.onnx", "p.mlpackage", "p.mlpackage/notes.txt"):
        folder = tmp_path / name.replace("/", "-")
        make_old(folder)
        if name == "p.mlpackage":
            shutil.rmtree(folder / name)
            write(folder, {"p.mlpackage/thesis.txt": "years"})
        else:
            write(folder, {name: "mine"})
        before = everything(folder)
        taken = folder / name.partition("/")[0]
        message = f"{re.escape(str(taken))} is there already, and is nothing that Hemline made"
        with pytest.raises(OutputError, match=message):
            replace_by_new(folder)
        assert everything(folder) == before


def test_what_is_equal_may_be_replaced(tmp_path: Path) -> None:
    write(tmp_path, {"a.keras": "mine"})
    with writing(tmp_path) as stage:
        write(stage, {"a.keras": "mine"})
        commit(stage, tmp_path)
    assert everything(tmp_path) == {"a.keras": "mine"}


def test_what_is_not_hemlines_is_not_removed(tmp_path: Path) -> None:
    make_old(tmp_path)
    write(tmp_path, {"stale.json": '{"schema": "mine"}'})
    replace_by_new(tmp_path)
    assert contents(tmp_path) == NEW | {"stale.json": '{"schema": "mine"}'}


def test_a_folder_that_only_has_the_name_of_a_stage(tmp_path: Path) -> None:
    write(tmp_path, {".hemline-stage-thesis/chapter.txt": "years"})
    (tmp_path / ".hemline-stage-empty").mkdir()
    (tmp_path / ".hemline-stage-marked").mkdir()
    write(tmp_path / ".hemline-stage-marked", {JOURNAL: "", "a.tflite": "half"})
    with writing(tmp_path):
        pass
    assert everything(tmp_path) == {".hemline-stage-thesis/chapter.txt": "years"}
    assert [path.name for path in tmp_path.iterdir()] == [".hemline-stage-thesis"]


def test_a_commit_that_a_killed_process_left_is_read_where_it_lies(tmp_path: Path) -> None:
    make_old(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit_module, "_complete", lambda _: None)
        replace_by_new(tmp_path)
    assert (tmp_path / PENDING).is_dir()
    assert contents(tmp_path) == OLD
    before = everything(tmp_path)
    assert seen(tmp_path) == NEW
    assert everything(tmp_path) == before
    # What somebody put there in the meantime is kept, and said to be in the way.
    write(tmp_path, {"a.tflite": "mine"})
    with pytest.raises(OutputError, match=r"a\.tflite is not what it was to replace"):
        replace_by_new(tmp_path)
    assert (tmp_path / "a.tflite").read_text() == "mine"

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hemline import commit as commit_module
from hemline.commit import PENDING, commit, newest, writing
from hemline.errors import OutputError
from hemline.files import write_bytes

OLD = {"a": "old a", "b": "old b", "package/inside": "old inside", "stale": "stale", "other": "o"}
NEW = {"a": "new a", "c": "new c", "package/inside": "new inside", "other": "o", "b": "old b"}


def make_old(folder: Path) -> None:
    for name, text in OLD.items():
        write_bytes(folder / name, text.encode())


def replace_by_new(folder: Path) -> None:
    with writing(folder) as stage:
        for name in ("a", "c", "package/inside"):
            write_bytes(stage / name, NEW[name].encode())
        commit(stage, folder, remove=["stale", "never there"])


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in files}
    return {name: text for name, text in found.items() if not name.startswith(".hemline-")}


def seen(folder: Path) -> dict[str, str]:
    """What a reader that may not write finds: each name in its newest place."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    pending = folder / PENDING
    if pending.is_dir():
        names |= {path.name for path in pending.iterdir()}
    found = {}
    for name in names:
        path = newest(folder / name)
        if path.is_dir():
            found |= {f"{name}/{key}": text for key, text in contents(path).items()}
        elif text := path.read_text():
            found[name] = text
    return found


@contextmanager
def unwritable() -> Iterator[None]:
    """Takes away the right to write a folder, which root cannot lose by its mode."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(_: Path) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        patch.setattr(commit_module, "_locked", refuse)
        yield


def test_all_files_are_replaced_and_the_stale_one_goes(tmp_path: Path) -> None:
    make_old(tmp_path)
    replace_by_new(tmp_path)
    assert contents(tmp_path) == NEW


def test_the_old_files_stay_if_the_block_raises(tmp_path: Path) -> None:
    make_old(tmp_path)
    with pytest.raises(ZeroDivisionError), writing(tmp_path) as stage:  # noqa: PT012
        write_bytes(stage / "a", b"half")
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
        with unwritable():
            as_read_only = seen(folder)
        newest(folder / "a")
        found = contents(folder)
        assert found == as_read_only
        assert found in (OLD, NEW)
        assert not (folder / PENDING).exists()
        outcomes.append(found == NEW)
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
        assert newest(tmp_path / "a") == tmp_path / "a"
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
            write_bytes(stage / "a", b"new")
            failure()
        assert contents(tmp_path) == OLD


def test_other_errors_of_the_block_pass(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(FileNotFoundError))
        stack.enter_context(writing(tmp_path))
        (tmp_path / "none").read_bytes()


def test_links_in_a_folder_from_anywhere_move_nothing(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".hemline-commit").symlink_to(outside)
    assert newest(folder / "a") == folder / "a"
    assert (outside / "a").read_text() == "mine"
    (folder / ".hemline-commit").unlink()
    (folder / ".hemline-commit").mkdir()
    (folder / ".hemline-commit" / "a").write_text("new")
    (folder / ".hemline-lock").symlink_to(tmp_path / "made")
    assert newest(folder / "a") == folder / ".hemline-commit" / "a"
    assert not (tmp_path / "made").exists()
    with pytest.raises(OutputError, match="cannot write"), writing(folder):
        pass

"""What `hemline.child` does besides what the tests of its users show."""

import os
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hemline import child
from hemline.errors import ChecksumError, ModelFileError

SAY = "import json, os, signal, sys, time\ndef say(**a): print(json.dumps(a), flush=True)\n"


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., child.Answer]:
    """Has a child run a script."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def ask(script: str, limit_s: float = 60, **options: dict[str, str]) -> child.Answer:
        (folder / "asked_script.py").write_text(SAY + script)
        return child.ask("asked_script", [], limit_s, {}, **options)

    return ask


def test_an_error_comes_back_as_it_was(ask: Callable[..., child.Answer]) -> None:
    answer = ask("say(error={'kind': 'ChecksumError', 'message': 'changed'})")
    assert isinstance(answer.error, ChecksumError)
    assert (str(answer.error), answer.failure, answer.refused) == ("changed", "changed", True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"kind": "SystemExit", "message": "no"}, "SystemExit: no"),
        ({"kind": "__doc__", "message": "no"}, "__doc__: no"),
        ({"kind": 3, "message": "no"}, "3: no"),
        ({"kind": "ChecksumError"}, ": {'kind': 'ChecksumError'}"),
        ("no", ": 'no'"),
    ],
)
def test_an_error_of_another_kind_is_a_refusal(
    ask: Callable[..., child.Answer], error: object, message: str
) -> None:
    answer = ask(f"say(error={error!r})")
    assert type(answer.error) is ModelFileError
    assert str(answer.error) == message


def test_the_last_words_of_one_that_complains_without_end(
    ask: Callable[..., child.Answer],
) -> None:
    answer = ask("sys.stderr.write('x' * 10_000_000 + '\\nthe end\\nINFO: done\\n'); sys.exit(1)")
    assert answer.failure == (
        "its process ended with status 1 while starting; its last words: the end"
    )


def test_one_that_answers_without_end(ask: Callable[..., child.Answer]) -> None:
    start = time.monotonic()
    answer = ask("while True: print('x' * 1_000_000)")
    assert answer.failure == "its process said more than 67,108,864 bytes"
    assert time.monotonic() - start < 50


def test_lists_within_lists_are_no_answer(ask: Callable[..., child.Answer]) -> None:
    answer = ask("print('[' * 100_000)")
    assert answer.failure == f"its process said {'[' * 200!r}, not JSON"


def test_the_child_imports_from_where_its_parent_does(
    ask: Callable[..., child.Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import elsewhere; say(found=elsewhere.__name__)"
    assert "No module named 'elsewhere'" in str(ask(script).failure)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "elsewhere.py").touch()
    assert ask(script).results == {"found": "elsewhere"}
    # A path of another type than text is one all the same.
    monkeypatch.setattr(sys, "path", [tmp_path, *sys.path[1:]])
    assert ask(script).results == {"found": "elsewhere"}


@pytest.mark.parametrize("how", ["relative", "empty", "absolute", "in PYTHONPATH"])
def test_the_child_imports_nothing_from_the_working_folder(
    ask: Callable[..., child.Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("sitecustomize", "usercustomize", "numpy", "json", "hemline", "elsewhere"):
        (folder / f"{name}.py").write_text("open('ran', 'w')")
    entry = {"relative": ".", "empty": "", "absolute": str(folder)}.get(how)
    if entry is not None:
        monkeypatch.setattr(sys, "path", [entry, *sys.path])
    else:
        monkeypatch.setenv("PYTHONPATH", f"/x:{os.pathsep}{folder}")
    answer = ask("import hemline, numpy; say(found=numpy.__name__)")
    assert answer.results == {"found": "numpy"}, answer.failure
    assert "No module named 'elsewhere'" in str(ask("import elsewhere").failure)
    assert not Path("ran").exists()


def test_the_child_is_isolated(
    ask: Callable[..., child.Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONINSPECT", "1")
    answer = ask("say(flags=[sys.flags.isolated, sys.flags.no_user_site, sys.flags.inspect])")
    assert answer.results == {"flags": [1, 1, 0]}
    assert site.getusersitepackages() not in ask("say(path=sys.path)").results["path"]


def test_a_working_folder_that_was_deleted(
    ask: Callable[..., child.Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert ask("say(found=1)").results == {"found": 1}


def test_arguments_and_variables_for_the_child(
    ask: Callable[..., child.Answer],
) -> None:
    ask("")
    (Path(sys.path[0]) / "asked_script.py").write_text(
        SAY + "say(given=sys.argv[1:], variable=os.environ['A'])"
    )
    given = ["--option=1", "--", "-c"]
    answer = child.ask("asked_script", given, 60, {}, environment={"A": "b"})
    assert answer.results == {"given": given, "variable": "b"}


PARENT = """
import signal, sys
# A shell has its background jobs pass over interrupts, and nohup over hangups.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path.insert(0, sys.argv[1])
from hemline import child
child.ask("asked_child", [sys.argv[2]], 600, {})
"""
ELSEWHERE = """
from hemline import child
def command_of(module, arguments, command_of=child.command_of):
    command = command_of(module, arguments)
    start = command.index("-c") + 1
    command[start] = "import sys; sys.platform = 'darwin'; " + command[start]
    return command
child.command_of = command_of
"""
CHILD = """
import os, sys, time
from hemline import child
def work(say):
    open(sys.argv[1] + str(os.getpid()), "w").close()
    time.sleep(600)
child.answer(work)
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # Whoever adopted it may not have asked for its status yet.
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        # Gone between the two; macOS has no such files.
        return sys.platform != "linux"


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals")
@pytest.mark.parametrize("by_thread", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_child_does_not_outlive_its_parent(
    tmp_path: Path, number: signal.Signals, by_thread: bool
) -> None:
    (tmp_path / "asked_child.py").write_text(CHILD)
    pids = tmp_path / "pids"
    pids.mkdir()
    with subprocess.Popen(
        # As on a system that cannot be asked to kill.
        [sys.executable, "-c", ELSEWHERE * by_thread + PARENT, str(tmp_path), f"{pids}/"],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    ) as parent:
        try:
            assert wait_for(lambda: list(pids.iterdir()) != [])
            (pid,) = (int(path.name) for path in pids.iterdir())
            assert is_alive(pid)
            parent.send_signal(number)
            parent.wait(60)
            assert wait_for(lambda: not is_alive(pid))
        finally:
            parent.kill()

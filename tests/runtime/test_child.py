"""What `hemline.child` does besides what the tests of its users show."""

import sys
from pathlib import Path

import pytest

from hemline import child
from hemline.errors import ChecksumError, ModelFileError

SAY = "import json, sys\ndef say(**a): print(json.dumps(a), flush=True)\n"


def ask(script: str) -> child.Answer:
    return child.ask([sys.executable, "-c", SAY + script], 60, {})


def test_an_error_comes_back_as_it_was() -> None:
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
def test_an_error_of_another_kind_is_a_refusal(error: object, message: str) -> None:
    answer = ask(f"say(error={error!r})")
    assert type(answer.error) is ModelFileError
    assert str(answer.error) == message


def test_the_last_words_of_one_that_complains_without_end() -> None:
    answer = ask("sys.stderr.write('x' * 10_000_000 + '\\nthe end\\nINFO: done\\n'); sys.exit(1)")
    assert answer.failure == (
        "its process ended with status 1 while starting; its last words: the end"
    )


def test_lists_within_lists_are_no_answer() -> None:
    answer = ask("print('[' * 100_000)")
    assert answer.failure == f"its process said {'[' * 200!r}, not JSON"


def test_the_child_imports_from_where_its_parent_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text("print('{\"found\": 1}')")
    command = child.command_of("elsewhere")
    monkeypatch.chdir(tmp_path)
    # Not from the working folder.
    assert "No module named elsewhere" in str(child.ask(command, 60, {}).failure)
    monkeypatch.syspath_prepend(tmp_path)
    assert child.ask(command, 60, {}).results == {"found": 1}


def test_variables_for_the_child() -> None:
    command = [sys.executable, "-c", "import os; print(os.environ['A'])"]
    assert child.ask(command, 60, {}, environment={"A": '{"a": 1}'}).results == {"a": 1}

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOOTPRINT = Path(__file__).parent / "footprint.py"
RELEASED = Path(__file__).parents[2] / "artifacts" / "fashion_mnist"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no wait4")


@pytest.fixture
def footprint(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("footprint", FOOTPRINT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where its dataclasses look for their module.
    monkeypatch.setitem(sys.modules, "footprint", module)
    spec.loader.exec_module(module)
    return module


def test_all_ways_give_the_same_answer(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [sys.executable, str(FOOTPRINT), str(RELEASED / "cnn"), "--out", str(page)]
    done = subprocess.run(
        [*command, "--repeats", "1", "--keras-repeats", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    # Whether the limits are kept is not for a busy machine to say.
    assert done.returncode in (0, 1), done.stderr
    assert page.read_text() == done.stdout
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "cnn." in line]
    assert [row[0] for row in rows] == [
        "cnn.int8.tflite",
        "cnn.float32.tflite",
        "cnn.int8.onnx",
        "cnn.float32.onnx",
    ]
    assert [row[-1] in ("PASS", "FAIL") for row in rows] == [True, True, False, False]


@pytest.mark.parametrize(
    ("milliseconds", "mebibytes", "verdict"),
    [(114, 45, "PASS"), (116, 45, "FAIL"), (114, 47, "FAIL")],
)
def test_the_limits_against_the_bare_script(
    footprint: Any, milliseconds: float, mebibytes: float, verdict: str
) -> None:
    assert judge(footprint, (milliseconds, mebibytes), (100, 40), (3000, 600)) == verdict


@pytest.mark.parametrize(
    ("milliseconds", "mebibytes", "verdict"),
    [(1500, 320, "PASS"), (1499, 320, "FAIL"), (1500, 319, "FAIL")],
)
def test_the_limits_against_keras(
    footprint: Any, milliseconds: float, mebibytes: float, verdict: str
) -> None:
    assert judge(footprint, (100, 40), (100, 40), (milliseconds, mebibytes)) == verdict


def judge(footprint: Any, *figures: tuple[float, float]) -> str:
    found = {
        name: [
            footprint.Measurement(milliseconds=ms, mebibytes=mib, best=1, probability=0.5)
            for _ in range(3)
        ]
        for name, (ms, mib) in zip(("hemline", "bare", "keras"), figures, strict=True)
    }
    return str(footprint.make_row(Path("m.tflite"), found | {"engine": found["bare"]})[-1])


def test_other_answers_are_an_error(footprint: Any) -> None:
    found = {
        name: [footprint.Measurement(milliseconds=1, mebibytes=1, best=best, probability=0.5)]
        for name, best in (("hemline", 1), ("bare", 2))
    }
    with pytest.raises(SystemExit) as caught:
        footprint.require_same_answers("m.tflite", found, 0.1)
    assert caught.value.code == 2

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

SOAK = Path(__file__).parent / "soak.py"
RELEASED = Path(__file__).parents[2] / "artifacts" / "fashion_mnist"


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("soak", SOAK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where its dataclasses look for their module.
    monkeypatch.setitem(sys.modules, "soak", module)
    spec.loader.exec_module(module)
    return module


def test_the_released_models_pass() -> None:
    folders = [str(RELEASED / name) for name in ("cnn", "gru")]
    done = subprocess.run(
        [sys.executable, str(SOAK), *folders, "--calls", "2000"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [row[1] for row in rows] == ["20", "200", "500", "1,000", "1,500", "2,000"] * 4
    assert {row[-1] for row in rows} == {"PASS |"}


def test_a_result_that_changes_and_a_growth_are_seen(
    soak: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, memory = [], iter([1000, 1009, 1010, 1011, 1020, 1000])

    def predict(image: Any) -> Any:
        calls.append(image)
        wrong = len(calls) > 700
        return SimpleNamespace(probabilities=np.float32([image.sum() + wrong]))

    monkeypatch.setattr(soak, "resident_bytes", lambda: next(memory))
    readings = soak.soak(SimpleNamespace(predict=predict), 100)
    assert [reading.calls for reading in readings] == [1, 10, 25, 50, 75, 100]
    assert [f"{reading.growth:.3f}" for reading in readings] == [
        "0.000",
        "0.009",
        "0.010",
        "0.011",
        "0.020",
        "0.000",
    ]
    assert [reading.same for reading in readings] == [False] * 6


def test_results_that_stay_are_unchanged(soak: Any) -> None:
    model = SimpleNamespace(predict=lambda image: SimpleNamespace(probabilities=image))
    assert [reading.same for reading in soak.soak(model, 100)] == [True] * 6

import sys
from pathlib import Path

import pytest

from hemline.benchmark import first_answer as module
from hemline.benchmark.first_answer import answer_once, first_answer
from hemline.errors import ModelFileError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems count otherwise")


def test_a_process_of_its_own_answers(exported: Path) -> None:
    found = first_answer(exported / "separable.int8.tflite", 2, 3)
    assert found.load_ns > 0
    assert found.first_call_ns > 0
    assert found.peak_memory_bytes is not None
    # More than Python alone, and less than anything with TensorFlow in it.
    assert 10e6 < found.peak_memory_bytes < 150e6


@LINUX
def test_its_memory_is_its_own(exported: Path) -> None:
    path = exported / "separable.int8.tflite"
    held = b"x" * 200_000_000
    found = first_answer(path, 1, 1)
    assert found.peak_memory_bytes is not None
    assert found.peak_memory_bytes < len(held)


def test_this_process_answers(exported: Path) -> None:
    found = answer_once(exported / "separable.float32.onnx", 1, 1)
    assert found.load_ns > found.first_call_ns > 0


def test_a_file_that_does_not_load(tmp_path: Path) -> None:
    path = tmp_path / "none.tflite"
    with pytest.raises(ModelFileError, match=r"none\.tflite: there is no model file"):
        first_answer(path, 1, 1)


def test_a_process_that_hangs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIME_LIMIT_S", 0.01)
    with pytest.raises(ModelFileError, match=r"did not end within 0\.01 s"):
        first_answer(exported / "separable.int8.tflite", 1, 1)

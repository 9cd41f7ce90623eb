"""A model that is neither reference model takes the whole way, from the command line."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from hemline.cli import main


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "separable"
    shutil.copytree(exported, copy)
    return copy


def test_it_is_verified_and_benchmarked(
    folder: Path, garments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = str(garments / "test.npz")
    main(["verify", str(folder), "--data", test, "--json", str(folder / "parity.json")])
    assert main(["bench", str(folder), "--rounds", "2", "--json", str(folder / "bench.json")]) == 0
    verdicts = {
        artifact["file"]: artifact["verdict"]
        for artifact in json.loads((folder / "parity.json").read_text())["artifacts"]
    }
    # What int8 costs this small model is its own affair; that float32 costs nothing is ours.
    assert verdicts["separable.float32.tflite"] == "PASS"
    assert verdicts["separable.float32.onnx"] == "PASS"
    assert verdicts["separable.int8.tflite"] in ("PASS", "FAIL", "INCONCLUSIVE")
    timed = json.loads((folder / "bench.json").read_text())["files"]
    assert {len(file["predict"]["samples_ns"]) for file in timed} == {100}
    capsys.readouterr()
    assert main(["report", str(folder)]) == int("FAIL" in verdicts.values())
    table = capsys.readouterr().out
    assert all(file in table for file in verdicts)
    referred = (
        "(reference): the verdict is from a reference evaluation, not Apple hardware" in table
    )
    assert referred == (sys.platform != "darwin")


def test_depthwise_relu6_and_batch_normalization_stay_int8(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(exported / "separable.int8.tflite"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operators"] == {
        "CONV_2D": 2,
        "DEPTHWISE_CONV_2D": 1,
        "MEAN": 1,
        "FULLY_CONNECTED": 1,
        "SOFTMAX": 1,
    }
    assert found["inputs"][0]["dtype"] == found["outputs"][0]["dtype"] == "int8"

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemline.cli import main
from hemline.errors import InputError
from hemline_export.backend import keras
from hemline_export.debug import DebugReport, debug

KERAS, INT8 = "separable.float.keras", "separable.int8.tflite"


@pytest.fixture(scope="module")
def report(exported: Path, garments: Path) -> DebugReport:
    data = str(garments / "train.npz")
    return debug(exported / KERAS, exported / INT8, data, count=20)


def test_every_tensor_is_compared_worst_first(report: DebugReport) -> None:
    assert (report.file, report.count) == (INT8, 20)
    assert report.compared == report.tensors == len(report.errors) == 6
    noise = [error.sqnr_db for error in report.errors if error.sqnr_db is not None]
    assert noise == sorted(noise)
    assert len(noise) == 6
    assert {error.operator for error in report.errors} == {
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "MEAN",
        "FULLY_CONNECTED",
        "SOFTMAX",
    }
    # A fused tensor has the name of the last layer in it.
    assert {(error.layer or "")[:5] for error in report.errors} == {"", "dense", "globa", "re_lu"}


def test_ranges_stand_beside_grids(report: DebugReport) -> None:
    softmax = next(error for error in report.errors if error.operator == "SOFTMAX")
    assert softmax.grid is not None
    assert (softmax.grid.scale, softmax.grid.zero_point) == (1 / 256, -128)
    assert (softmax.grid_minimum, softmax.grid_maximum) == (0.0, 255 / 256)
    assert 0 <= softmax.minimum < softmax.maximum <= 1
    for error in report.errors:
        # A grid alone costs less than it and all the error before it.
        assert error.grid_sqnr_db is not None
        assert error.sqnr_db is not None
        assert error.grid_sqnr_db > error.sqnr_db - 1
        assert 0 <= error.clipped < 0.05


def test_a_spoilt_layer_is_found(
    exported: Path, garments: Path, tmp_path: Path, report: DebugReport
) -> None:
    """The float model gets other weights in its last convolution than the file has."""
    model = keras.saving.load_model(exported / KERAS, compile=False)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    last = convolutions[-1]
    last.kernel.assign(np.array(last.kernel)[..., ::-1])
    model.save(tmp_path / KERAS)
    restamped = stamp(exported / INT8, tmp_path / INT8, tmp_path / KERAS)
    found = debug(tmp_path / KERAS, restamped, str(garments / "train.npz"), count=20)
    before = {error.tensor: error.sqnr_db for error in report.errors}
    spoilt = {
        error.tensor: error
        for error in found.errors
        if (error.sqnr_db or 99) < 0.5 * (before[error.tensor] or 99)
    }
    untouched = [error.operator for error in found.errors if error.tensor not in spoilt]
    assert sorted(untouched) == ["CONV_2D", "DEPTHWISE_CONV_2D"]


def stamp(file: Path, target: Path, parent: Path) -> Path:
    """Copies a file and makes it say that another float model is its parent."""
    from hemline.artifact_facts import EMBEDDED_SCHEMA, EmbeddedFacts
    from hemline.documents import decode, encode
    from hemline.engines import engine_for
    from hemline.files import sha256
    from hemline_export.tflite import embed_facts

    shutil.copyfile(file, target)
    content = engine_for(target).read_facts(target)
    assert content is not None
    facts = decode(EMBEDDED_SCHEMA, EmbeddedFacts, content, "facts")
    changed = replace(facts, artifact=replace(facts.artifact, parent_sha256=sha256(parent)))
    target.write_bytes(embed_facts(target.read_bytes(), encode(EMBEDDED_SCHEMA, changed)))
    return target


def test_onnx_tensors(exported: Path, garments: Path) -> None:
    data = str(garments / "train.npz")
    found = debug(exported / KERAS, exported / "separable.float32.onnx", data, count=5)
    assert found.compared > 5
    # The same file twice: nothing to find.
    assert all(error.sqnr_db is None for error in found.errors)


def test_the_command(
    exported: Path, garments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[Any] = ["debug", exported / KERAS, exported / INT8, "--samples", 5, "--top", 2]
    words += ["--data", garments / "train.npz", "--json", tmp_path / "debug.json"]
    assert main([str(word) for word in words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"{INT8} on 5 training samples: 6 of 6 tensors have a counterpart in the float model"
    )
    assert re.sub(r"[ |]+", " ", lines[1]).strip() == (
        "tensor operator SQNR dB grid dB range grid clipped layer"
    )
    assert len(lines) == 5
    assert len(json.loads((tmp_path / "debug.json").read_bytes())["errors"]) == 6


def test_what_cannot_be_compared(exported: Path, tmp_path: Path) -> None:
    package = shutil.copytree(exported / "separable.float16.mlpackage", tmp_path / "a.mlpackage")
    with pytest.raises(InputError, match=r"\.tflite and \.onnx files only"):
        debug(exported / KERAS, package / "Manifest.json")
    model = keras.saving.load_model(exported / KERAS, compile=False)
    model.save(tmp_path / "other.keras")
    with pytest.raises(InputError, match=r"was made from the float model .* give the file"):
        debug(tmp_path / "other.keras", exported / INT8)

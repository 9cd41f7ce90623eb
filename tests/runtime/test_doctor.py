import json
import sys

import pytest

from hemline import doctor
from hemline.cli import main
from hemline.doctor import SCHEMA, Diagnosis, Trial, diagnose
from hemline.documents import decode
from hemline.engines import BUILT_IN

Captured = pytest.CaptureFixture[str]


def test_every_engine_and_every_bundled_model_is_tried() -> None:
    found = diagnose()
    engines = {engine.name: engine for engine in found.engines}
    assert set(engines) == {name for names in BUILT_IN.values() for name in names}
    for name in ("litert", "litert-builtin", "onnxruntime"):
        assert engines[name].version
        assert engines[name].reason is None
    # The tests of the runtime hide Core ML on a Mac.
    assert engines["coreml"].version is None
    assert "macOS only" in str(engines["coreml"].reason)
    assert found.trials == (
        Trial(model="cnn", engine="litert", reason=None),
        Trial(model="gru", engine="litert", reason=None),
    )
    assert found.is_well


def test_a_machine_without_engines(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    for name in ("litert", "onnxruntime", "micro", "coreml_reference"):
        monkeypatch.delitem(sys.modules, f"hemline.engines.{name}", raising=False)
    for package in ("ai_edge_litert.interpreter", "onnxruntime", "tflite_micro"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("hemline.engines.coreml.find_spec", lambda _: None)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "pip install 'hemline[litert]'" in out
    assert "pip install 'hemline[onnx]'" in out
    assert "pip install 'hemline[coreml]'" in out
    assert "the model cnn, which comes with Hemline: nothing in " in out
    assert not diagnose().is_well


def test_as_json(capsys: Captured) -> None:
    assert main(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["schema"] == SCHEMA
    assert decode(SCHEMA, Diagnosis, out.encode(), "doctor") == diagnose()


def test_no_model_comes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "bundled_models", dict)
    assert diagnose().trials == ()
    assert diagnose().is_well

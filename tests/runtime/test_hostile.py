"""A folder and files whose every name and label is meant for the reader's terminal."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hemline.artifact_facts import EmbeddedFacts
from hemline.cli import main, show_progress
from hemline.documents import read_document, to_json
from hemline.manifest import read_manifest, write_manifest
from hemline.ownership import is_ours, is_recorded
from hemline.parity.verify import FILE_NAME, SCHEMA, ParityReport
from hemline.report import format_table

# Clears the screen, colours, starts the line anew, makes a row, turns the text round, rings.
HOSTILE = "\x1b[2J\x9b1m\r\n| PASS |\u202e\u2066<b>&\"'\a"
# As it is shown.
SHOWN = r"\x1b[2J\x9b1m\r\n| PASS |\u202e\u2066<b>&" + "\"'" + r"\x07"


@pytest.fixture
def hostile(verified: Path, tmp_path: Path, restate: Any) -> Path:
    """The exported folder, verified, with hostile facts in its manifest and its files."""
    folder = Path(shutil.copytree(verified, tmp_path / "hostile"))

    def change(facts: EmbeddedFacts) -> EmbeddedFacts:
        labels = tuple(f"{i}{HOSTILE}" for i in range(len(facts.model.labels)))
        return replace(
            facts,
            model=replace(facts.model, model=f"m{HOSTILE}", labels=labels),
            artifact=replace(
                facts.artifact,
                settings={f"k{HOSTILE}": f"v{HOSTILE}"},
                toolchain={f"t{HOSTILE}": f"1{HOSTILE}"},
            ),
        )

    restate(folder, change)
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, omitted={f"r{HOSTILE}": f"no{HOSTILE}"}))
    return folder


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command; returns what it prints, which has no character that a terminal obeys."""

    def run(*words: str | Path) -> str:
        main([str(word) for word in words])
        printed = "".join(capsys.readouterr())
        assert [c for c in printed.replace("\n", "") if not c.isprintable()] == []
        return printed

    return run


def test_what_is_shown_of_a_hostile_folder(
    hostile: Path, few: Path, tmp_path: Path, shown: Callable[..., str]
) -> None:
    file, image = hostile / "separable.int8.tflite", tmp_path / f"i{HOSTILE}.npy"
    np.save(image, np.zeros((28, 28), np.uint8))
    predicted = shown("predict", "-v", file, image)
    assert f"i{SHOWN}.npy: " in predicted
    assert re.search(r"\d" + re.escape(SHOWN) + r" \d\.\d{3}", predicted)
    assert len(predicted.splitlines()) == 3
    inspected = shown("inspect", file)
    for text in (
        f"model      m{SHOWN}",
        f"k{SHOWN} v{SHOWN}",
        f"t{SHOWN} 1{SHOWN}",
        f"0{SHOWN}, 1",
    ):
        assert text in inspected
    written = [tmp_path / name for name in ("parity.json", "junit.xml")]
    verified = shown("verify", hostile, "--data", few, "--json", written[0], "--junit", written[1])
    assert verified.startswith(f"m{SHOWN} on 200 samples of few.npz\n")
    suite = ElementTree.fromstring(written[1].read_bytes())
    assert suite.get("name") == f"hemline verify m{SHOWN}"
    assert f"m{SHOWN} on 16 golden" in shown("selftest", hostile)
    shutil.copy(written[0], hostile)
    shown("bench", hostile, "--rounds", "1", "--json", hostile / "bench.json")
    assert f"m{SHOWN}.r{SHOWN}: not made: no{SHOWN}\n" in shown("report", hostile)
    for path in (*written[:1], hostile / "bench.json", hostile / "manifest.json"):
        assert all(c.isprintable() or c == "\n" for c in path.read_text(encoding="utf-8"))
    # Nothing is lost by it.
    assert read_document(written[0], SCHEMA, ParityReport).model == f"m{HOSTILE}"


def test_json_on_a_terminal(hostile: Path, tmp_path: Path, shown: Callable[..., str]) -> None:
    file, image = hostile / "separable.int8.tflite", tmp_path / "image.npy"
    np.save(image, np.zeros((28, 28), np.uint8))
    (predicted,) = json.loads(shown("predict", file, image, "--json"))
    assert predicted["top"][0][0].endswith(HOSTILE)
    assert json.loads(shown("inspect", file, "--json"))["facts"]["model"]["model"] == f"m{HOSTILE}"


@pytest.mark.parametrize("name", [f"{HOSTILE}.tflite".replace("/", ""), "\udcff.onnx"])
def test_file_names_in_errors(tmp_path: Path, shown: Callable[..., str], name: str) -> None:
    path = tmp_path / name
    path.write_text("no model")
    for command in (["inspect"], ["bench"], ["bench", "--trust"], ["selftest"], ["report"]):
        assert re.search(r"^hemline: .*(\\x1b\[2J|\\udcff)", shown(*command, path))


def test_arguments_that_are_quoted_in_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["inspect", "a", f"-{HOSTILE}"],
        ["verify", ".", "--samples", HOSTILE],
        [HOSTILE],
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert all(c.isprintable() or c == "\n" for c in capsys.readouterr().err)


def test_tensor_names(tmp_path: Path, shown: Callable[..., str]) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", [f"x{HOSTILE}"], [f"y{HOSTILE}"])],
        HOSTILE,
        [value(f"x{HOSTILE}", TensorProto.FLOAT, [1, 3])],
        [value(f"y{HOSTILE}", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 18)]
    path = tmp_path / "names.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    assert f"input      x{SHOWN}: float32 [1, 3]\n" in shown("inspect", path)
    shown("bench", path, "--rounds", "1")


def test_reasons(build: Path, shown: Callable[..., str]) -> None:
    folder = build / "toy"
    report = read_document(folder / FILE_NAME, SCHEMA, ParityReport)
    path = folder / FILE_NAME
    document = to_json(report)
    document["artifacts"][0]["verdict"] = f"FAIL{HOSTILE}"
    path.write_text(json.dumps({"schema": SCHEMA} | document))
    # An unknown verdict is an error, which quotes it.
    assert r"unknown verdict 'FAIL\x1b[2J\x9b1m\r\n| PASS |\u202e" in shown("report", folder)


def test_cells_cannot_pass_for_borders() -> None:
    assert format_table(("a", "b"), [("x | PASS |", "\x1b[1m")]) == (
        "| a            |       b |\n| ------------ | ------: |\n| x \\| PASS \\| | \\x1b[1m |"
    )


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    show_progress(f"warm up {HOSTILE}")
    # Its own: to the start of the line, and clear that.
    assert capsys.readouterr().err == f"\r\x1b[Kwarm up {SHOWN}"


@pytest.mark.parametrize("value", [[[]], {}, {"a": []}])
def test_records_that_no_set_holds(tmp_path: Path, value: Any) -> None:
    (tmp_path / "toy.keras").write_bytes(b"floats")
    manifest = {"float_model": {"file": value, "sha256": value}, "artifacts": [value, {"file": []}]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "training.json").write_text(json.dumps({"keras_file": value}))
    assert not is_recorded(tmp_path / "toy.keras")
    assert not is_ours(tmp_path / "toy.keras")

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import hemline
from hemline.bundled import bundled_model
from hemline.cli import main, paint
from hemline.documents import read_document
from hemline.golden import SelftestReport
from hemline.parity.verify import ParityReport
from hemline.pictures import read_picture
from hemline.report import format_speed

INT8 = "separable.int8.tflite"

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def ready(verified: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder that holds the float predictions on `few`."""
    return Path(shutil.copytree(verified, tmp_path / "ready"))


@pytest.fixture
def picture(few: Path, tmp_path: Path) -> Path:
    with np.load(few) as data:
        Image.fromarray(data["images"][0, :, :, 0]).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def run(capsys: Captured, *words: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def fails(capsys: Captured, message: str, *words: str | Path) -> None:
    """Checks that a command ends in one line on stderr, nothing on stdout, and status 2."""
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert re.fullmatch(rf"hemline: [^\n]*{message}[^\n]*\n", err), err


def set_margins(restate: Any, folder: Path, margin_pt: float) -> None:
    restate(folder, lambda f: replace(f, artifact=replace(f.artifact, margin_pt=margin_pt)))


def test_verify(restate: Any, ready: Path, few: Path, tmp_path: Path, capsys: Captured) -> None:
    set_margins(restate, ready, 50.0)
    words = ["verify", ready, "--data", few, "--json", tmp_path / "new" / "parity.json"]
    status, out, err = run(capsys, *words)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "separable on 200 samples of few.npz"
    header = "file accuracy delta pt 95 % interval margin errors agrees SQNR dB speed verdict"
    assert " ".join(lines[1].replace("|", " ").split()) == header
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[3:8]]
    assert [(row[0], row[4], row[9]) for row in cells] == [
        ("separable.float.keras", "", "PASS"),
        ("separable.float32.tflite", "−50", "PASS"),
        (INT8, "−50", "PASS"),
        ("separable.float32.onnx", "−50", "PASS"),
        ("separable.float16.mlpackage", "−50", "PASS (reference)"),
    ]
    report = read_document(tmp_path / "new" / "parity.json", "hemline.parity/2", ParityReport)
    assert cells[0][1] == f"{report.float_model.accuracy:.4f}"
    int8 = report.artifacts[1]
    assert int8.paired is not None
    assert int8.error_growth is not None
    assert int8.error_growth.growth is not None
    assert cells[2][1:8] == [
        f"{int8.accuracy:.4f}",
        f"{int8.paired.delta_pt:+.2f}",
        f"{int8.paired.low_pt:+.3f} … {int8.paired.high_pt:+.3f}",
        "−50",
        f"{100 * int8.error_growth.growth:+.1f} %",
        f"{int8.agreement:.4f}",
        f"{int8.sqnr_db:.1f}",
    ]
    (speed,) = report.speeds
    assert (speed.file, speed.reference) == (INT8, "separable.float32.tflite")
    assert [row[8] for row in cells] == ["", "", format_speed(speed), "", ""]
    assert len(lines) == 10
    assert re.fullmatch(r"\d+\.\d s, at most \d+ MiB of memory", lines[9])
    assert lines[8].startswith("separable.float16.mlpackage: PASS: with 95 % confidence")
    assert lines[8].endswith("(a reference evaluation, not Apple hardware)")


@pytest.mark.parametrize("record", ["parity.json", "../parity.json"])
def test_a_record_in_the_models_folder_keeps_the_float_predictions(
    ready: Path, few: Path, record: str, capsys: Captured
) -> None:
    predictions = ready / "float_predictions.npz"
    expected = predictions.read_bytes()
    predictions.unlink()
    status, _, err = run(capsys, "verify", ready, "--data", few, "--json", ready / record)
    assert (status in (0, 1), err) == (True, "")
    # What a device without Keras needs beside the record, and nobody beside another file.
    assert predictions.exists() == (record == "parity.json")
    if predictions.exists():
        assert predictions.stat().st_size == pytest.approx(len(expected), rel=0.01)


def test_verify_strictly(
    restate: Any, ready: Path, few: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_margins(restate, ready, 50.0)
    assert run(capsys, "verify", ready, "--data", few, "--strict")[0] == 0
    # Without coremltools nothing runs the Core ML package.
    monkeypatch.setitem(sys.modules, "coremltools", None)
    assert run(capsys, "verify", ready, "--data", few)[0] == 0
    assert run(capsys, "verify", ready, "--data", few, "--strict")[0] == 1


def test_a_margin_is_overridden_and_recorded(
    ready: Path, few: Path, tmp_path: Path, capsys: Captured
) -> None:
    words = ["verify", ready, "--data", few, "--margin", "40", "--json", tmp_path / "parity.json"]
    assert run(capsys, *words)[0] == 0
    report = read_document(tmp_path / "parity.json", "hemline.parity/2", ParityReport)
    assert report.margin_override_pt == 40
    assert [a.paired.margin_pt for a in report.artifacts if a.paired] == [40] * 4


@pytest.mark.parametrize("margin", ["0", "-1", "100", "nan", "much"])
def test_an_impossible_margin(ready: Path, margin: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["verify", str(ready), f"--margin={margin}"])
    assert f"expected points between 0 and 100, got '{margin}'" in capsys.readouterr().err


def test_a_collapsed_class_is_named_and_goes_to_ci(
    ready: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    outputs = hemline.Model.outputs

    def never_a_bag(model: hemline.Model, images: NDArray[Any]) -> NDArray[np.float32]:
        found = outputs(model, images)
        if model.path.name == INT8:
            found[:, 3] += found[:, 8]
            found[:, 8] = 0
        return found

    monkeypatch.setattr(hemline.Model, "outputs", never_a_bag)
    words = ["verify", ready, "--data", few, "--margin", "40", "--junit", tmp_path / "ci.xml"]
    status, out, _ = run(capsys, *words)
    assert status == 0
    with np.load(few) as data, np.load(ready / "float_predictions.npz") as predictions:
        found = predictions["outputs"][data["labels"] == 8].argmax(axis=1)
    recall = 100 * (found == 8).mean()
    assert f"\n{INT8}: class Bag loses recall: {-recall:.1f} points, p " in out
    assert b'tests="5" failures="0" skipped="0"' in (tmp_path / "ci.xml").read_bytes()


def test_verdicts_are_coloured_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    table = "| PASS.tflite | FAIL |\n| b | INCONCLUSIVE |\n| c | PASS (reference) |"
    assert paint(table) == table
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert paint(table).splitlines() == [
        "| PASS.tflite | \x1b[1;31mFAIL\x1b[0m |",
        "| b | \x1b[33mINCONCLUSIVE\x1b[0m |",
        "| c | \x1b[32mPASS\x1b[0m (reference) |",
    ]
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint(table) == table


def test_verify_inconclusive(restate: Any, ready: Path, few: Path, capsys: Captured) -> None:
    set_margins(restate, ready, 0.001)
    status, out, _ = run(capsys, "verify", ready, "--data", few)
    assert "separable.float32.onnx: INCONCLUSIVE: delta may lie on either side of −0.001" in out
    assert status == int("FAIL:" in out)
    assert run(capsys, "verify", ready, "--data", few, "--strict")[0] == 1


def test_verify_fails(restate: Any, ready: Path, few: Path, capsys: Captured) -> None:
    restate(ready, lambda f: replace(f, model=replace(f.model, floor_accuracy=0.999)))
    status, out, err = run(capsys, "verify", ready, "--data", few)
    assert (status, err) == (1, "")
    assert "\nseparable.float.keras: accuracy is below the floor of 0.999\n" in out


def test_verify_of_bad_input(ready: Path, few: Path, tmp_path: Path, capsys: Captured) -> None:
    fails(capsys, r"has no manifest\.json", "verify", tmp_path, "--data", few)
    fails(capsys, r"cannot read .*none\.npz: No such file", "verify", ready, "--data", "none.npz")
    fails(capsys, "no samples found for 'nothing'", "verify", ready, "--data", "nothing")
    fails(capsys, "no samples found for 'this model'", "verify", ready)
    (tmp_path / "file").write_text("")
    unwritable = tmp_path / "file" / "parity.json"
    fails(capsys, "cannot write in", "verify", ready, "--data", few, "--json", unwritable)
    content = bytearray((ready / INT8).read_bytes())
    content[-1] ^= 1
    (ready / INT8).write_bytes(content)
    fails(capsys, rf"{INT8} has SHA-256", "verify", ready, "--data", few)


def test_selftest(exported: Path, tmp_path: Path, capsys: Captured) -> None:
    status, out, err = run(capsys, "selftest", exported, "--json", tmp_path / "selftest.json")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "separable on 16 golden inputs of seed 0"
    header = "file engine max Δ tolerance verdict"
    assert " ".join(lines[1].replace("|", " ").split()) == header
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[3:7]]
    assert [(row[0], row[3], row[4]) for row in cells] == [
        ("separable.float32.tflite", "0.0001", "PASS"),
        (INT8, "0.2", "PASS"),
        ("separable.float32.onnx", "0.0001", "PASS"),
        ("separable.float16.mlpackage", "0.03", "PASS"),
    ]
    (line,) = lines[7:]
    assert line.startswith("separable.float16.mlpackage: PASS: all outputs lie within")
    assert line.endswith("(a reference evaluation, not Apple hardware)")
    report = read_document(tmp_path / "selftest.json", "hemline.selftest/1", SelftestReport)
    assert report.verdicts() == ["PASS", "PASS", "PASS", "PASS"]
    assert run(capsys, "selftest", exported, "--strict")[0] == 0


def test_selftest_of_bad_input(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    fails(capsys, r"has no manifest\.json", "selftest", tmp_path)
    (folder / "golden.json").write_text("{}")
    fails(capsys, r"golden\.json has SHA-256", "selftest", folder)


def test_predict(exported: Path, picture: Path, few: Path, capsys: Captured) -> None:
    with np.load(few) as data:
        pixels = data["images"][:2]
    np.save(picture.with_name("two.npy"), pixels)
    model = hemline.load(exported / INT8)
    first, second = model.predict(pixels).top(3)
    status, out, err = run(
        capsys, "predict", exported / INT8, picture, picture.with_name("two.npy")
    )
    assert (status, err) == (0, "")

    def line(path: Path, best: list[tuple[str, float]]) -> str:
        return f"{path}: {', '.join(f'{label} {share:.3f}' for label, share in best)}"

    assert out.splitlines() == [
        line(picture, first),
        line(picture.with_name("two.npy"), first),
        line(picture.with_name("two.npy"), second),
    ]


def test_predict_as_json(exported: Path, picture: Path, few: Path, capsys: Captured) -> None:
    with np.load(few) as data:
        inverted = 255 - data["images"][0]
    words = ["predict", exported / INT8, picture, "--json", "--top", "2", "--invert"]
    status, out, _ = run(capsys, *words)
    assert status == 0
    best = hemline.load(exported / INT8).predict(inverted).top(2)[0]
    assert json.loads(out) == [{"image": str(picture), "top": [list(pair) for pair in best]}]


@pytest.mark.parametrize(("words", "model"), [([], "cnn"), (["--model", "gru"], "gru")])
def test_predict_with_a_model_that_comes_with_hemline(
    picture: Path, capsys: Captured, words: list[str], model: str
) -> None:
    status, out, err = run(capsys, "predict", picture, "-v", *words)
    own = hemline.load(bundled_model(model))
    pixels = read_picture(picture, (28, 28, 1), invert=False).pixels
    label, probability = own.predict(pixels).top(1)[0][0]
    assert status == 0
    assert out.startswith(f"{picture}: {label} {probability:.3f}, ")
    assert err.splitlines() == [
        f"model {model}.int8.tflite in litert",
        f"{picture}: 28×28 L",
    ]


def test_predict_with_a_folder_and_an_engine(
    exported: Path, picture: Path, capsys: Captured
) -> None:
    status, _, err = run(capsys, "predict", exported, picture, "-v", "--engine", "onnxruntime")
    assert (status, err.splitlines()[0]) == (0, "model separable.float32.onnx in onnxruntime")


def test_predict_of_bad_input(
    folder: Path, picture: Path, tmp_path: Path, capsys: Captured
) -> None:
    file = folder / INT8
    fails(capsys, "no images to classify", "predict", file)
    fails(capsys, "no model 'rnn' comes with Hemline", "predict", "--model", "rnn", picture)
    fails(capsys, "there is no model file", "predict", tmp_path / "none.onnx", picture)
    fails(capsys, r"cannot read .*none\.png: No such", "predict", file, tmp_path / "none.png")
    fails(capsys, "cannot read .* as an image", "predict", file, file)
    fails(capsys, "macOS only", "predict", folder / "separable.float16.mlpackage", picture)
    np.save(tmp_path / "wrong.npy", np.zeros((3, 3), np.uint8))
    fails(capsys, r"images have shape \(3, 3\)", "predict", file, tmp_path / "wrong.npy")
    np.save(tmp_path / "nan.npy", np.full((28, 28), np.nan, np.float32))
    fails(capsys, "no NaN", "predict", file, tmp_path / "nan.npy")
    np.save(tmp_path / "double.npy", np.zeros((28, 28)))
    fails(capsys, "images are float64", "predict", file, tmp_path / "double.npy")
    (folder / "folder.tflite").mkdir()
    fails(
        capsys,
        "is a folder, expected an ordinary file",
        "predict",
        folder / "folder.tflite",
        picture,
    )
    content = (folder / "separable.float32.tflite").read_bytes()
    foreign = tmp_path / "foreign.tflite"
    foreign.write_bytes(content.replace(b"hemline.facts\0", b"another.facts\0"))
    fails(capsys, r"foreign\.tflite has no Hemline facts", "predict", foreign, picture)
    file.write_bytes(content)
    fails(capsys, r"has [\d,]+ bytes, its manifest says", "predict", file, picture)


def test_inspect(exported: Path, capsys: Captured) -> None:
    status, out, err = run(capsys, "inspect", exported / INT8)
    assert (status, err) == (0, "")
    # Whether it runs on a microcontroller is said where that can be tried: test_micro.py.
    lines = [line for line in out.splitlines() if not line.startswith("micro")]
    assert re.fullmatch(rf"{INT8}: \d,\d{{3}} bytes, runs in litert", lines[0])
    assert re.fullmatch(r"sha256     [0-9a-f]{64}", lines[1])
    assert lines[2] == "manifest   matches"
    assert re.fullmatch(
        r"input      image: int8 \[1, 28, 28, 1\], real = 0\.0039\d+ · \(q − -128\)", lines[3]
    )
    assert lines[4] == ("output     probabilities: int8 [1, 10], real = 0.00390625 · (q − -128)")
    assert lines[5] == (
        "operators  CONV_2D 2, DEPTHWISE_CONV_2D 1, FULLY_CONNECTED 1, MEAN 1, SOFTMAX 1"
    )
    assert lines[6].startswith("integers   6 of 6 operators, 53,472 of 53,472 multiply-")
    assert lines[7].startswith("model      separable, recipe int8, from ")
    assert lines[8] == "task       classification"
    assert lines[9].startswith("labels     T-shirt/top, Trouser, ")
    assert lines[10] == "pixels     (pixel − 0) / 255"
    assert lines[11].startswith(f"made with  hemline {hemline.__version__}, tensorflow ")


def test_inspect_as_json(exported: Path, capsys: Captured) -> None:
    status, out, _ = run(capsys, "inspect", exported / "separable.float32.onnx", "--json")
    document = json.loads(out)
    assert status == 0
    assert document["schema"] == "hemline.inspect/2"
    assert document["file"] == "separable.float32.onnx"
    assert document["facts"]["artifact"]["engine"] == "onnxruntime"


def test_inspect_of_a_core_ml_package(exported: Path, capsys: Captured) -> None:
    package = exported / "separable.float16.mlpackage"
    status, out, _ = run(capsys, "inspect", package)
    assert status == 0
    assert "\nplan       none: Core ML plans on macOS 14.4 and later only\nforecast   no " in out
    status, out, _ = run(capsys, "inspect", package, "--json", "--compute-units", "ALL")
    forecast = json.loads(out)["core_ml"]["forecast"]
    assert status == 0
    assert forecast["eligible"] == forecast["operations"] > 0
    assert {"rule", "source", "finding"} == set(forecast["lines"][0])


def test_inspect_of_a_foreign_file(exported: Path, tmp_path: Path, capsys: Captured) -> None:
    content = (exported / "separable.float32.tflite").read_bytes()
    foreign = tmp_path / "foreign.tflite"
    foreign.write_bytes(content.replace(b"hemline.facts\0", b"another.facts\0"))
    status, out, _ = run(capsys, "inspect", foreign)
    assert status == 0
    assert "manifest   none\n" in out
    assert out.endswith("facts      none inside the file\n")


def test_inspect_of_bad_input(tmp_path: Path, capsys: Captured) -> None:
    fails(capsys, "there is no model file", "inspect", tmp_path / "none.onnx")
    for name in ("a.onnx", "a.tflite"):
        (tmp_path / name).write_bytes(b"garbage" * 9)
        fails(capsys, f"refuses .*{name}", "inspect", tmp_path / name)
    (tmp_path / "a.txt").write_text("")
    fails(capsys, r"nothing runs files ending in '\.txt'", "inspect", tmp_path / "a.txt")


def test_report(build: Path, capsys: Captured) -> None:
    status, out, err = run(capsys, "report", build / "toy", build / "toy")
    assert (status, err) == (0, "")
    rows = [
        "| toy.float.keras       |     6 |   0.9123 |          |    PASS |        |       |",
        "| toy.int8.tflite       |     8 |   0.9118 |    -0.05 |    PASS |   4.4~ |       |",
        "| toy.float16.mlpackage |     2 |          |          | NOT_RUN |        |       |",
    ]
    assert out.splitlines() == [
        "| artifact              | bytes | accuracy | delta pt | verdict | p50 µs | speed |",
        "| --------------------- | ----: | -------: | -------: | ------: | -----: | ----: |",
        *rows,
        *rows,
    ]


def test_report_says_what_was_not_made(build: Path, capsys: Captured) -> None:
    path = build / "toy" / "manifest.json"
    document = json.loads(path.read_bytes())
    document["omitted"]["int8-qat"] = "layer x has no grid"
    path.write_text(json.dumps(document))
    _, out, _ = run(capsys, "report", build / "toy")
    assert out.splitlines()[-1] == "toy.int8-qat: not made: layer x has no grid"


def test_report_of_a_failure(build: Path, capsys: Captured) -> None:
    path = build / "toy" / "parity.json"
    document = json.loads(path.read_bytes())
    document["artifacts"][0]["verdict"] = "FAIL"
    path.write_text(json.dumps(document))
    status, out, _ = run(capsys, "report", build / "toy")
    assert (status, out.count("FAIL")) == (1, 1)


def test_report_of_bad_input(build: Path, tmp_path: Path, capsys: Captured) -> None:
    fails(capsys, r"has no manifest\.json", "report", tmp_path)
    (build / "toy" / "bench.json").unlink()
    fails(capsys, r"cannot read .*bench\.json: No such file", "report", build / "toy")


@pytest.mark.parametrize("words", [[], ["sing"], ["predict"], ["verify"], ["--loud"]])
def test_wrong_usage(capsys: Captured, words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: hemline")


def hemline_process(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hemline", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables,
    )


def test_help() -> None:
    done = hemline_process("--help")
    assert (done.returncode, done.stderr) == (0, "")
    commands = ["verify", "selftest", "bench", "predict", "inspect", "report", "train", "export"]
    for command in commands:
        assert re.search(rf"^    {command} ", done.stdout, re.MULTILINE), command
    for command in commands[:3]:
        assert hemline_process(command, "--help").returncode == 0


def test_version() -> None:
    assert hemline_process("--version").stdout == f"{hemline.__version__}\n"


def test_a_mistake_has_no_traceback(tmp_path: Path) -> None:
    done = hemline_process("inspect", tmp_path / "none.tflite")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"hemline: there is no model file {tmp_path / 'none.tflite'}\n"


def test_a_reader_that_leaves_early(exported: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "hemline", "inspect", exported / "separable.float32.onnx"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_an_interrupt_is_no_traceback(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hemline.cli.bench.bench", interrupt)
    assert main(["bench", str(exported)]) == 130
    assert capsys.readouterr().err == "\nhemline: interrupted\n"

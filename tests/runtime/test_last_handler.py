"""Status 1 is for what ran and FAILed; whatever else happens ends in 2, with one line on stderr."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hemline
from hemline.bundled import bundled_model
from hemline.cli import main
from hemline.console import run_safely
from hemline.errors import HemlineError, InputError
from hemline.model import Prediction
from hemline_train.garments import draw_garments

CNN = bundled_model("cnn")
INT8 = CNN / "cnn.int8.tflite"
LONG = "a" * 300

needs_posix = pytest.mark.skipif(os.name != "posix", reason="shells and users are POSIX's")
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")


def in_shell(line: str, *words: str | Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Runs `hemline` with these words, its streams as a shell puts them."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {line}', "sh", sys.executable, "-m", "hemline", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | variables,
        timeout=120,
    )


def without_engine(said: str) -> str:
    """Leaves out what LiteRT tells of its kernels."""
    return "".join(line for line in said.splitlines(True) if not line.startswith("INFO: "))


@needs_posix
@pytest.mark.parametrize(
    ("line", "words", "status", "complaint"),
    [
        (">&-", ["inspect", INT8], 2, "hemline: stdout is closed"),
        (">&-", ["--help"], 2, "hemline: stdout is closed"),
        (">&- 2>&-", ["inspect", INT8], 2, ""),
        ("<&- >&- 2>&-", ["inspect", INT8], 2, ""),
        ("2>&-", ["inspect", "nothing.tflite"], 2, ""),
        ("2>&-", ["nonsense"], 2, ""),
        ("2>&-", ["inspect", INT8], 0, ""),
        ("<&-", ["inspect", INT8], 0, ""),
    ],
)
def test_closed_streams(line: str, words: list[str | Path], status: int, complaint: str) -> None:
    done = in_shell(line, *words)
    assert done.returncode == status
    complaints = without_engine(done.stderr)
    assert complaints.count("\n") == bool(complaint)
    assert complaints.startswith(complaint)
    assert done.stdout.startswith("cnn.int8.tflite: ") == (status == 0)


@needs_posix
def test_a_file_from_anywhere_with_closed_streams(tmp_path: Path) -> None:
    shutil.copy(INT8, tmp_path)
    done = in_shell("<&- 2>&-", "inspect", tmp_path / INT8.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert "manifest   none\n" in done.stdout


@needs_full
@pytest.mark.parametrize("words", [["inspect", INT8], ["--version"], ["inspect", "--help"]])
def test_a_full_stdout(words: list[str | Path]) -> None:
    done = in_shell(">/dev/full", *words)
    assert done.returncode == 2
    assert re.search(r"^hemline: .*No space left on device\n$", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


@needs_full
def test_a_full_stderr() -> None:
    assert in_shell("2>/dev/full", "inspect", "nothing.tflite").returncode == 2


@needs_posix
def test_streams_in_ascii() -> None:
    done = in_shell("", "inspect", INT8, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert r"(q \u2212 -128)" in done.stdout or r"\xb7 (q" in done.stdout
    done = in_shell("", "inspect", "é.tflite", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (2, "hemline: there is no model file \\xe9.tflite\n")


@pytest.mark.parametrize("name", [LONG, "a\0b", "\udcff", "a\nb", "/dev/null/x"])
@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "{}.tflite"],
        ["inspect", "{}"],
        ["predict", "{}.onnx", "x"],
        ["predict", CNN, "{}.png"],
        ["predict", CNN, "{}.npy"],
        ["bench", "{}"],
        ["bench", "{}.tflite"],
        ["bench", INT8, "--compare", "{}"],
        ["selftest", "{}"],
        ["report", "{}"],
        ["verify", "{}"],
        ["verify", CNN, "--data", "{}.npz"],
        ["verify", CNN, "--data", "{}"],
    ],
    ids=lambda words: "-".join(map(str, words)).replace(str(CNN), "CNN"),
)
def test_names_that_no_file_has(
    words: list[str | Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(word).replace("{}", name) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"hemline: (?!unforeseen)[^\n]+\n", err), err


@pytest.mark.parametrize("name", [LONG, "a\0b", "/dev/null"])
@pytest.mark.parametrize("command", ["verify", "selftest"])
def test_places_where_nothing_can_be_written(
    command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(CNN), "--json", f"{name}/x"]) == 2
    assert re.fullmatch(r"hemline: cannot write [^\n]+\n", capsys.readouterr().err)


@pytest.mark.parametrize("name", [LONG + ".tflite", "a\0b.tflite", LONG, "a\0b"])
def test_names_that_no_file_has_in_python(name: str) -> None:
    with pytest.raises(HemlineError, match=r"cannot read |there is no model file "):
        hemline.load(name)


def as_nobody(words: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs `hemline` as the user `nobody`."""
    # First as root, which may read all, so that all is imported: Python may be root's alone too.
    start = (
        "import contextlib, io, os, sys; from hemline.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):"
        " main(sys.argv[1:])\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-B", "-c", start, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=120,
    )


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root becomes another user"
)
@pytest.mark.parametrize(
    ("words", "locked"),
    [
        (["inspect", "model/cnn.int8.tflite"], "model/cnn.int8.tflite"),
        (["inspect", "model/cnn.int8.tflite"], "model/manifest.json"),
        (["inspect", "model/cnn.int8.tflite"], "model"),
        (["predict", "model", "image.npy"], "model"),
        (["predict", "model", "image.npy"], "image.npy"),
        (["predict", "model", "image.png"], "image.png"),
        (["predict", "model/cnn.int8.tflite", "image.npy"], "model/cnn.int8.tflite"),
        (["bench", "model"], "model"),
        (["bench", "model"], "model/cnn.int8.tflite"),
        (["bench", "model", "--compare", "old.json"], "old.json"),
        (["bench", "model", "--json", "model/bench.json"], "nothing"),
        (["selftest", "model"], "model"),
        (["selftest", "model"], "model/golden.json"),
        (["report", "model"], "model"),
        (["report", "model"], "model/parity.json"),
        (["verify", "model", "--data", "data.npz"], "data.npz"),
        (["verify", "model", "--data", "data.npz"], "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_another_user_may_not_read(words: list[str], locked: str, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    model = folder / "model"
    model.mkdir(parents=True)
    for file in ("manifest.json", "golden.json", "parity.json", "bench.json", INT8.name):
        source = CNN / file
        if source.exists():
            shutil.copy(source, model)
    images, labels = draw_garments(4, 0)
    np.savez(folder / "data.npz", images=images, labels=labels)
    np.save(folder / "image.npy", images[0])
    for name in ("image.png", "old.json", "nothing"):
        (folder / name).touch()
    # What pytest makes is its user's alone.
    for above in (tmp_path, tmp_path.parent, tmp_path.parents[1]):
        above.chmod(0o755)
    (folder / locked).chmod(0)
    try:
        done = as_nobody(words, folder)
    finally:
        (folder / locked).chmod(0o755)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert re.fullmatch(r"hemline: (?!unforeseen)[^\n]+\n", without_engine(done.stderr)), (
        done.stderr
    )


def test_what_a_file_is_is_told_by_its_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = draw_garments(4, 0)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    np.save(tmp_path / "b.npy", images[0])
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    for words, said in (
        (["predict", CNN, tmp_path / "a.npy"], "a.npy as an .npy file: the magic string is"),
        (["verify", CNN, "--data", tmp_path / "b.npz"], "must be an .npz file with `images`"),
        (["verify", CNN, "--data", tmp_path / "a.npy"], "no samples found for"),
    ):
        assert main([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(rf"hemline: [^\n]*{said}[^\n]*\n", err), err


def fail(kind: type[BaseException], message: str) -> Callable[[], int]:
    def work() -> int:
        raise kind(message)

    return work


@pytest.mark.parametrize(
    ("kind", "message", "said"),
    [
        (RuntimeError, "one\ntwo", "unforeseen: RuntimeError: one; a fault of Hemline's"),
        (KeyError, "", "unforeseen: KeyError: ''; a fault of Hemline's"),
        (MemoryError, "", "unforeseen: MemoryError: no reason given; a fault of Hemline's"),
        (RecursionError, "deep", "unforeseen: RecursionError: deep; a fault of Hemline's"),
        (ValueError, "\x1b[2J" + "x" * 9999, r"unforeseen: ValueError: \\x1b\[2Jx"),
        (OSError, "gone", "gone$"),
        (InputError, "wrong", "wrong$"),
    ],
)
def test_whatever_is_raised_ends_in_two(
    kind: type[Exception], message: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_safely(fail(kind, message)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(rf"hemline: {said}", err)
    assert err.count("\n") == 1
    assert len(err) < 600


def test_where_a_failure_arose(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_safely(fail(RuntimeError, "odd"), verbose=True) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("hemline: unforeseen: RuntimeError: odd")
    assert "report it as SECURITY.md says" in lines[-1]
    assert main(["inspect", "-v", "nothing.tflite"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "hemline: there is no model file nothing.tflite"


def test_the_most_probable_classes_are_one_or_more() -> None:
    found = Prediction(np.array([[0.25, 0.75]], np.float32), ("a", "b"))
    for k in (0, -1, -(2**70)):
        with pytest.raises(InputError, match=f"1 or more, got {k}"):
            found.top(k)
    assert found.top(2**70) == [[("b", 0.75), ("a", 0.25)]]


class Subclass(np.ndarray):
    """An array of another type."""


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_arrays_of_other_types(tmp_path: Path) -> None:
    images, _ = draw_garments(3, 0)
    image = images[0].reshape(28, 28)
    model = hemline.load(INT8)
    expected, raw = model.outputs(image), model.tensor(image)
    mapped = np.memmap(tmp_path / "image", np.uint8, "w+", shape=image.shape)
    mapped[:] = image
    for other in (np.asmatrix(image), image.view(Subclass), mapped, np.asfortranarray(image)):
        assert (model.outputs(other) == expected).all()
        assert model.predict(other).labels == model.predict(image).labels
    answer = model.run(raw)
    assert (model.run(raw.view(Subclass)) == answer).all()
    name = model.engine.inputs[0].name
    (found,) = model.run_all({name: raw.view(Subclass)}).values()
    assert (found == answer).all()
    record = np.rec.fromarrays([image], names="a")
    masked = np.ma.masked_array(image, image > 3)
    # A type of objects that say what they are otherwise.
    for wrong in (record, masked, image.tolist(), None, image.astype(object), "image", 3):
        for call in (model.outputs, model.predict, model.run):
            with pytest.raises(InputError):
                call(wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError):
            model.run_all({name: wrong})  # type: ignore[dict-item]
    for odd in ({}, {name: np.ma.masked_array(raw)}, {name: raw, "b": raw}):
        with pytest.raises(InputError):
            model.run_all(odd)


@pytest.mark.parametrize("threads", [0, -1, 1_025, 10**9, 2**70])
def test_threads_that_no_engine_is_told_to_start(threads: int) -> None:
    with pytest.raises(InputError, match="at least 1 and at most 1,024"):
        hemline.load(INT8, threads=threads)


@pytest.mark.parametrize(
    "words",
    [
        ["--threads", "1025"],
        ["--threads", "9" * 5000],
        ["--rounds", "1000001"],
        ["--batch", "9" * 12],
        ["--batch", "1,-2"],
    ],
)
def test_numbers_that_would_take_all_there_is(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", str(INT8), *words])
    assert end.value.code == 2
    assert "expected a whole number from 1 to" in capsys.readouterr().err


def test_a_batch_that_no_memory_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(INT8), "--batch", "1000000"]) == 2
    assert re.fullmatch(
        r"hemline: a call on \[1000000, 28, 28, 1\] takes 784,000,000 elements; [^\n]*\n",
        capsys.readouterr().err,
    )

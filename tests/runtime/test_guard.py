"""Files from anywhere: what a child process says of them, and what never reaches this one."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import hemline
from hemline import guard
from hemline.cli import main
from hemline.engines.coreml import CoreMLEngine
from hemline.engines.coreml_reference import CoreMLReferenceEngine
from hemline.engines.litert import LiteRTEngine
from hemline.engines.onnxruntime import ONNXRuntimeEngine
from hemline.errors import (
    EngineUnavailableError,
    ManifestError,
    ModelFileError,
    UnknownOperationError,
)
from hemline.files import sha256
from hemline.inspection import inspect

INT8, ONNX, PACKAGE = (
    "separable.int8.tflite",
    "separable.float32.onnx",
    "separable.float16.mlpackage",
)


@pytest.fixture(autouse=True)
def nothing_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_passed", set())


@pytest.fixture
def lone(exported: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies one of the exported files to where no manifest is."""

    def copy(name: str) -> Path:
        source, target = exported / name, tmp_path / "lone" / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        return target

    return copy


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What children were started with, which do not start."""
    commands: list[list[str]] = []

    whoever = guard.child.ask

    def ask(module: str, arguments: list[str], *args: Any, **options: Any) -> guard.child.Answer:
        if module != guard.WORKER:
            return whoever(module, arguments, *args, **options)
        commands.append(arguments)
        return guard.child.Answer(results={}, failure=None)

    monkeypatch.setattr(guard.child, "ask", ask)
    return commands


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the child run a script instead; it finds `say` there."""
    say = "import json, os, signal, sys, time\ndef say(**a): print(json.dumps(a), flush=True)\n"

    def put(script: str) -> None:
        monkeypatch.setattr(
            guard.child,
            "command_of",
            lambda _, arguments: [sys.executable, "-c", say + script, *arguments],
        )

    return put


def onnx_file(
    path: Path, nodes: list[Any], shape: list[Any], weights: list[Any] | None = None
) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, None)],
        weights or [],
    )
    opsets = [helper.make_opsetid("", 18)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    )
    return path


def endless_loop(path: Path) -> Path:
    """An ONNX file whose loop has 2**62 turns."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["condition_out"]),
            helper.make_node("Relu", ["state"], ["state_out"]),
        ],
        "body",
        [
            value("turn", TensorProto.INT64, []),
            value("condition", TensorProto.BOOL, []),
            value("state", TensorProto.FLOAT, [1]),
        ],
        [value("condition_out", TensorProto.BOOL, []), value("state_out", TensorProto.FLOAT, [1])],
    )
    turns = onnx.numpy_helper.from_array(np.array(2**62), "turns")
    return onnx_file(
        path, [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)], [1], [turns]
    )


@pytest.mark.parametrize("name", [INT8, ONNX, PACKAGE])
def test_a_good_file_is_tried_once_and_opened(
    lone: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls = []
    ask = guard.child.ask
    monkeypatch.setattr(guard.child, "ask", lambda *a, **k: calls.append(a) or ask(*a, **k))
    path = lone(name)
    engine = "coreml-reference" if name == PACKAGE else None
    for _ in range(2):
        model = hemline.load(path, engine=engine)
        assert model.facts is not None
        assert model.predict(np.zeros((28, 28), np.uint8)).probabilities.shape == (1, 10)
    assert len(calls) == 1


def test_a_listed_file_and_a_trusted_one_are_not_tried(
    exported: Path, lone: Callable[[str], Path], asked: list[list[str]]
) -> None:
    hemline.load(exported / INT8)
    hemline.load(exported)
    hemline.load(lone(INT8), trust=True)
    assert inspect(exported / INT8).manifest == "matches"
    assert inspect(lone(ONNX), trust=True).manifest == "none"
    assert asked == []
    hemline.load(lone(INT8))
    assert len(asked) == 1


def test_the_same_file_in_another_engine_or_changed_is_tried_anew(
    lone: Callable[[str], Path], asked: list[list[str]]
) -> None:
    path = lone(INT8)
    for engine in (None, "litert-builtin", None, "litert-builtin"):
        hemline.load(path, engine=engine)
    assert ["--engine=litert-builtin" in command for command in asked] == [False, True]
    path.write_bytes(path.read_bytes() + b"more")
    hemline.load(path)
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "say(begin='load'); os.kill(os.getpid(), signal.SIGSEGV)",
            r"separable\.int8\.tflite is in no manifest, so it was tried in a child process, of at "
            r"most 2 s and 2\.0 GiB: its process was killed by SIGSEGV while opening it; get the "
            r"file again or, if you trust it, load it with trust=True \(--trust\)",
        ),
        ("say(begin='run'); os.abort()", "killed by SIGABRT while running it once"),
        ("say(begin='load'); time.sleep(600)", "did not end within 2 s while opening it"),
        ("sys.exit(3)", "ended with status 3 while starting"),
        ("print('[')", "said '\\[', not JSON"),
    ],
)
def test_a_child_that_comes_to_grief(
    lone: Callable[[str], Path],
    child: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    message: str,
) -> None:
    monkeypatch.setattr(LiteRTEngine, "trial_limit_s", 2)
    child(script)
    for attempt in (hemline.load, inspect):
        with pytest.raises(ModelFileError, match=message):
            attempt(lone(INT8))


def test_a_file_that_hangs_its_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ONNXRuntimeEngine, "trial_limit_s", 5)
    with pytest.raises(ModelFileError, match="did not end within 5 s while running it once"):
        hemline.load(endless_loop(tmp_path / "endless.onnx"))


def test_a_child_has_a_clock_of_its_own(tmp_path: Path) -> None:
    path = endless_loop(tmp_path / "endless.onnx")
    # The grace of five seconds makes it one.
    command = guard.child.command_of(guard.WORKER, ["--seconds=-4", f"--bytes={2**31}", str(path)])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        assert process.wait(60) == -signal.SIGALRM


def test_a_huge_input_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = onnx_file(
        tmp_path / "huge.onnx", [helper.make_node("Relu", ["x"], ["y"])], [1, 2**30, 2**10]
    )
    with pytest.raises(
        ModelFileError,
        match=r"its input x is float32 \[1, 1073741824, 1024\], 4,398,046,511,104 bytes, and a "
        r"file from anywhere may take 2,147,48\d,\d\d\d; if you trust it",
    ):
        hemline.load(path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_a_file_that_wants_all_memory(tmp_path: Path) -> None:
    sizes = onnx.numpy_helper.from_array(np.array([2**16, 2**16]), "sizes")
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["fill"]),
        helper.make_node("Add", ["x", "fill"], ["y"]),
    ]
    # 16 GiB, which this machine may well have.
    with pytest.raises(ModelFileError, match=r"ONNX Runtime refuses|cannot be opened and run"):
        hemline.load(onnx_file(tmp_path / "fill.onnx", nodes, [1], [sizes]))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_the_limits_of_the_worker() -> None:
    code = (
        "import resource, signal\nfrom hemline.guard_worker import limit_resources\n"
        "limit_resources(30.5, 2**31)\n"
        "for kind in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):\n"
        "    print(resource.getrlimit(kind)[0])\n"
        "print(signal.alarm(0))\n"
        "try:\n    bytearray(2**31)\nexcept MemoryError:\n    print('no')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["2147483648", "2147483648", "0", "36", "no"]


def test_the_limits_that_a_child_is_given(
    lone: Callable[[str], Path], asked: list[list[str]]
) -> None:
    path = lone(INT8)
    hemline.load(path)
    (command,) = asked
    assert "--seconds=30.0" in command
    assert f"--bytes={2**31 + 4 * path.stat().st_size}" in command
    assert command[-2:] == ["--", str(path)]
    assert (CoreMLEngine.trial_limit_s, CoreMLReferenceEngine.trial_limit_s) == (300, 30)


def test_what_the_child_refuses_is_refused_as_it_would_be_here(
    lone: Callable[[str], Path], tmp_path: Path
) -> None:
    facts = lone(INT8)
    facts.write_bytes(facts.read_bytes().replace(b'"hemline.facts/1"', b'"hemline.facts/9"'))
    with pytest.raises(ManifestError, match=r"facts inside .*schema is 'hemline\.facts/9'"):
        hemline.load(facts)
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    with pytest.raises(ModelFileError, match=r"^ONNX Runtime refuses .*text\.onnx"):
        hemline.load(text)
    with pytest.raises(EngineUnavailableError, match="Core ML runs on macOS only"):
        hemline.load(lone(PACKAGE))


def test_operations_that_the_child_does_not_know(
    lone: Callable[[str], Path], child: Callable[[str], None]
) -> None:
    child("say(error={'kind': 'UnknownOperationError', 'message': 'no such'}); sys.exit(2)")
    with pytest.raises(UnknownOperationError, match="no such"):
        hemline.load(lone(PACKAGE), engine="coreml-reference")


@pytest.mark.parametrize("name", [INT8, PACKAGE])
def test_a_file_exchanged_after_its_trial_is_not_opened(
    lone: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = lone(name)
    inner = path / "Data/com.apple.CoreML/weights/weight.bin" if path.is_dir() else path
    opened = []

    def ask(*_: Any, **__: Any) -> guard.child.Answer:
        inner.write_bytes(inner.read_bytes() + b"!")
        return guard.child.Answer(results={}, failure=None)

    engine = CoreMLReferenceEngine if path.is_dir() else LiteRTEngine
    monkeypatch.setattr(guard.child, "ask", ask)
    monkeypatch.setattr(engine, "__init__", lambda *_, **__: opened.append(1))
    with pytest.raises(ModelFileError, match="was changed while it was being opened; load it"):
        hemline.load(path, engine="coreml-reference" if path.is_dir() else None)
    assert opened == []


def test_a_package_exchanged_while_it_is_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = folder / PACKAGE, []
    expected = sha256(path)
    open_it = CoreMLReferenceEngine.__init__

    def swap(self: Any, copy: Path, *args: Any, **kwargs: Any) -> None:
        shutil.rmtree(path)
        path.mkdir()
        opened.append((copy, sha256(copy), copy.parent.stat().st_mode & 0o77))
        open_it(self, copy, *args, **kwargs)

    monkeypatch.setattr(CoreMLReferenceEngine, "__init__", swap)
    model = hemline.load(path, engine="coreml-reference")
    assert model.predict(np.zeros((28, 28), np.uint8)).labels
    # A copy that nobody else can write.
    ((copy, digest, mode),) = opened
    assert (digest, mode) == (expected, 0)
    model.close()
    assert not copy.exists()


def test_the_bytes_that_were_checked_are_those_that_are_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, engine in ((INT8, LiteRTEngine), (ONNX, ONNXRuntimeEngine)):
        path, given = folder / name, []
        expected = path.read_bytes()
        open_it = engine.__init__

        def swap(self: Any, path: Path, *args: Any, **kwargs: Any) -> None:
            path.write_bytes(b"exchanged")
            given.append(kwargs["content"])  # noqa: B023
            open_it(self, path, *args, **kwargs)  # noqa: B023

        monkeypatch.setattr(engine, "__init__", swap)
        hemline.load(path)
        assert given == [expected]


def test_sizes_left_open_need_not_be_one(tmp_path: Path) -> None:
    shape = onnx.numpy_helper.from_array(np.array([-1, 4]), "shape")
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    model = hemline.load(onnx_file(tmp_path / "open.onnx", nodes, ["n", "m"], [shape]))
    assert model.run(np.zeros((3, 4), np.float32)).shape == (3, 4)
    # A batch may always be 1.
    with pytest.raises(ModelFileError, match=r"batch\.onnx cannot be opened and run: .*[Rr]eshape"):
        hemline.load(onnx_file(tmp_path / "batch.onnx", nodes, ["n", 3], [shape]))


@pytest.mark.parametrize("where", ["secret.bin", "../secret.bin", "absolute"])
@pytest.mark.parametrize("trust", [False, True])
def test_weights_in_another_file_are_not_read(tmp_path: Path, where: str, trust: bool) -> None:
    for secret in (tmp_path / "secret.bin", tmp_path / "folder" / "secret.bin"):
        secret.parent.mkdir(exist_ok=True)
        np.arange(4, dtype=np.float32).tofile(secret)
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    weights.data_location = TensorProto.EXTERNAL
    location = str(tmp_path / "secret.bin") if where == "absolute" else where
    weights.external_data.add(key="location", value=location)
    path = onnx_file(
        tmp_path / "folder" / "model.onnx",
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [4],
        [weights],
    )
    with pytest.raises(ModelFileError, match="ONNX Runtime refuses"):
        hemline.load(path, trust=trust)


def test_modules_in_the_working_folder_are_not_imported(
    lone: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lone(INT8)
    for name in ("numpy", "json", "hemline", "ai_edge_litert"):
        (path.parent / f"{name}.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(path.parent)
    hemline.load(path.name)
    assert not Path("ran").exists()


def test_without_an_interpreter_to_start(
    lone: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ModelFileError, match=r"no Python interpreter to try it .* trust=True"):
        hemline.load(lone(INT8))


@pytest.mark.parametrize("trust", [False, True])
def test_a_pipe_is_not_read(tmp_path: Path, trust: bool) -> None:
    path = tmp_path / "pipe.tflite"
    os.mkfifo(path)
    for attempt in (hemline.load, inspect):
        with pytest.raises(ModelFileError, match=r"pipe\.tflite is neither a file nor a folder"):
            attempt(path, trust=trust)


def test_a_pipe_in_the_place_of_a_listed_file(folder: Path) -> None:
    (folder / INT8).unlink()
    os.mkfifo(folder / INT8)
    with pytest.raises(ModelFileError, match="is neither a file nor a folder"):
        hemline.load(folder / INT8)


def test_a_giant_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "giant.tflite"
    with path.open("wb") as file:
        file.truncate(2**41)
    with pytest.raises(
        ModelFileError, match=r"2,199,023,255,552 bytes; at most 2,147,483,648 are read"
    ):
        hemline.load(path)


@pytest.mark.parametrize("name", [INT8, ONNX, PACKAGE])
def test_a_child_reads_what_this_process_would(lone: Callable[[str], Path], name: str) -> None:
    path = lone(name)
    assert inspect(path) == inspect(path, trust=True)


def test_a_changed_file_is_read_in_a_child(folder: Path, asked: list[list[str]]) -> None:
    (folder / INT8).write_bytes((folder / INT8).read_bytes() + b"more")
    with pytest.raises(ManifestError, match=r"the inspection of .*: expected an object"):
        inspect(folder / INT8)
    (command,) = asked
    assert "--inspect" in command


def test_trust_on_the_command_line(
    lone: Callable[[str], Path], tmp_path: Path, asked: list[list[str]]
) -> None:
    path, image = str(lone(INT8)), tmp_path / "image.npy"
    np.save(image, np.zeros((28, 28), np.uint8))
    commands = (["predict", path, str(image)], ["inspect", path], ["bench", path, "--rounds", "1"])
    for command in commands:
        assert main([*command, "--trust"]) == 0
    assert asked == []
    for command in commands:
        guard._passed.clear()
        main(command)
    assert ["--inspect" in command for command in asked] == [False, True, False]

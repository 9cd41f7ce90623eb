"""The wheel in a bare environment: NumPy, one engine and nothing else."""

import json
import re
import subprocess
import sys
import venv
from importlib.metadata import requires, version
from pathlib import Path

import numpy as np
import pytest

import hemline

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def constraints(*names: str) -> set[str]:
    """Pins packages, and what they need, to the versions installed here."""
    pins, waiting = {}, list(names)
    while waiting:
        name = waiting.pop()
        if name in pins:
            continue
        pins[name] = version(name)
        waiting += [
            re.split(r"[^\w.-]", requirement)[0]
            for requirement in requires(name) or []
            if "extra ==" not in requirement and ";" not in requirement
        ]
    return {f"{name}=={pin}" for name, pin in pins.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "package", "file"),
    [
        ("litert", "ai-edge-litert", "separable.int8.tflite"),
        ("onnx", "onnxruntime", "separable.float32.onnx"),
    ],
)
def test_the_wheel_predicts_with_numpy_and_one_engine(
    extra: str, package: str, file: str, exported: Path, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    pins = tmp_path / "constraints.txt"
    pins.write_text("\n".join(sorted(constraints("numpy", package))))
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "-c", pins, f"{wheel}[{extra}]", cwd=tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import hemline, json, numpy, sys\n"
        f"p = hemline.load({str(exported / file)!r}).predict(numpy.load('images.npy'))\n"
        "heavy = {'tensorflow', 'keras', 'tf_keras', 'onnx', 'PIL'} & set(sys.modules)\n"
        "print(json.dumps([p.probabilities.tolist(), p.labels, sorted(heavy)]))"
    )
    probabilities, labels, heavy = json.loads(run(python, "-I", "-c", code, cwd=tmp_path))
    expected = hemline.load(exported / file).predict(images)
    np.testing.assert_array_equal(np.array(probabilities, np.float32), expected.probabilities)
    assert labels == expected.labels
    assert heavy == []
    command = tmp_path / "bare" / "bin" / "hemline"
    for arguments in (["--help"], ["inspect", "--help"], ["train", "--help"]):
        assert "usage: hemline" in run(command, *arguments, cwd=tmp_path)

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
from PIL import Image

import hemline
from hemline.bundled import bundled_model, bundled_models
from hemline.pictures import read_picture

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "package", "file"),
    [
        ("litert", "ai-edge-litert", "separable.int8.tflite"),
        ("onnx", "onnxruntime", "separable.float32.onnx"),
    ],
)
def test_the_wheel_predicts_with_numpy_and_one_engine(
    extra: str, package: str, file: str, exported: Path, wheel: Path, tmp_path: Path
) -> None:
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


@pytest.mark.slow
def test_a_picture_is_classified_right_after_installing(wheel: Path, tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("\n".join(sorted(constraints("numpy", "ai-edge-litert", "pillow"))))
    venv.create(tmp_path / "bare", with_pip=True)
    bare = tmp_path / "bare" / "bin"
    install = (bare / "python", "-m", "pip", "install", "-q", "-c", pins)
    run(*install, f"{wheel}[litert,images]", cwd=tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    for model in bundled_models():
        out = run(bare / "hemline", "predict", "photo.png", "--model", model, cwd=tmp_path)
        picture = read_picture(tmp_path / "photo.png", (28, 28, 1), invert=False)
        best = hemline.load(bundled_model(model)).predict(picture.pixels).top(3)[0]
        assert out == f"photo.png: {', '.join(f'{label} {p:.3f}' for label, p in best)}\n"

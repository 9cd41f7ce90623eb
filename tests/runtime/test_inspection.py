import shutil
from pathlib import Path

import pytest

from hemline.documents import encode
from hemline.errors import ManifestError, ModelFileError
from hemline.files import sha256
from hemline.inspection import SCHEMA, inspect


@pytest.mark.parametrize(
    ("file", "engine", "input_dtype", "operators"),
    [
        (
            "separable.int8.tflite",
            "litert",
            "int8",
            {
                "CONV_2D": 2,
                "DEPTHWISE_CONV_2D": 1,
                "FULLY_CONNECTED": 1,
                "MEAN": 1,
                "SOFTMAX": 1,
            },
        ),
        ("separable.float32.tflite", "litert", "float32", {"CONV_2D": 2, "SOFTMAX": 1}),
        ("separable.float32.onnx", "onnxruntime", "float32", {"Conv": 3, "Softmax": 1}),
        ("separable.float16.mlpackage", "coreml", "float16", {"conv": 3, "classify": 1}),
    ],
)
def test_every_kind_of_file(
    exported: Path, file: str, engine: str, input_dtype: str, operators: dict[str, int]
) -> None:
    found = inspect(exported / file)
    assert (found.file, found.engine, found.manifest) == (file, engine, "matches")
    assert found.sha256 == sha256(exported / file)
    assert (found.input.name, found.input.dtype) == ("image", input_dtype)
    assert found.input.shape == (1, 28, 28, 1)
    assert found.output.shape == (1, 10)
    assert {name: found.operators[name] for name in operators} == operators
    if file.endswith("int8.tflite"):
        assert dict(found.operators) == operators
        assert found.input.quantization is not None
        assert found.output.quantization is not None
    assert found.facts is not None
    assert found.facts.model.labels[0] == "T-shirt/top"
    assert f"separable.{found.facts.artifact.recipe}." in file
    assert encode(SCHEMA, found).startswith(b'{\n "schema": "hemline.inspect/1",\n "file": "sep')


def test_sizes(exported: Path) -> None:
    path = exported / "separable.float32.onnx"
    assert inspect(path).size_bytes == path.stat().st_size
    package = exported / "separable.float16.mlpackage"
    files = [file for file in package.rglob("*") if file.is_file()]
    assert len(files) > 1
    assert inspect(package).size_bytes == sum(len(file.read_bytes()) for file in files)


def test_the_state_of_the_manifest(folder: Path, tmp_path: Path) -> None:
    path = folder / "separable.int8.tflite"
    alone = shutil.copy(path, tmp_path / "alone.tflite")
    assert inspect(Path(alone)).manifest == "none"
    beside = shutil.copy(path, folder / "beside.tflite")
    assert inspect(Path(beside)).manifest == "not listed"
    path.write_bytes(path.read_bytes().replace(b"Trouser", b"Pyjamas"))
    found = inspect(path)
    assert found.manifest == "differs"
    assert found.facts is not None
    assert found.facts.model.labels[1] == "Pyjamas"


def test_the_keras_file(exported: Path) -> None:
    found = inspect(exported / "separable.float.keras")
    assert (found.engine, found.manifest, found.facts) == ("keras", "matches", None)
    assert found.operators["BatchNormalization"] == 3


def test_bad_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"there is no model file .*none\.onnx"):
        inspect(tmp_path / "none.onnx")
    for name in ("a.onnx", "a.tflite"):
        (tmp_path / name).write_bytes(b"garbage" * 9)
        with pytest.raises(ModelFileError, match=rf"refuses .*{name}"):
            inspect(tmp_path / name)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(ManifestError, match="schema is None"):
        inspect(folder / "separable.int8.tflite")

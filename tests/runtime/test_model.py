import shutil
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import hemline
from hemline.errors import (
    ChecksumError,
    EngineUnavailableError,
    InputError,
    ManifestError,
    ModelFileError,
)
from hemline.model import Model, Prediction

FILES = ["separable.int8.tflite", "separable.float32.tflite", "separable.float32.onnx"]
FLOAT_FILES = FILES[1:]


@pytest.fixture(scope="module")
def images(few: Path) -> NDArray[np.uint8]:
    with np.load(few) as data:
        images: NDArray[np.uint8] = data["images"][:20]
    return images


@pytest.fixture(scope="module")
def foreign_tflite(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float file as another tool would have made it, without Hemline's metadata."""
    # Renaming the key in place keeps every offset of the flatbuffer.
    content = (exported / "separable.float32.tflite").read_bytes()
    assert content.count(b"hemline.facts\0") == 1
    path = tmp_path_factory.mktemp("foreign") / "foreign.tflite"
    path.write_bytes(content.replace(b"hemline.facts\0", b"another.facts\0"))
    return path


@pytest.fixture(scope="module")
def foreign_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "foreign.onnx"
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Softmax", ["x"], ["p"])],
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [value("p", onnx.TensorProto.FLOAT, ["n", 3])],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.mark.parametrize("file", FILES)
def test_a_batch_and_its_images_one_by_one(
    exported: Path, images: NDArray[np.uint8], file: str
) -> None:
    model = hemline.load(exported / file)
    prediction = model.predict(images)
    assert prediction.probabilities.dtype == np.float32
    assert prediction.probabilities.shape == (20, 10)
    assert prediction.probabilities.sum(axis=1) == pytest.approx(1, abs=0.05)
    assert model.facts is not None
    assert prediction.class_names == model.facts.labels
    for image, row in zip(images, prediction.probabilities, strict=True):
        one = model.predict(image).probabilities
        assert one.shape == (1, 10)
        assert (one[0] == row).all()


@pytest.mark.parametrize("file", FILES)
def test_pixels_and_values_come_to_the_same(
    exported: Path, images: NDArray[np.uint8], file: str
) -> None:
    model = hemline.load(str(exported / file))
    pixels = model.predict(images).probabilities
    assert (model.predict(images / np.float32(255)).probabilities == pixels).all()
    assert (model.predict(images.reshape(20, 28, 28)).probabilities == pixels).all()
    assert (model.tensor(images[0]) == model.tensor(images[0] / np.float32(255))).all()


def test_the_files_agree(exported: Path, images: NDArray[np.uint8]) -> None:
    tflite, onnx_file = (
        hemline.load(exported / file).predict(images).probabilities for file in FLOAT_FILES
    )
    assert np.abs(tflite - onnx_file).max() < 1e-4
    int8 = hemline.load(exported / FILES[0]).predict(images).probabilities
    assert np.abs(int8 - tflite).max() < 0.3
    assert not (int8 == tflite).all()


@pytest.mark.parametrize("file", FILES)
def test_more_threads_change_nothing(exported: Path, images: NDArray[np.uint8], file: str) -> None:
    one, two = (
        hemline.load(exported / file, threads=n).predict(images).probabilities for n in (1, 2)
    )
    assert np.abs(one - two).max() < 1e-5


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_left_its_folder_still_loads(
    exported: Path, images: NDArray[np.uint8], tmp_path: Path, file: str
) -> None:
    home = hemline.load(exported / file)
    away = hemline.load(shutil.copy(exported / file, tmp_path / ("renamed" + Path(file).suffix)))
    assert away.facts == home.facts
    assert away.facts is not None
    expected = home.predict(images).probabilities
    assert (away.predict(images).probabilities == expected).all()


def test_a_file_renamed_beside_its_manifest_still_loads(
    folder: Path, images: NDArray[np.uint8]
) -> None:
    expected = hemline.load(folder / FILES[0]).predict(images).labels
    renamed = (folder / FILES[0]).rename(folder / "mine.tflite")
    assert hemline.load(renamed).predict(images).labels == expected


def test_a_foreign_tflite_file_runs_but_does_not_predict(
    foreign_tflite: Path, exported: Path, images: NDArray[np.uint8]
) -> None:
    model = hemline.load(foreign_tflite)
    assert model.facts is None
    own = hemline.load(exported / "separable.float32.tflite")
    assert (model.run(own.tensor(images[0])) == own.predict(images[0]).probabilities).all()
    for call in (model.predict, model.tensor):
        with pytest.raises(
            InputError,
            match=r"foreign\.tflite has no Hemline facts, so its preprocessing is not known: "
            r"use run\(\) with a tensor",
        ):
            call(images)


def test_a_foreign_onnx_file_runs_but_does_not_predict(foreign_onnx: Path) -> None:
    model = hemline.load(foreign_onnx)
    assert model.engine.input.shape == (None, 3)
    output = model.run(np.zeros((2, 3), np.float32))
    assert output == pytest.approx(np.full((2, 3), 1 / 3))
    with pytest.raises(InputError, match="has no Hemline facts"):
        model.predict(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("file", FILES)
def test_a_changed_file_is_refused(folder: Path, file: str) -> None:
    path = folder / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match=f"{file} has SHA-256 .* restore it, or export again"):
        hemline.load(path)


def test_a_damaged_manifest_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match=r"manifest\.json: not valid JSON"):
        hemline.load(folder / FILES[0])


def test_damaged_facts_are_refused(exported: Path, tmp_path: Path) -> None:
    content = (exported / FILES[0]).read_bytes()
    path = tmp_path / "a.tflite"
    path.write_bytes(content.replace(b'"hemline.facts/1"', b'"hemline.facts/9"'))
    with pytest.raises(
        ManifestError, match=r"facts inside .*a\.tflite: schema is 'hemline\.facts/9', expected"
    ):
        hemline.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"there is no model file .*none\.tflite"):
        hemline.load(tmp_path / "none.tflite")


@pytest.mark.parametrize("name", ["model.pt", "model", "model.TFLITE"])
def test_an_unknown_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"nothing runs files ending in .*; known: \.tflite, "):
        hemline.load(tmp_path / name)


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 99, b"\0" * 99, b"\x20\0\0\0TFL3" * 9])
def test_garbage(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"refuses .*garbage\{suffix}: \S") as caught:
        hemline.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file(
    exported: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], file: str
) -> None:
    content = (exported / file).read_bytes()
    path = tmp_path / file
    for length in range(1, len(content), 997):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match="refuses"):
            hemline.load(path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "damaged", "message"),
    [
        (b"\x01x", b"\x01\xff", r"bad\.onnx holds a name that is not UTF-8"),
        # ONNX Runtime cannot decode its own message, and its fallback would print on stdout.
        (b"Softmax", b"Softm\xffx", r"ONNX Runtime refuses .*bad\.onnx: 'utf-8' codec"),
    ],
)
def test_an_onnx_file_with_names_that_are_no_text(
    foreign_onnx: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: bytes,
    damaged: bytes,
    message: str,
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(foreign_onnx.read_bytes().replace(name, damaged))
    with pytest.raises(ModelFileError, match=message):
        hemline.load(path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_a_folder_is_no_model_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"folder{suffix}"
    path.mkdir()
    with pytest.raises(ModelFileError, match="Is a directory"):
        hemline.load(path)


def test_several_inputs(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "y"], ["z"])],
        "g",
        [value(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"],
        [value("z", onnx.TensorProto.FLOAT, [1])],
    )
    path = tmp_path / "two.onnx"
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    with pytest.raises(ModelFileError, match=r"two\.onnx has 2 inputs, expected exactly one"):
        hemline.load(path)


def test_core_ml_needs_a_mac(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(
        EngineUnavailableError,
        match=r"Core ML runs on macOS only, and this is linux: separable\.float16\.mlpackage "
        r"cannot run here; use the model's \.tflite or \.onnx file",
    ):
        hemline.load(exported / "separable.float16.mlpackage")


@pytest.mark.parametrize("threads", [0, -1])
def test_threads(exported: Path, threads: int) -> None:
    with pytest.raises(InputError, match=f"threads must be at least 1, got {threads}"):
        hemline.load(exported / FILES[0], threads)


def test_bad_images_reach_no_engine(exported: Path) -> None:
    model = hemline.load(exported / FILES[0])
    with pytest.raises(InputError, match=r"images have shape \(32, 32\)"):
        model.predict(np.zeros((32, 32), np.uint8))
    bad = np.zeros((3, 28, 28), np.float32)
    bad[2, 0, 0] = np.nan
    with pytest.raises(InputError, match="no NaN"):
        model.predict(bad)


@pytest.mark.parametrize("file", FILES)
def test_threads_may_share_a_model(exported: Path, images: NDArray[np.uint8], file: str) -> None:
    model = hemline.load(exported / file)
    expected = model.predict(images).probabilities
    found: dict[int, list[bool]] = {}

    def work(number: int) -> None:
        barrier.wait()
        found[number] = [
            bool((model.predict(images).probabilities == expected).all()) for _ in range(5)
        ]

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [True] * 5 for number in range(4)}


def test_only_one_call_runs_at_a_time(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = hemline.load(exported / FILES[0])
    locked = []
    run = model.engine.run

    def watch(tensor: NDArray[np.int8]) -> NDArray[np.int8]:
        locked.append(model._lock.locked())
        return run(tensor)

    monkeypatch.setattr(model.engine, "run", watch)
    model.predict(np.zeros((2, 28, 28), np.uint8))
    assert locked == [True, True]
    assert not model._lock.locked()


def test_a_prediction() -> None:
    prediction = Prediction(
        probabilities=np.array([[0.25, 0.125, 0.625], [0.5, 0.5, 0.0]], np.float32),
        class_names=("cat", "dog", "emu"),
    )
    assert prediction.indices.tolist() == [2, 0]
    assert prediction.labels == ["emu", "cat"]
    assert prediction.top(2) == [[("emu", 0.625), ("cat", 0.25)], [("cat", 0.5), ("dog", 0.5)]]
    assert [len(row) for row in prediction.top(9)] == [3, 3]


def test_facts_from_a_manifest_go_before_those_inside(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("Trouser", "Pants"))
    model = hemline.load(folder / FILES[0])
    assert isinstance(model, Model)
    assert model.facts is not None
    assert model.facts.labels[1] == "Pants"

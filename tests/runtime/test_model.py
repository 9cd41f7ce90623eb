import shutil
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import hemline
from hemline.cli import main
from hemline.commit import commit, writing
from hemline.errors import (
    ChecksumError,
    EngineUnavailableError,
    InputError,
    ManifestError,
    ModelFileError,
)
from hemline.golden import selftest
from hemline.inspection import inspect
from hemline.model import Model, Prediction
from hemline.parity.verify import verify
from hemline.quiet import quiet
from hemline_export.backend import tensorflow

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
    # Steps are 1/256; classes in another order would differ by a tenth and more.
    assert np.abs(int8 - tflite).mean() < 0.05
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
    assert model.engine.inputs[0].shape == (None, 3)
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
    with pytest.raises(ChecksumError, match=f"{file} has SHA-256 .* restore it, or delete it and"):
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
    with pytest.raises(ModelFileError, match="is a folder, expected an ordinary file"):
        hemline.load(path)


@pytest.fixture(scope="module", params=[".tflite", ".onnx"])
def two_and_two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foreign file with the inputs x and count, and the outputs sum and twice."""
    path = tmp_path_factory.mktemp("foreign") / f"two{request.param}"
    if request.param == ".onnx":
        value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
        graph = onnx.helper.make_graph(
            [
                node("Cast", ["count"], ["c"], to=onnx.TensorProto.FLOAT),
                node("Add", ["x", "c"], ["sum"]),
                node("Add", ["count", "count"], ["twice"]),
            ],
            "g",
            [
                value("x", onnx.TensorProto.FLOAT, [2, 3]),
                value("count", onnx.TensorProto.INT32, [1]),
            ],
            [
                value("sum", onnx.TensorProto.FLOAT, [2, 3]),
                value("twice", onnx.TensorProto.INT32, [1]),
            ],
        )
        opsets = [onnx.helper.make_opsetid("", 18)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
        return path
    module = tensorflow.Module()
    module.f = tensorflow.function(
        lambda x, count: {"sum": x + tensorflow.cast(count, "float32"), "twice": count + count},
        input_signature=[
            tensorflow.TensorSpec((2, 3), "float32", "x"),
            tensorflow.TensorSpec((1,), "int32", "count"),
        ],
    )
    folder = tmp_path_factory.mktemp("saved")
    tensorflow.saved_model.save(module, str(folder), module.f)
    with quiet():
        path.write_bytes(tensorflow.lite.TFLiteConverter.from_saved_model(str(folder)).convert())
    return path


def test_several_inputs_and_outputs_go_by_name(two_and_two: Path) -> None:
    model = hemline.load(two_and_two)
    assert {(spec.name, spec.shape, spec.dtype) for spec in model.info.inputs} == {
        ("x", (2, 3), "float32"),
        ("count", (1,), "int32"),
    }
    given = {"count": np.array([5], np.int32), "x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    found = model.run_all(given)
    assert set(found) == {"sum", "twice"}
    assert found["sum"].tolist() == [[5, 6, 7], [8, 9, 10]]
    assert (found["twice"].dtype, found["twice"].tolist()) == (np.int32, [10])
    with pytest.raises(ModelFileError, match=r"has 2 inputs, expected exactly one"):
        model.run(given["x"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"takes tensors named (x, count|count, x); got none"),
        ({"x": np.zeros((2, 3), np.float32)}, r"takes tensors named .*; got x"),
        (
            {"x": np.zeros((2, 3)), "count": np.zeros(1, np.int32)},
            r"the tensor x is float64 \[2, 3\]; expected a NumPy array of float32 \[2, 3\]",
        ),
        (
            {"x": np.zeros((3, 3), np.float32), "count": np.zeros(1, np.int32)},
            r"the tensor x is float32 \[3, 3\]; expected",
        ),
        ({"x": [[0.0] * 3] * 2, "count": np.zeros(1, np.int32)}, r"the tensor x is list; expected"),
    ],
)
def test_raw_tensors_that_do_not_fit(two_and_two: Path, given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hemline.load(two_and_two).run_all(given)


def test_any_number_of_rows(tmp_path: Path) -> None:
    """LiteRT's interpreter is resized; a shape beyond what the file leaves open is refused."""
    function = tensorflow.function(
        lambda x: tensorflow.reduce_sum(x, axis=1),
        input_signature=[tensorflow.TensorSpec((None, 3), "float32", "x")],
    )
    concrete = function.get_concrete_function()
    with quiet():
        converter = tensorflow.lite.TFLiteConverter.from_concrete_functions([concrete], function)
        (tmp_path / "any.tflite").write_bytes(converter.convert())
    model = hemline.load(tmp_path / "any.tflite")
    assert model.info.inputs[0].shape == (None, 3)
    for n in (1, 4, 4, 2):
        rows = np.arange(3 * n, dtype=np.float32).reshape(n, 3)
        assert model.run(rows).tolist() == rows.sum(axis=1).tolist()
    with pytest.raises(InputError, match=r"float32 \[4, 2\]; expected .* float32 \[any, 3\]"):
        model.run(np.zeros((4, 2), np.float32))


def test_what_is_known_of_a_model(exported: Path, foreign_onnx: Path) -> None:
    with hemline.load(exported / FILES[0]) as model:
        info = model.info
    assert (info.file, info.engine) == (FILES[0], "litert")
    assert info.engine_version == version("ai-edge-litert")
    assert [spec.dtype for spec in info.inputs + info.outputs] == ["int8", "int8"]
    assert info.facts is not None
    assert info.artifact is not None
    assert (info.facts.model, info.artifact.recipe) == ("separable", "int8")
    foreign = hemline.load(foreign_onnx).info
    assert (foreign.facts, foreign.artifact) == (None, None)


def test_a_closed_model(exported: Path) -> None:
    image = np.zeros((28, 28), np.uint8)
    with hemline.load(exported / FILES[0]) as model:
        tensor = model.tensor(image)
        model.predict(image)
    for call, argument in ((model.predict, image), (model.run, tensor)):
        with pytest.raises(InputError, match=r"separable\.int8\.tflite is closed: load it again"):
            call(argument)


@pytest.mark.parametrize(
    ("engine", "file"),
    [(None, FILES[0]), ("litert-builtin", FILES[0]), ("onnxruntime", FILES[2])],
)
def test_a_folder_gives_its_int8_file_or_that_of_an_engine(
    exported: Path, engine: str | None, file: str
) -> None:
    model = hemline.load(exported, engine=engine)
    assert model.path == exported / file
    assert engine is None or model.engine.name == engine


def test_a_folder_gives_what_runs_here(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hemline.engines.litert")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert hemline.load(exported).path.name == "separable.float32.onnx"
    with pytest.raises(
        EngineUnavailableError,
        match=r"nothing in .*exported.* runs here: separable\.int8\.tflite: running \.tflite",
    ):
        hemline.load(exported, engine="litert")
    with pytest.raises(EngineUnavailableError, match="the engine tpu is for none of its files"):
        hemline.load(exported, engine="tpu")


def test_a_folder_without_a_manifest(exported: Path, tmp_path: Path) -> None:
    for found in ("0 model files, expected one: name the file to load$", None, "2 model files"):
        if found is None:
            assert hemline.load(tmp_path).path.name == FILES[0]
            shutil.copy(exported / FILES[2], tmp_path)
        else:
            with pytest.raises(ModelFileError, match=f"no manifest.json and holds {found}"):
                hemline.load(tmp_path)
            shutil.copy(exported / FILES[0], tmp_path)


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
    with pytest.raises(
        InputError, match=f"threads must be at least 1 and at most 1,024, got {threads}"
    ):
        hemline.load(exported / FILES[0], threads=threads)


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


@pytest.fixture
def cut_short(folder: Path, tmp_path: Path) -> Path:
    """A folder whose first export was killed right after its commit, before any file was moved."""
    out = tmp_path / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hemline.commit._complete", lambda _: None)
        with writing(out) as stage:
            for path in folder.iterdir():
                path.rename(stage / path.name)
            commit(stage, out)
    assert [path.name for path in out.iterdir()] == [".hemline-commit"]
    return out


def test_a_first_export_that_was_killed_after_its_commit(cut_short: Path, few: Path) -> None:
    image = np.zeros((28, 28), np.uint8)
    with hemline.load(cut_short) as model:
        assert model.path == cut_short / "separable.int8.tflite"
        assert model.predict(image).labels
    for file in FILES:
        assert hemline.load(cut_short / file).predict(image).labels
        assert inspect(cut_short / file).manifest == "matches"
    assert set(selftest(cut_short).verdicts()) == {"PASS"}
    assert verify(cut_short, str(few)).data.count == 200
    assert main(["bench", str(cut_short), "--rounds", "1"]) == 0
    assert [path.name for path in cut_short.iterdir()] == [".hemline-commit"]


def test_the_k_likeliest(exported: Path) -> None:
    prediction = hemline.load(exported / FILES[0]).predict(np.zeros((28, 28), np.uint8))
    assert [len(prediction.top(k)[0]) for k in (1, 10, 11)] == [1, 10, 10]
    for k in (0, -1):
        with pytest.raises(InputError, match=f"are 1 or more, got {k}"):
            prediction.top(k)


def test_arrays_of_other_kinds_than_the_plain_one(exported: Path) -> None:
    model = hemline.load(exported / FILES[0])
    image = np.arange(784, dtype=np.uint8).reshape(28, 28)
    expected = model.predict(image).probabilities
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(image)
    assert (model.predict(matrix).probabilities == expected).all()
    with pytest.raises(InputError, match="a masked array: fill what is masked"):
        model.predict(np.ma.masked_equal(image, 3))
    for other in (image.tolist(), image.astype(">f4"), None):
        with pytest.raises(InputError):
            model.predict(other)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["n" * 256 + ".tflite", "a\0b.tflite", "f/x.tflite"])
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(ModelFileError, match=r"(cannot read|there is no model file) "):
        hemline.load(tmp_path / name)

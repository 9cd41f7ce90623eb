import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

import hemline
from hemline.cli import main
from hemline.documents import encode
from hemline.engines.litert import LiteRTEngine
from hemline.errors import ChecksumError, EngineUnavailableError, InputError, ManifestError
from hemline.facts import InputFacts, ModelFacts, Preprocessing
from hemline.files import sha256
from hemline.golden import (
    SCHEMA,
    TOLERANCES,
    draw_inputs,
    golden_of_artifact,
    inputs_sha256,
    output_scale,
    read_golden,
    selftest,
)
from hemline.manifest import read_manifest, write_manifest
from hemline.tensors import ImageReader, OutputReader

RELEASED = Path(__file__).parents[2] / "artifacts" / "fashion_mnist"
FLOAT32, INT8 = "separable.float32.tflite", "separable.int8.tflite"


def facts_of(shape: tuple[int, ...], *, pixels: bool = True) -> InputFacts:
    return InputFacts(
        name="image",
        shape=shape,
        minimum=-1.0,
        maximum=1.0,
        preprocessing=Preprocessing(mean=127.5, std=127.5) if pixels else None,
    )


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def change_golden(folder: Path, **changes: Any) -> None:
    """Changes golden.json, and what the manifest says of it."""
    manifest = read_manifest(folder)
    golden = replace(read_golden(folder, manifest), **changes)
    (folder / "golden.json").write_bytes(encode(SCHEMA, golden))
    write_manifest(folder, replace(manifest, golden_sha256=sha256(folder / "golden.json")))


def put(folder: Path, file: str, content: bytes, *, in_golden: bool = False) -> None:
    """Puts another file in an artifact's place and its SHA-256 into the manifest."""
    (folder / file).write_bytes(content)
    digest, manifest = sha256(folder / file), read_manifest(folder)
    artifacts = [
        replace(a, sha256=digest, size_bytes=len(content)) if a.file == file else a
        for a in manifest.artifacts
    ]
    write_manifest(folder, replace(manifest, artifacts=tuple(artifacts)))
    if in_golden:
        parts = read_golden(folder, manifest).artifacts
        parts = tuple(replace(p, sha256=digest if p.file == file else p.sha256) for p in parts)
        change_golden(folder, artifacts=parts)


def flip_weight_bit(content: bytes, bit: int) -> bytes:
    """Flips one bit in a large weight of the last layer: one of those that matter to an output."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    dense = next(
        operator
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode
        == schema.BuiltinOperator.FULLY_CONNECTED
    )
    tensor = graph.tensors[dense.inputs[1]]
    weights = model.buffers[tensor.buffer].data.tobytes()
    assert content.count(weights) == 1
    dtype = np.dtype(np.int8 if tensor.type == schema.TensorType.INT8 else np.float32)
    sizes = np.abs(np.frombuffer(weights, dtype).astype(float))
    # The top bit of an exponent multiplies by 2¹²⁸ below 2, and divides by it above.
    largest = np.where((sizes < 2) | (dtype == np.int8), sizes, 0).argmax()
    changed = bytearray(content)
    changed[content.index(weights) + largest * dtype.itemsize + bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize(
    ("shape", "pixels", "count", "digest"),
    [
        ((28, 28, 1), True, 16, "c1dbecab702f3b4bc559ed1dc8662c0e71047553bf50a64d7cb98b3e055f1971"),
        (
            (28, 28, 1),
            False,
            16,
            "716819662cb527c6c21f23851b8037a49a3672fdd2111a8a406135cc6ea0e537",
        ),
        ((50, 40, 3), True, 3, "fc4c7496340fde2cb951fa7d5d8b95f7ddb04ce2511c42b4c8bfecc3bdacfd6b"),
        ((100,), True, 2, "60ab7a14f1d1a73e5a4c1067e562d09020b5f4e2b9c5ab4032332abc4eedf93d"),
        ((98, 40), False, 2, "8dd9633ce8321e311e5f1de66a39c37156e35d5f8a81d78d2019fc48fd5856a1"),
    ],
)
def test_inputs_are_the_same_bits_everywhere(
    shape: tuple[int, ...], pixels: bool, count: int, digest: str
) -> None:
    inputs = draw_inputs(facts_of(shape, pixels=pixels), seed=0, count=count)
    assert inputs.shape == (count, *shape)
    assert inputs.dtype == (np.uint8 if pixels else np.float32)
    assert inputs_sha256(inputs) == digest


def test_the_bytes_of_the_inputs() -> None:
    inputs = draw_inputs(facts_of((28, 28, 1)))
    assert hashlib.sha256(inputs.tobytes()).hexdigest() == (
        "c95d5dbe4253dcaa82c925eb6adccf83ba4e8cb305bc77459790ddc7110f5343"
    )

    def drawn(cells: int, across: int) -> NDArray[np.int64]:
        text = f"hemline.golden/1 0 0 {cells}".encode()
        values = np.frombuffer(hashlib.shake_256(text).digest(across**2), np.uint8)
        return values.reshape(across, across).astype(int)

    # Input 0: cells of 7, 4 and 1 pixels in parts of 5, 2 and 1, black where the 4s are below 64.
    coarse, middle, fine = drawn(4, 4), drawn(9, 7), drawn(64, 28)
    black = 0
    for y, x in np.ndindex(28, 28):
        parts = 5 * coarse[y // 7, x // 7] + 2 * middle[y // 4, x // 4] + fine[y, x]
        black += middle[y // 4, x // 4] < 64
        assert inputs[0, y, x, 0] == (parts // 8 if middle[y // 4, x // 4] >= 64 else 0)
    assert black > 50


def test_inputs_differ_and_have_structure() -> None:
    inputs = draw_inputs(facts_of((28, 28, 1)))
    assert len({image.tobytes() for image in inputs}) == 16
    assert (draw_inputs(facts_of((28, 28, 1)), seed=1) != inputs).any(axis=(1, 2, 3)).all()
    assert inputs.max() > 240
    # Between a flat picture and noise.
    dark = (inputs == 0).mean(axis=(1, 2, 3))
    assert dark.min() > 0.1
    assert dark.max() < 0.98
    neighbours = np.abs(np.diff(inputs.astype(int), axis=1)).mean(axis=(1, 2, 3))
    assert (neighbours < 60).all()


def test_float_inputs_fill_the_range() -> None:
    inputs = draw_inputs(facts_of((28, 28, 1), pixels=False))
    assert inputs.min() == -1.0
    assert 0.9 < inputs.max() <= 1.0


def test_channels_are_drawn_apart() -> None:
    image = draw_inputs(facts_of((32, 32, 3)), count=1)[0]
    assert (image[..., 0] != image[..., 1]).any()


def test_a_folder_that_is_whole(exported: Path) -> None:
    told: list[str] = []
    report = selftest(exported, told.append)
    assert (report.model, report.seed, report.count) == ("separable", 0, 16)
    assert report.verdicts()[:3] == ["PASS", "PASS", "PASS"]
    assert told[0] == f"selftest {FLOAT32}"
    first, int8 = report.artifacts[:2]
    assert first.engine == f"litert {LiteRTEngine.version()}"
    assert first.reason == "all outputs lie within 0.0001 of the golden ones"
    assert (first.tolerance, int8.tolerance) == (1e-4, 0.2)
    # Rounded to 6 digits.
    assert first.max_change is not None
    assert first.max_change <= 1e-6
    assert first.max_change_from_float is not None
    assert first.max_change_from_float <= 1e-5
    assert int8.max_change_from_float is not None
    assert int8.max_change_from_float > 1e-3
    assert first.mismatches == ()


def test_core_ml_is_judged_by_the_reference(exported: Path) -> None:
    result = selftest(exported).artifacts[3]
    assert (result.engine.split()[0], result.verdict) == ("coreml-reference", "PASS")
    assert result.max_change is not None


def test_core_ml_is_not_run_without_coremltools(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    result = selftest(exported).artifacts[3]
    assert (result.engine, result.verdict) == ("coreml", "NOT_RUN")
    assert "coremltools" in result.reason
    assert result.tolerance is result.max_change is None


def test_an_engine_that_was_missing_at_the_export(folder: Path) -> None:
    golden = read_golden(folder, read_manifest(folder))
    change_golden(folder, artifacts=golden.artifacts[1:])
    result = selftest(folder).artifacts[0]
    assert result.verdict == "NOT_RUN"
    assert result.reason == (
        "golden.json has no answers of it, since litert did not run where it was exported"
    )


def test_an_engine_that_is_missing_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_model(path: Path, *args: Any, **options: Any) -> hemline.Model:
        if path.suffix == ".onnx":
            raise EngineUnavailableError("no ONNX Runtime")
        return hemline.model.open_model(path, *args, **options)

    monkeypatch.setattr("hemline.parity.execution.open_model", open_model)
    report = selftest(folder)
    assert report.verdicts()[:3] == ["PASS", "PASS", "NOT_RUN"]
    assert report.artifacts[2].reason == "no ONNX Runtime"


@pytest.mark.parametrize("in_golden", [False, True])
@pytest.mark.parametrize(("file", "bit"), [(FLOAT32, 30), (INT8, 7)])
def test_a_flipped_weight_bit_behind_an_edited_manifest(
    folder: Path, file: str, bit: int, in_golden: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    put(folder, file, flip_weight_bit((folder / file).read_bytes(), bit), in_golden=in_golden)
    report = selftest(folder)
    assert [a.file for a in report.artifacts if a.verdict == "FAIL"] == [file]
    (result,) = [a for a in report.artifacts if a.verdict == "FAIL"]
    assert result.mismatches
    assert ("golden.json is of a file with SHA-256" in result.reason) != in_golden
    capsys.readouterr()
    assert main(["selftest", str(folder)]) == 1
    out = capsys.readouterr().out
    first = result.mismatches[0]
    assert f"{file}: FAIL: sample {first.sample}, {first.label}: found " in out
    assert f"± {result.tolerance:g}; {len(result.mismatches)} of 16 samples differ" in out


def test_a_file_swapped_for_one_that_answers_the_same(folder: Path) -> None:
    content = (folder / FLOAT32).read_bytes()
    put(folder, FLOAT32, content + bytes(16))
    result = selftest(folder).artifacts[0]
    assert result.verdict == "FAIL"
    assert result.mismatches == ()
    assert result.reason.startswith("golden.json is of a file with SHA-256 ")


def break_outputs(monkeypatch: pytest.MonkeyPatch, call: int, change: Any) -> None:
    """Changes one of the outputs of the float32 file in LiteRT."""
    run, calls = LiteRTEngine.run, []

    def broken(engine: LiteRTEngine, tensor: NDArray[Any]) -> NDArray[Any]:
        output = run(engine, tensor)
        if output.dtype == np.float32:
            calls.append(1)
            if len(calls) == call:
                output = change(output.copy())
        return output

    monkeypatch.setattr(LiteRTEngine, "run", broken)


def test_nan_is_a_mismatch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(output: NDArray[Any]) -> NDArray[Any]:
        output[0, 4] = np.nan
        return output

    break_outputs(monkeypatch, 6, change)
    result = selftest(folder).artifacts[0]
    assert result.verdict == "FAIL"
    assert [(m.sample, m.label, m.found) for m in result.mismatches] == [(5, "Coat", None)]
    assert result.reason.startswith("sample 5, Coat: found NaN or infinity, expected 0.")
    assert result.max_change is result.max_change_from_float is None
    assert json.loads(encode("x", result))["mismatches"][0]["found"] is None


def test_nan_at_the_export_is_no_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(folder)

    def change(output: NDArray[Any]) -> NDArray[Any]:
        return np.full_like(output, np.inf)

    inputs = draw_inputs(manifest.model.input)
    with monkeypatch.context() as patched:
        break_outputs(patched, 3, change)
        model = hemline.load(folder / FLOAT32)
        broken = golden_of_artifact(manifest.artifacts[0], model, inputs, 1.0)
    assert broken.outputs[2] is None
    others = read_golden(folder, manifest).artifacts[1:]
    change_golden(folder, artifacts=(broken, *others))
    result = selftest(folder).artifacts[0]
    assert result.verdict == "FAIL"
    assert [(m.sample, m.expected) for m in result.mismatches] == [(2, None)]
    assert ", expected NaN or infinity ± 0.0001; 1 of 16 samples differ" in result.reason


def test_the_tolerance_is_held_to(folder: Path) -> None:
    golden = read_golden(folder, read_manifest(folder))
    first, *others = golden.artifacts
    assert first.outputs[3] is not None
    for shift, verdict in ((0.9e-4, "PASS"), (1.1e-4, "FAIL")):
        row = (*first.outputs[3][:-1], first.outputs[3][-1] + shift)
        moved = (*first.outputs[:3], row, *first.outputs[4:])
        change_golden(folder, artifacts=(replace(first, outputs=moved), *others))
        result = selftest(folder).artifacts[0]
        assert result.verdict == verdict
        assert result.max_change == pytest.approx(shift, abs=1e-6)
    assert [(m.sample, m.label) for m in result.mismatches] == [(3, "Ankle boot")]


def test_permuted_labels_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "manifest.json"
    model = json.loads(path.read_bytes())["model"]
    model["labels"][2:4] = reversed(model["labels"][2:4])
    edit(path, model=model)
    message = (
        rf"{FLOAT32}: model.labels\[2\] is 'Dress' in its manifest and 'Pullover' inside the file"
    )
    with pytest.raises(ManifestError, match=message):
        selftest(folder)
    assert main(["selftest", str(folder)]) == 2
    assert "model.labels[2]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("index", "part", "key", "value", "message"),
    [
        (1, "output", "name", "p", rf"{INT8}: artifact.output.name is 'p' in its"),
        (2, "toolchain", "onnx", "0", r"onnx: artifact.toolchain.onnx is '0' in its manifest and"),
        (3, "toolchain", "extra", "1", r"mlpackage: artifact.toolchain.extra is '1' .* and None"),
        (1, "calibration", None, None, rf"{INT8}: artifact.calibration is None in its manifest"),
    ],
)
def test_edited_facts_are_refused(
    folder: Path, index: int, part: str, key: str | None, value: Any, message: str
) -> None:
    path = folder / "manifest.json"
    artifacts = json.loads(path.read_bytes())["artifacts"]
    if key is None:
        artifacts[index]["facts"][part] = value
    else:
        artifacts[index]["facts"][part][key] = value
    edit(path, artifacts=artifacts)
    with pytest.raises(ManifestError, match=message):
        selftest(folder)


def test_a_file_without_facts_is_refused(folder: Path) -> None:
    content = (folder / FLOAT32).read_bytes()
    put(folder, FLOAT32, content.replace(b"hemline.facts\0", b"another.facts\0"))
    with pytest.raises(ManifestError, match=f"{FLOAT32} is listed in its manifest, but holds no"):
        selftest(folder)


def test_facts_are_read_with_the_engine_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "coremltools", "tensorflow"):
        monkeypatch.setitem(sys.modules, package, None)
    assert selftest(folder).verdicts()[:3] == ["PASS"] * 3
    path = folder / "manifest.json"
    for index, file in ((3, "float16.mlpackage"), (2, "float32.onnx")):
        artifacts = json.loads(path.read_bytes())["artifacts"]
        artifacts[index]["facts"]["margin_pt"] = 5.0
        edit(path, artifacts=artifacts)
        with pytest.raises(
            ManifestError, match=rf"{file}: artifact\.margin_pt is 5\.0 in its manifest"
        ):
            selftest(folder)


def test_an_artifact_of_another_training_run_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    artifacts = json.loads(path.read_bytes())["artifacts"]
    artifacts[1]["facts"]["parent_sha256"] = "12" * 32
    edit(path, artifacts=artifacts)
    with pytest.raises(ManifestError, match=rf"{INT8} was made from .*an artifact of another"):
        selftest(folder)
    # Stating the parent that the manifest wants does not help: the file itself knows better.
    artifacts[1]["facts"]["parent_sha256"] = sha256(folder / "separable.float.keras")
    artifacts[1]["facts"]["margin_pt"] = 9.0
    edit(path, artifacts=artifacts)
    with pytest.raises(ManifestError, match=r"artifact\.margin_pt is 9\.0 in its manifest"):
        selftest(folder)


@pytest.mark.parametrize(
    "file", ["separable.float.keras", INT8, "separable.float16.mlpackage", "golden.json"]
)
def test_a_changed_file_is_refused(folder: Path, file: str) -> None:
    path = folder / file
    changed = path / "Manifest.json" if path.is_dir() else path
    changed.write_bytes(changed.read_bytes() + b"\n")
    with pytest.raises(ChecksumError, match=f"{file} has (SHA-256|.* bytes)"):
        selftest(folder)


def test_a_folder_without_golden_vectors(folder: Path) -> None:
    edit(folder / "manifest.json", golden_sha256=None)
    with pytest.raises(ManifestError, match="names no golden vectors"):
        selftest(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"count": 0, "rows": 0},
            "expected 1 to 1024 inputs and a seed from 0 on, got 0 of seed 0",
        ),
        ({"count": 10**9}, "expected 1 to 1024 inputs"),
        ({"seed": -1}, "got 16 of seed -1"),
        ({"seed": 2**70}, "expected a whole number of 64 bits"),
    ],
)
def test_a_forged_golden_json(
    folder: Path, changes: dict[str, int], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "golden.json"
    document = json.loads(path.read_bytes())
    if "rows" in changes:
        for part in (document["float_model"], *document["artifacts"]):
            part["outputs"] = []
    path.write_text(json.dumps(document | {k: v for k, v in changes.items() if k != "rows"}))
    edit(folder / "manifest.json", golden_sha256=sha256(path))
    capsys.readouterr()
    assert main(["selftest", str(folder)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("mean", "std"),
    [(1e300, 1.0), (-1e300, 1.0), (3.4e38, 0.1), (0.0, 1e300), (0.0, 1e-300), (0.0, 1e-38)],
)
def test_preprocessing_that_float32_does_not_hold(
    folder: Path, mean: float, std: float, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    document["model"]["input"]["preprocessing"] |= {"mean": mean, "std": std}
    path.write_text(json.dumps(document))
    capsys.readouterr()
    for command in (["selftest", folder], ["predict", folder, folder / "none.npy"]):
        assert main(list(map(str, command))) == 2
        err = capsys.readouterr().err
        assert "preprocessing needs a finite mean and a std above 0, in float32 too" in err
        assert err.count("\n") == 1


def test_golden_vectors_of_something_else(folder: Path) -> None:
    golden = read_golden(folder, read_manifest(folder))

    def refuse(message: str, **changes: Any) -> None:
        change_golden(folder, **changes)
        with pytest.raises(ManifestError, match=message):
            selftest(folder)
        # What is refused cannot be read to change it back.
        (folder / "golden.json").write_bytes(encode(SCHEMA, golden))
        manifest = read_manifest(folder)
        write_manifest(folder, replace(manifest, golden_sha256=sha256(folder / "golden.json")))

    refuse(
        "belongs to another training run", float_model=replace(golden.float_model, sha256="0" * 64)
    )
    first, *others = golden.artifacts
    refuse(
        r"files that the manifest does not list: \{'x.onnx'\}",
        artifacts=(replace(first, file="x.onnx"),),
    )
    short = tuple(row[:9] for row in first.outputs if row)
    refuse(
        f"{FLOAT32} does not have 10 numbers in each row",
        artifacts=(replace(first, outputs=short), *others),
    )
    refuse("the inputs drawn from seed 1 have SHA-256", seed=1)
    refuse("another version of Hemline wrote it", inputs_sha256="0" * 64)


def test_impossible_vectors(folder: Path) -> None:
    golden = read_golden(folder, read_manifest(folder))
    with pytest.raises(ValueError, match=r"separable\.float\.keras has 16 rows, expected 15"):
        replace(golden, count=15)
    for tolerance in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="a tolerance must be above 0 and finite"):
            replace(golden.artifacts[0], tolerance=tolerance)


def probabilities(path: Path, model: ModelFacts, kernels: OpResolverType) -> NDArray[np.float32]:
    opened = hemline.load(path).engine
    read = ImageReader(model.input, opened.inputs[0])
    outputs = OutputReader(opened.outputs[0], model.output_shape)
    interpreter = Interpreter(str(path), experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    rows = []
    for image in draw_inputs(model.input):
        interpreter.set_tensor(
            interpreter.get_input_details()[0]["index"], read.tensor(image[np.newaxis])
        )
        interpreter.invoke()
        (output,) = interpreter.get_output_details()
        rows.append(outputs.read(interpreter.get_tensor(output["index"]))[0])
    return np.stack(rows)


@pytest.mark.parametrize("name", ["cnn", "gru"])
@pytest.mark.parametrize("recipe", ["float32", "int8"])
def test_tolerances_leave_room_for_other_kernels(name: str, recipe: str, tmp_path: Path) -> None:
    # Alone, a file is read by the facts inside it.
    path = tmp_path / f"{name}.{recipe}.tflite"
    shutil.copyfile(RELEASED / name / path.name, path)
    model = hemline.load(path)
    facts = model.require_facts()
    fast = model.predict(draw_inputs(facts.input)).probabilities
    # Several of the ten classes are reached, and most answers are unsure enough to move.
    assert len(set(fast.argmax(axis=1))) >= 4
    assert (fast.max(axis=1) < 0.99).mean() > 0.5
    # Seen on x86-64 with LiteRT 2.3.0: 1.2e-6 and 0.105 for the CNN, 6.3e-7 and 0.086 for the GRU.
    for kernels in (
        OpResolverType.BUILTIN_REF,
        OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    ):
        change = np.abs(probabilities(path, facts, kernels) - fast).max()
        assert change < TOLERANCES[recipe] * 0.75


def test_the_scale_of_tolerances(model_facts: ModelFacts) -> None:
    outputs = np.array([[2.0, 3.0, np.nan], [2.5, 4.0, np.inf]], np.float32)
    assert output_scale(model_facts, outputs) == 1.0
    tensors = replace(model_facts, task="tensors", labels=(), floor_accuracy=None)
    # The range holds 0 and leaves out what is not finite.
    assert output_scale(tensors, outputs) == 1.0
    assert output_scale(tensors, -2 * outputs) == 2.0
    assert output_scale(tensors, outputs - np.float32(3)) == 0.5
    assert output_scale(tensors, np.zeros((2, 3), np.float32)) == 1.0


def test_inputs_that_no_memory_holds() -> None:
    with pytest.raises(InputError, match="have 17,179,869,184 elements; at most 268,435,456 are"):
        draw_inputs(facts_of((4096, 4096, 1)), 0, 1024)

import json
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import hemline
from hemline.documents import decode, encode
from hemline.engines.litert import LiteRTEngine
from hemline.engines.mil_operations import COMPUTATIONS
from hemline.errors import (
    ChecksumError,
    DataError,
    EngineUnavailableError,
    InputError,
    ManifestError,
    ModelFileError,
)
from hemline.parity.judgement import explain, score
from hemline.parity.measures import calibration_error, mean_kl, sqnr_db
from hemline.parity.paired import compare_paired
from hemline.parity.verify import SCHEMA, ParityReport, verify
from hemline.samples import resolve_samples

# Linux on x86-64 has it.
MICRO = ("micro",) if find_spec("tflite_micro") else ()


@pytest.fixture
def ready(verified: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder that holds the float predictions on `few`."""
    return Path(shutil.copytree(verified, tmp_path / "ready"))


@pytest.fixture(scope="module")
def whole(exported: Path, garments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the exported folder with a parity.json on all 6,000 test samples."""
    copy = tmp_path_factory.mktemp("whole") / "exported"
    shutil.copytree(exported, copy)
    report = verify(copy, str(garments / "test.npz"), keep_predictions=True)
    (copy / "parity.json").write_bytes(encode(SCHEMA, report))
    return copy


def read(folder: Path) -> ParityReport:
    return decode(SCHEMA, ParityReport, (folder / "parity.json").read_bytes(), "parity.json")


def save(path: Path, images: NDArray[Any], labels: NDArray[Any]) -> str:
    np.savez(path, images=images, labels=labels)
    return str(path)


def load_few(few: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with np.load(few) as data:
        return data["images"], data["labels"]


def forbid_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(**_: str) -> list[Any]:
        return []

    monkeypatch.setattr("importlib.metadata.entry_points", none)


def test_float32_artifacts_pass(whole: Path) -> None:
    report = read(whole)
    assert report.model == "separable"
    assert (report.data.source, report.data.split, report.data.count) == ("test.npz", "file", 6000)
    assert report.float_model.verdict == "PASS"
    assert report.float_model.floor_accuracy == 0.5
    by_file = {artifact.file: artifact for artifact in report.artifacts}
    assert list(by_file) == [
        "separable.float32.tflite",
        "separable.int8.tflite",
        "separable.float32.onnx",
        "separable.float16.mlpackage",
    ]
    for file in ("separable.float32.tflite", "separable.float32.onnx"):
        result = by_file[file]
        assert result.verdict == "PASS"
        assert result.reason.startswith("with 95 % confidence delta is above −0.05 points (")
        assert result.agreement is not None
        assert result.agreement > 0.999
        assert result.max_probability_change is not None
        assert result.max_probability_change < 1e-3
    assert report.verdicts() == ["PASS", *(artifact.verdict for artifact in report.artifacts)]


def test_core_ml_is_judged_by_a_reference_here(whole: Path) -> None:
    result = read(whole).artifacts[3]
    assert (result.engine, result.recipe) == ("coreml-reference", "float16")
    assert result.is_reference
    # Ten rounding steps of 2⁻¹¹ decide between two classes less than a hundredth apart, and 0.1
    # points, the margin, are six samples: luck.
    assert result.paired is not None
    assert result.verdict == result.paired.verdict
    assert result.reason.endswith("(a reference evaluation, not Apple hardware)")
    assert result.agreement is not None
    assert result.agreement > 0.99


def test_a_verdict_without_coremltools_is_not_run(
    whole: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    result = verify(whole, str(few)).artifacts[3]
    assert (result.engine, result.verdict) == ("coreml", "NOT_RUN")
    assert "pip install coremltools" in result.reason
    assert result.accuracy is result.loss is result.agreement is result.paired is None


def test_an_operation_that_the_reference_does_not_know_is_not_run(
    whole: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(COMPUTATIONS, "softmax")
    result = verify(whole, str(few)).artifacts[3]
    assert (result.engine, result.verdict) == ("coreml", "NOT_RUN")
    assert "does not know the operation 'softmax'" in result.reason


def test_the_measures_are_those_of_the_predictions(whole: Path, garments: Path) -> None:
    with np.load(garments / "test.npz") as data:
        images, labels = data["images"], data["labels"]
    with np.load(whole / "float_predictions.npz") as data:
        reference = data["outputs"]
    report = read(whole)
    float_right = np.array(
        [row.argmax() == label for row, label in zip(reference, labels, strict=True)]
    )
    assert report.float_model.accuracy == float_right.mean()
    for result in report.artifacts[:3]:
        found = hemline.load(whole / result.file).predict(images).probabilities
        right = np.array([row.argmax() == label for row, label in zip(found, labels, strict=True)])
        assert result.accuracy == right.mean()
        of_label = [max(float(row[label]), 1e-7) for row, label in zip(found, labels, strict=True)]
        assert result.loss == pytest.approx(-np.mean(np.log(of_label)), rel=1e-9)
        assert result.agreement == (found.argmax(1) == reference.argmax(1)).mean()
        assert result.max_probability_change == np.abs(found - reference).max()
        manifest = json.loads((whole / "manifest.json").read_bytes())
        margin_pt = next(
            a["facts"]["margin_pt"] for a in manifest["artifacts"] if a["file"] == result.file
        )
        assert result.paired == compare_paired(
            n=6000,
            b=int((float_right & ~right).sum()),
            c=int((~float_right & right).sum()),
            margin_pt=margin_pt,
        )
        assert result.verdict == result.paired.verdict


def test_scores() -> None:
    probabilities = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], np.float32)
    accuracy, loss = score(probabilities, np.array([0, 1, 2]))
    assert accuracy == pytest.approx(2 / 3)
    # −(ln 0.5 + ln 1 + ln 1e-7) / 3, with Keras's floor for the last.
    assert loss == pytest.approx((0.6931471805599453 + 16.11809565095832) / 3)


def test_reasons() -> None:
    passed = compare_paired(n=10_000, b=0, c=0, margin_pt=0.3)
    assert explain(passed) == "with 95 % confidence delta is above −0.3 points (-0.027)"
    failed = compare_paired(n=10_000, b=100, c=0, margin_pt=0.5)
    assert explain(failed).startswith("with 95 % confidence delta is below −0.5 points (-0.8")
    open_ = compare_paired(n=100, b=0, c=0, margin_pt=0.3)
    assert explain(open_) == (
        "delta may lie on either side of −0.3 points; 900 samples like these would settle it"
    )
    never = compare_paired(n=1000, b=3, c=0, margin_pt=0.3)
    assert "no number of samples" in explain(never)


def test_the_float_predictions_are_kept_and_used_again(
    exported: Path, ready: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported, fresh := ready.parent / "fresh")
    told: list[str] = []
    first = verify(fresh, str(few), told.append)
    assert told[0] == "run separable.float.keras in Keras"
    # Nobody asked to keep them.
    assert not (fresh / "float_predictions.npz").exists()
    assert verify(fresh, str(few), keep_predictions=True) == first
    assert (fresh / "float_predictions.npz").is_file()
    forbid_keras(monkeypatch)
    told.clear()
    assert verify(fresh, str(few), told.append) == first
    files = [artifact.file for artifact in first.artifacts]
    twice = [file for file in files for _ in range(1 + file.endswith(".tflite"))]
    if MICRO:
        twice.insert(4, "separable.int8.tflite")
    assert told == [
        f"run {len(twice)} times 200 samples",
        *(f"ran {file}" for file in twice),
        *(f"judge {file}" for file in files),
    ]


def test_the_first_samples_alone(
    ready: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = load_few(few)
    alone = verify(ready, save(tmp_path / "alone.npz", images[:50], labels[:50]))
    # The float predictions kept are those of all samples.
    forbid_keras(monkeypatch)
    found = verify(ready, str(few), count=50)
    assert found.data == replace(alone.data, source="few.npz")
    # Keras may add up 50 samples otherwise than 200, so what is compared with it differs in the
    # last digits; counts do not.
    for one, other in zip(found.artifacts, alone.artifacts, strict=True):
        assert (one.file, one.verdict, one.agreement, one.paired) == (
            other.file,
            other.verdict,
            other.agreement,
            other.paired,
        )
        assert (one.accuracy, one.loss, one.audit) == (other.accuracy, other.loss, other.audit)
        assert one.max_probability_change == pytest.approx(other.max_probability_change, abs=1e-5)
    assert verify(ready, str(few), count=1000).data.count == 200


def test_other_samples_need_keras(
    ready: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = load_few(few)
    other = save(tmp_path / "other.npz", images[:50], labels[:50])
    kept = (ready / "float_predictions.npz").read_bytes()

    def no_keras(*_: Any, **__: Any) -> hemline.Model:
        raise EngineUnavailableError("no Keras")

    with monkeypatch.context() as patched:
        patched.setattr("hemline.parity.verify.open_model", no_keras)
        with pytest.raises(
            EngineUnavailableError,
            match=r"float_predictions\.npz holds no predictions of the float model on these "
            r"samples, and Keras is not installed to compute them",
        ):
            verify(ready, other)
    assert (ready / "float_predictions.npz").read_bytes() == kept
    assert verify(ready, other).data.count == 50
    assert (ready / "float_predictions.npz").read_bytes() == kept


def test_predictions_of_another_float_model_are_not_used(
    ready: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ready / "float_predictions.npz"
    with np.load(path) as data:
        key, probabilities = data["key"], data["outputs"]
    key[0] = "0" * 64
    np.savez(path, key=key, outputs=probabilities[:, ::-1])
    forbid_keras(monkeypatch)
    with pytest.raises(ModelFileError, match=r"nothing runs files ending in '\.keras'"):
        verify(ready, str(few))


def damaged_predictions(content: bytes) -> dict[str, bytes]:
    start = content.index(b"outputs.npy") + 40
    wrong_deflate = bytearray(content)
    wrong_deflate[start : start + 60] = b"\xff" * 60
    return {
        "empty": b"",
        "garbage": b"garbage",
        "truncated": content[: len(content) // 2],
        "deflate": bytes(wrong_deflate),
    }


@pytest.mark.parametrize("kind", ["empty", "garbage", "truncated", "deflate"])
def test_damaged_float_predictions(ready: Path, few: Path, kind: str) -> None:
    path = ready / "float_predictions.npz"
    path.write_bytes(damaged_predictions(path.read_bytes())[kind])
    with pytest.raises(
        DataError, match=r"float_predictions\.npz is damaged \(.*\); delete it, it is made anew"
    ):
        verify(ready, str(few))


def test_float_predictions_of_the_wrong_kind(ready: Path, few: Path) -> None:
    path = ready / "float_predictions.npz"
    with np.load(path) as data:
        key, probabilities = data["key"], data["outputs"]
    for arrays in (
        {"key": key},
        {"key": key, "outputs": probabilities[:-1]},
        {"key": key, "outputs": probabilities.astype(np.float64)},
        {"key": key, "outputs": probabilities * np.float32("nan")},
        {"key": key, "outputs": probabilities + np.float32("inf")},
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match="is damaged"):
            verify(ready, str(few))
    np.save(path.with_suffix(".npy"), probabilities)
    path.with_suffix(".npy").replace(path)
    with pytest.raises(DataError, match="is damaged"):
        verify(ready, str(few))


def test_predictions_that_cannot_be_kept_are_no_failure(
    exported: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported, folder := tmp_path / "exported")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("hemline.parity.verify.FLOAT_PREDICTIONS", "../file/float_predictions.npz")
    monkeypatch.setattr("hemline.parity.verify._read_predictions", lambda *_: None)
    told: list[str] = []
    assert verify(folder, str(few), told.append, keep_predictions=True).data.count == 200
    assert any(text.startswith("the float predictions are not kept: cannot") for text in told)


def test_calibration_samples_in_the_test_data(
    ready: Path, few: Path, garments: Path, tmp_path: Path
) -> None:
    images, labels = load_few(few)
    with np.load(garments / "train.npz") as data:
        seen = data["images"]
    drawn = np.random.default_rng(0).choice(len(seen), 100, replace=False)
    images[[3, 5]] = seen[drawn[[0, 99]]]
    leaky = save(tmp_path / "leaky.npz", images, labels)
    with pytest.raises(
        DataError,
        match="2 test samples were used for calibration, the first is sample 3: "
        "a test on them proves nothing",
    ):
        verify(ready, leaky)
    images = load_few(few)[0].reshape(200, 28, 28)
    images[7] = seen[drawn[50]].reshape(28, 28)
    with pytest.raises(DataError, match=r"1 test samples .* the first is sample 7"):
        verify(ready, save(tmp_path / "leaky.npz", images, labels))


@pytest.mark.parametrize(
    "file", ["separable.float.keras", "separable.int8.tflite", "separable.float16.mlpackage"]
)
def test_a_changed_file_is_refused(ready: Path, few: Path, file: str) -> None:
    path = ready / file
    if path.is_dir():
        path = next(file for file in path.rglob("*.mlmodel"))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match=f"{file} has SHA-256"):
        verify(ready, str(few))


def test_a_manifest_that_disagrees_with_a_file_is_refused(ready: Path, few: Path) -> None:
    path = ready / "manifest.json"
    document = json.loads(path.read_bytes())
    document["model"]["labels"].reverse()
    path.write_text(json.dumps(document))
    with pytest.raises(
        ManifestError,
        match=r"float32\.tflite: model\.labels\[0\] is 'Ankle boot' in its manifest and "
        r"'T-shirt/top' inside the file",
    ):
        verify(ready, str(few))


def test_a_missing_file(ready: Path, few: Path) -> None:
    (ready / "separable.float32.onnx").unlink()
    with pytest.raises(ModelFileError, match=r"float32\.onnx is named in its manifest, but"):
        verify(ready, str(few))


def test_a_folder_without_a_manifest(tmp_path: Path, few: Path) -> None:
    with pytest.raises(ManifestError, match=r"has no manifest\.json"):
        verify(tmp_path, str(few))


def test_a_float_model_below_its_floor_fails(restate: Any, ready: Path, few: Path) -> None:
    restate(ready, lambda f: replace(f, model=replace(f.model, floor_accuracy=0.999)))
    assert verify(ready, str(few)).float_model.verdict == "FAIL"
    restate(ready, lambda f: replace(f, model=replace(f.model, floor_accuracy=None)))
    assert verify(ready, str(few)).float_model.verdict == "PASS"


def test_nan_in_the_outputs_fails(ready: Path, few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = LiteRTEngine.run, []

    def broken(engine: LiteRTEngine, tensor: NDArray[Any]) -> NDArray[Any]:
        output = run(engine, tensor)
        if output.dtype == np.float32 and type(engine) is LiteRTEngine:
            calls.append(1)
            if len(calls) in (38, 41):
                output = np.where(np.arange(10) == 4, np.float32("nan"), output)
        return output

    monkeypatch.setattr(LiteRTEngine, "run", broken)
    result = verify(ready, str(few)).artifacts[0]
    assert result.file == "separable.float32.tflite"
    assert result.verdict == "FAIL"
    assert result.reason == "NaN or infinity in the outputs of 2 samples, first sample 37"
    assert result.accuracy is None
    assert result.paired is None


def test_classes_in_another_order_do_not_pass(
    ready: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = LiteRTEngine.run
    monkeypatch.setattr(LiteRTEngine, "run", lambda self, tensor: np.roll(run(self, tensor), 1))
    report = verify(ready, str(few))
    assert [artifact.verdict for artifact in report.artifacts[:2]] == ["FAIL", "FAIL"]
    assert report.artifacts[0].agreement == 0.0


def test_labels_in_another_order_do_not_pass(ready: Path, few: Path, tmp_path: Path) -> None:
    images, labels = load_few(few)
    permuted = save(tmp_path / "permuted.npz", images, (labels + 1) % 10)
    report = verify(ready, permuted)
    assert report.float_model.accuracy < 0.5
    assert report.float_model.verdict == "FAIL"


@pytest.mark.parametrize("label", [10, -1])
def test_labels_out_of_range(ready: Path, few: Path, tmp_path: Path, label: int) -> None:
    images, labels = load_few(few)
    labels[17] = label
    with pytest.raises(
        DataError, match=rf"bad\.npz has labels .*{label}.*, the model has classes 0 to 9"
    ):
        verify(ready, save(tmp_path / "bad.npz", images, labels))


def test_images_of_another_shape(ready: Path, tmp_path: Path) -> None:
    data = save(tmp_path / "big.npz", np.zeros((2, 32, 32), np.uint8), np.array([0, 1]))
    with pytest.raises(InputError, match=r"images have shape \(2, 32, 32\); expected"):
        verify(ready, data)


def test_a_report_is_read_back(ready: Path, few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_keras(monkeypatch)
    report = verify(ready, str(few))
    assert decode(SCHEMA, ParityReport, encode(SCHEMA, report), "p") == report
    assert report.data.sha256 == resolve_samples(str(few), None, "test").sha256()


def test_every_measure_is_the_one_of_its_name(exported: Path, garments: Path, whole: Path) -> None:
    with np.load(garments / "test.npz") as data:
        images, labels = data["images"], data["labels"].astype(np.int64)
    reference = hemline.load(exported / "separable.float.keras").predict(images).probabilities
    found = hemline.load(exported / "separable.int8.tflite").predict(images).probabilities
    (int8,) = [a for a in read(whole).artifacts if a.recipe == "int8"]
    assert int8.mean_kl == pytest.approx(mean_kl(reference, found), rel=1e-3)
    assert int8.sqnr_db == pytest.approx(sqnr_db(reference, found), abs=0.01)
    assert int8.max_probability_change == pytest.approx(np.abs(found - reference).max(), abs=1e-5)
    assert int8.calibration_error_change == pytest.approx(
        calibration_error(found, labels) - calibration_error(reference, labels), abs=1e-5
    )
    assert int8.error_growth is not None
    assert int8.error_growth.artifact_errors == int((found.argmax(1) != labels).sum())
    assert sum(change.n for change in int8.classes) == 6000
    assert sum(change.b for change in int8.classes) == int8.paired.b


def test_a_lost_softmax_fails_though_no_class_changes(
    ready: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = hemline.Model.outputs

    def give_logits(model: hemline.Model, images: NDArray[Any]) -> NDArray[np.float32]:
        found = outputs(model, images)
        if model.path.name == "separable.float32.onnx":
            np.log(found, out=found)
        return found

    monkeypatch.setattr(hemline.Model, "outputs", give_logits)
    results = {a.file: a for a in verify(ready, str(few), margin_pt=50.0).artifacts}
    broken = results["separable.float32.onnx"]
    assert broken.verdict == "FAIL"
    assert broken.reason.startswith("the outputs are no probabilities: those of sample 0 sum to -")
    assert results["separable.float32.tflite"].verdict == "PASS"


def test_the_chain_leads_from_keras_to_each_file_and_on_to_a_second_engine(whole: Path) -> None:
    chains = {
        artifact.file: [(step.name, step.source, step.target) for step in artifact.steps]
        for artifact in read(whole).artifacts
    }
    keras, lite = "separable.float.keras", "separable.float32.tflite"
    exported = ("float export", keras, lite)
    assert chains == {
        lite: [exported, ("engine litert-builtin", lite, f"{lite} in litert-builtin")],
        "separable.int8.tflite": [
            exported,
            ("int8", lite, "separable.int8.tflite"),
            *(
                (f"engine {engine}", "separable.int8.tflite", f"separable.int8.tflite in {engine}")
                for engine in ("litert-builtin", *MICRO)
            ),
        ],
        "separable.float32.onnx": [("float export", keras, "separable.float32.onnx")],
        "separable.float16.mlpackage": [("float16", keras, "separable.float16.mlpackage")],
    }


@pytest.mark.skipif(not MICRO, reason="tflite-micro is for Linux on x86-64")
def test_a_microcontroller_runs_the_first_samples_only(whole: Path) -> None:
    (int8,) = [a for a in read(whole).artifacts if a.file == "separable.int8.tflite"]
    (micro,) = [step for step in int8.steps if step.name == "engine micro"]
    assert micro.count == 100
    # Kernels differ by a step of a grid, which decides where two classes are as close.
    assert micro.agreement is not None
    assert micro.agreement > 0.9
    assert {step.count for step in int8.steps if step is not micro} == {int8.paired.n}


def test_what_the_steps_cost_adds_up(whole: Path) -> None:
    for artifact in read(whole).artifacts:
        own = [step.delta_pt for step in artifact.steps if not step.name.startswith("engine")]
        assert artifact.paired is not None
        assert sum(own) == pytest.approx(artifact.paired.delta_pt, abs=1e-9)


def test_a_failure_says_which_step_costs_it(
    ready: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = hemline.Model.outputs

    def give_other_classes(model: hemline.Model, images: NDArray[Any]) -> NDArray[np.float32]:
        found = outputs(model, images)
        return np.roll(found, 1, axis=1) if model.path.name == "separable.int8.tflite" else found

    monkeypatch.setattr(hemline.Model, "outputs", give_other_classes)
    (int8,) = [a for a in verify(ready, str(few)).artifacts if a.recipe == "int8"]
    assert int8.verdict == "FAIL"
    assert int8.reason.endswith(": the recipe int8 costs the most")


def test_nan_has_no_chain_and_can_be_recorded(
    ready: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = hemline.Model.outputs

    def break_one(model: hemline.Model, images: NDArray[Any]) -> NDArray[np.float32]:
        found = outputs(model, images)
        if model.path.name == "separable.float32.tflite":
            found[5] = np.nan
        return found

    monkeypatch.setattr(hemline.Model, "outputs", break_one)
    report = verify(ready, str(few))
    assert decode(SCHEMA, ParityReport, encode(SCHEMA, report), "parity.json") == report
    chains = {a.file: [step.name for step in a.steps] for a in report.artifacts}
    assert chains["separable.float32.tflite"] == []
    assert chains["separable.int8.tflite"] == [
        "int8",
        *(f"engine {engine}" for engine in ("litert-builtin", *MICRO)),
    ]

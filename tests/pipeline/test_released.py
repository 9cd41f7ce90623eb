"""The released artifacts, held to the float models on the real test set.

The requirements are the published results that the reference models reproduce: see README.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from hemline.documents import read_document
from hemline.golden import read_golden, selftest
from hemline.manifest import Manifest, read_manifest
from hemline.model import load
from hemline.parity.paired import Verdict
from hemline.parity.verify import FLOAT_PREDICTIONS, ParityReport, verify
from hemline.samples import Samples, resolve_samples
from hemline_train.report import FILE_NAME, SCHEMA, TrainingReport

RELEASED = Path(__file__).parents[2] / "artifacts" / "fashion_mnist"

# Least accuracy, greatest loss, and the most bytes of the int8 TFLite file.
REQUIRED = {"cnn": (0.919, 0.243, 375_000), "gru": (0.897, 0.296, 230_000)}
# The least delta of every file with int8 in its name, in percentage points.
LEAST_DELTA_PT = -0.3

pytestmark = pytest.mark.data


@pytest.fixture(scope="module", params=sorted(REQUIRED))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def manifest(name: str) -> Manifest:
    return read_manifest(RELEASED / name)


@pytest.fixture(scope="module")
def samples(manifest: Manifest, real_data_folder: Path) -> Samples:
    return resolve_samples(str(real_data_folder), manifest.model.dataset, "test")


@pytest.fixture(scope="module")
def parity(
    name: str, real_data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> ParityReport:
    """A verification that runs the float model in Keras, whatever predictions were released."""
    folder = tmp_path_factory.mktemp("released") / name
    shutil.copytree(RELEASED / name, folder)
    (folder / FLOAT_PREDICTIONS).unlink()
    return verify(folder, str(real_data_folder))


def test_the_float_model_reproduces_the_published_result(name: str, parity: ParityReport) -> None:
    accuracy, loss, _ = REQUIRED[name]
    assert parity.data.count == 10_000
    assert parity.float_model.accuracy >= accuracy
    assert parity.float_model.loss <= loss
    assert parity.float_model.floor_accuracy == accuracy
    assert parity.float_model.verdict == Verdict.PASS


def test_training_json_says_the_same(name: str, parity: ParityReport) -> None:
    training = read_document(RELEASED / name / FILE_NAME, SCHEMA, TrainingReport)
    assert training.preset == "full"
    assert training.evaluation.accuracy == parity.float_model.accuracy
    assert training.evaluation.loss == pytest.approx(parity.float_model.loss, abs=1e-5)
    assert training.keras_sha256 == parity.float_model.sha256


def test_every_artifact_that_runs_here_passes(name: str, parity: ParityReport) -> None:
    core_ml = "coreml" if sys.platform == "darwin" else "coreml-reference"
    recipes = {
        "litert": {"float32", "float16", "dynamic", "int8", "int16x8", "int8-qat"},
        "onnxruntime": {"float32", "int8"},
        # The GRU's palette is not released: docs/quantization.md.
        core_ml: {"float16", "int8w", "pal4"} if name == "cnn" else {"float16", "int8w"},
    }
    found = {(a.engine, a.recipe): a.verdict for a in parity.artifacts}
    assert found == {(e, recipe): Verdict.PASS for e in recipes for recipe in recipes[e]}


def test_int8_stays_within_its_bound(parity: ParityReport) -> None:
    deltas = {a.file: a.paired.delta_pt for a in parity.artifacts if a.paired}
    int8 = {file: delta for file, delta in deltas.items() if "int8" in file}
    assert len(int8) == 4
    assert {file: delta for file, delta in int8.items() if delta < LEAST_DELTA_PT} == {}


def test_int8_is_small_and_all_integers(
    name: str, manifest: Manifest, parity: ParityReport
) -> None:
    sizes = {artifact.file: artifact.size_bytes for artifact in manifest.artifacts}
    assert sizes[f"{name}.int8.tflite"] <= REQUIRED[name][2]
    for artifact in parity.artifacts:
        if artifact.recipe in ("int8", "int8-qat", "int16x8") and artifact.engine == "litert":
            assert artifact.audit is not None
            assert artifact.audit.integer_operators == artifact.audit.operators > 10
            assert artifact.audit.integer_macs == artifact.audit.macs > 1_000_000


def test_the_released_predictions_are_the_float_model_s_own(
    name: str, samples: Samples, manifest: Manifest
) -> None:
    with np.load(RELEASED / name / FLOAT_PREDICTIONS) as archive:
        released, key = archive["outputs"], archive["key"]
    assert key.tolist() == [manifest.float_model.sha256, samples.sha256()]
    recomputed = load(RELEASED / name / manifest.float_model.file).predict(samples.images)
    # Another processor may add in another order.
    np.testing.assert_allclose(released, recomputed.probabilities, atol=1e-5)


def test_the_golden_vectors_are_answered(name: str, manifest: Manifest) -> None:
    golden = read_golden(RELEASED / name, manifest)
    assert {"litert", "onnxruntime"} <= {part.engine.split()[0] for part in golden.artifacts}
    assert Verdict.FAIL not in selftest(RELEASED / name).verdicts()


def test_no_file_is_over_the_limit_or_holds_a_test_image(name: str, samples: Samples) -> None:
    # The pictures' own bytes, raw; 28 rows without a blank one are no accident.
    needle = next(image.tobytes() for image in samples.images if (image.max(axis=(1, 2)) > 0).all())
    for path in (RELEASED / name).rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert len(content) < 4_000_000, path
            assert needle not in content, path

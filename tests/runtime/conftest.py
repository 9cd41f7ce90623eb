"""What the tests of the runtime share: small documents, and folders to change at will."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hemline.artifact_facts import (
    EMBEDDED_SCHEMA,
    ArtifactFacts,
    CalibrationFacts,
    EmbeddedFacts,
    IntegerPromise,
)
from hemline.benchmark.latency import summarize_latency
from hemline.benchmark.report import SCHEMA as BENCH_SCHEMA
from hemline.benchmark.report import BenchReport, FileBench
from hemline.benchmark.timing import Clock, Schedule
from hemline.documents import encode, write_document
from hemline.facts import DatasetRef, InputFacts, ModelFacts, Preprocessing, QuantParams, TensorSpec
from hemline.files import sha256, size_bytes
from hemline.golden import SCHEMA as GOLDEN_SCHEMA
from hemline.golden import Golden, GoldenArtifact, GoldenFloat
from hemline.host import Host, Machine
from hemline.manifest import Artifact, FloatModel, Manifest, read_manifest, write_manifest
from hemline.parity.paired import compare_paired
from hemline.parity.verify import SCHEMA as PARITY_SCHEMA
from hemline.parity.verify import ArtifactParity, DataRecord, FloatParity, ParityReport, verify
from hemline_export.recipes import RECIPES

Restate = Callable[[Path, Callable[[EmbeddedFacts], EmbeddedFacts]], None]


@pytest.fixture(autouse=True)
def no_core_ml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides Core ML on a Mac, so that these tests say the same everywhere.

    The real thing is tested in tests/pipeline/test_coreml.py.
    """
    monkeypatch.setattr("hemline.engines.coreml.sys", SimpleNamespace(platform="linux"))


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder."""
    return Path(shutil.copytree(exported, tmp_path / "exported"))


@pytest.fixture(scope="session")
def few(garments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file with the first 200 test samples."""
    path = tmp_path_factory.mktemp("few") / "few.npz"
    with np.load(garments / "test.npz") as data:
        np.savez(path, images=data["images"][:200], labels=data["labels"][:200])
    return path


@pytest.fixture(scope="session")
def verified(exported: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported folder, with the float model's predictions on `few`. Copy it to change it."""
    copy = tmp_path_factory.mktemp("verified") / "exported"
    shutil.copytree(exported, copy)
    verify(copy, str(few), keep_predictions=True)
    return copy


@pytest.fixture(scope="session")
def restate() -> Restate:
    """Changes what an exported folder says of itself, in its manifest and inside every file."""

    def restate(folder: Path, change: Callable[[EmbeddedFacts], EmbeddedFacts]) -> None:
        manifest = read_manifest(folder)
        model, artifacts = manifest.model, []
        for artifact in manifest.artifacts:
            path = folder / artifact.file
            facts = change(EmbeddedFacts(model=manifest.model, artifact=artifact.facts))
            embed = next(recipe.embed for recipe in RECIPES if recipe.suffix == path.suffix)
            embed(path, encode(EMBEDDED_SCHEMA, facts))
            artifacts.append(
                replace(
                    artifact,
                    sha256=sha256(path),
                    size_bytes=size_bytes(path),
                    facts=facts.artifact,
                )
            )
            model = facts.model
        write_manifest(folder, replace(manifest, model=model, artifacts=tuple(artifacts)))

    return restate


@pytest.fixture
def model_facts() -> ModelFacts:
    return ModelFacts(
        model="toy",
        task="classification",
        labels=("cat", "dog", "émeu"),
        input=InputFacts(
            name="image",
            shape=(2, 2, 1),
            minimum=0.0,
            maximum=1.0,
            preprocessing=Preprocessing(mean=0.0, std=255.0),
        ),
        output_name="probabilities",
        output_shape=(3,),
        dataset=DatasetRef(name="pets", split_seed=7),
        floor_accuracy=0.75,
        ceiling_loss=None,
    )


@pytest.fixture
def artifact_facts() -> ArtifactFacts:
    return ArtifactFacts(
        recipe="int8",
        engine="litert",
        parent_sha256="ab" * 32,
        input=TensorSpec(
            name="image",
            shape=(None, 2, 2, 1),
            dtype="int8",
            quantization=QuantParams(scale=0.5, zero_point=-128),
        ),
        output=TensorSpec(name="probabilities", shape=(None, 3), dtype="float32"),
        margin_pt=0.3,
        margin_loss_percent=None,
        least_sqnr_db=None,
        least_cosine=None,
        calibration=CalibrationFacts(
            source="pets", split="train", seed=0, count=1, indices_sha256="cd" * 32
        ),
        integers=IntegerPromise(operators=1.0, macs=1.0),
        settings={},
        toolchain={"hemline": "0.1.0"},
    )


@pytest.fixture
def empty_bench() -> BenchReport:
    """A benchmark of nothing yet."""
    host = Host(cpu="x", cores=2, machine="m", system="s", python="3.11", packages={"numpy": "2"})
    return BenchReport(
        machine=Machine(host=host, cpu_flags="avx2 sse2", governor=None),
        clock=Clock(name="time.perf_counter_ns", resolution_ns=1.0, overhead_ns=40.0),
        schedule=Schedule(warmup_calls=1, calls_per_round=3, rounds=1),
        load_before=None,
        load_after=None,
        files=(),
        peers=(),
        not_run={},
    )


@pytest.fixture
def file_bench() -> FileBench:
    """The benchmark of a file, whose every call took a microsecond."""
    return FileBench(
        file="toy.int8.tflite",
        engine="litert 2",
        sha256="12" * 32,
        size_bytes=8,
        recipe="int8",
        parent_sha256="ab" * 32,
        threads=1,
        batch=1,
        cold_ns=5000,
        bare=summarize_latency([5], [1000] * 40, 20),
        predict=None,
        predict_ratio=None,
        image_ns=1000.0,
        peer_ratios={},
        speed=None,
        first_answer=None,
    )


@pytest.fixture
def build(
    tmp_path: Path,
    model_facts: ModelFacts,
    artifact_facts: ArtifactFacts,
    empty_bench: BenchReport,
    file_bench: FileBench,
) -> Path:
    """A build with one model folder, `toy`, whose verdicts pass; its model files are fakes."""
    folder = tmp_path / "build" / "toy"
    (folder / "toy.float16.mlpackage").mkdir(parents=True)
    (folder / "toy.float16.mlpackage" / "Manifest.json").write_text("{}")
    (folder / "toy.float.keras").write_bytes(b"floats")
    (folder / "toy.int8.tflite").write_bytes(b"integers")
    (folder / "training.json").write_text("{}")
    (folder / "float_predictions.npz").write_bytes(b"predictions")
    files = ("toy.int8.tflite", "toy.float16.mlpackage")
    digests = [sha256(folder / file) for file in files]
    float_model = FloatModel(
        file="toy.float.keras",
        sha256=sha256(folder / "toy.float.keras"),
        size_bytes=6,
        parameters=9,
    )
    golden = Golden(
        seed=0,
        count=1,
        inputs_sha256="ab" * 32,
        float_model=GoldenFloat(
            file=float_model.file, sha256=float_model.sha256, outputs=((0.5, 0.25, 0.25),)
        ),
        artifacts=(
            GoldenArtifact(
                file=files[0],
                sha256=digests[0],
                engine="litert 2",
                tolerance=0.2,
                outputs=((0.5, 0.25, 0.25),),
            ),
        ),
    )
    write_document(folder / "golden.json", GOLDEN_SCHEMA, golden)
    artifact_facts = replace(artifact_facts, parent_sha256=float_model.sha256)
    manifest = Manifest(
        model=model_facts,
        float_model=float_model,
        calibration_sample_sha256=("0123456789abcdef",),
        artifacts=tuple(
            Artifact(
                file=file, sha256=digest, size_bytes=size_bytes(folder / file), facts=artifact_facts
            )
            for file, digest in zip(files, digests, strict=True)
        ),
        omitted={},
        golden_sha256=sha256(folder / "golden.json"),
    )
    write_manifest(folder, manifest)
    host = Host(cpu="x", cores=2, machine="m", system="s", python="3.11", packages={})
    parity = ParityReport(
        model="toy",
        task="classification",
        data=DataRecord(source="pets", split="test", count=10_000, sha256="ef" * 32),
        host=host,
        margin_override_pt=None,
        margin_override_loss_percent=None,
        float_model=FloatParity(
            file=float_model.file,
            sha256=float_model.sha256,
            accuracy=0.91234,
            loss=0.25,
            calibration_error=0.01,
            floor_accuracy=0.75,
            ceiling_loss=None,
            verdict="PASS",
        ),
        artifacts=(
            ArtifactParity(
                file=files[0],
                recipe="int8",
                engine="litert",
                sha256=digests[0],
                verdict="PASS",
                reason="fine",
                accuracy=0.9118,
                loss=0.26,
                agreement=0.99,
                max_probability_change=0.1,
                paired=compare_paired(n=10_000, b=9, c=4, margin_pt=0.3),
            ),
            ArtifactParity(
                file=files[1],
                recipe="float16",
                engine="coreml",
                sha256=digests[1],
                verdict="NOT_RUN",
                reason="no Mac",
            ),
        ),
    )
    write_document(folder / "parity.json", PARITY_SCHEMA, parity)
    bench = replace(
        empty_bench,
        files=(
            replace(
                file_bench,
                file=files[0],
                sha256=digests[0],
                bare=summarize_latency([5], [1000, 1000, 1000], 1),
                predict=summarize_latency([5], [4000, 4400, 9000], 1),
            ),
        ),
        not_run={files[1]: "no Mac"},
    )
    write_document(folder / "bench.json", BENCH_SCHEMA, bench)
    return tmp_path / "build"

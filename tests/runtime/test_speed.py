from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hemline.bench import BenchReport, FileBench, summarize_latency
from hemline.facts import ArtifactFacts
from hemline.host import Host
from hemline.manifest import Artifact
from hemline.report import format_speed
from hemline.speed import compare_rounds, judge_speeds

HOST = Host(cpu="x", cores=2, machine="m", system="s", python="3.11", packages={})
ROUNDS, CALLS = 20, 5


def latency(median: float, noise: float, seed: int, drift: Any = 1.0) -> Any:
    random = np.random.default_rng(seed)
    times = median * random.lognormal(0, noise, (ROUNDS, CALLS)) * drift
    return summarize_latency([1], times.astype(int).ravel().tolist())


def timed(file: str, sha256: str, samples: Any) -> FileBench:
    return FileBench(
        file=file,
        engine="litert 2",
        sha256=sha256,
        size_bytes=1,
        bare=samples,
        predict=None,
        predict_ratio=None,
    )


def report(*files: FileBench) -> BenchReport:
    return BenchReport(
        host=HOST,
        threads=1,
        load_before=None,
        clock_resolution_ns=1.0,
        warmup_calls=1,
        rounds=ROUNDS,
        calls_per_round=CALLS,
        files=files,
        not_run={},
    )


def test_a_ratio_of_rounds() -> None:
    ratio, low, high = compare_rounds(latency(3e5, 0.05, 0), latency(1e5, 0.05, 1), ROUNDS)
    assert low < 3 < high
    assert ratio == pytest.approx(3, rel=0.05)
    assert high - low < 0.3


def test_drift_that_both_meet_cancels() -> None:
    # The machine gets ten times slower on the way.
    drift = np.geomspace(1, 10, ROUNDS)[:, np.newaxis]
    ratio, low, high = compare_rounds(
        latency(3e5, 0.01, 0, drift), latency(1e5, 0.01, 1, drift), ROUNDS
    )
    assert 2.9 < low <= ratio <= high < 3.1


@pytest.mark.parametrize("seed", range(3))
def test_two_equal_files_are_not_told_apart(seed: int) -> None:
    _, low, high = compare_rounds(latency(1e5, 0.1, seed), latency(1e5, 0.1, 100 + seed), ROUNDS)
    assert low < 1.05
    assert high > 0.95


def test_each_engine_has_its_own_float_file(artifact_facts: ArtifactFacts) -> None:
    def artifact(recipe: str, engine: str, sha256: str) -> Artifact:
        facts = replace(artifact_facts, recipe=recipe, engine=engine)
        return Artifact(file=f"{recipe}.{engine}", sha256=sha256, size_bytes=1, facts=facts)

    artifacts = (
        artifact("int8", "litert", "a"),
        artifact("float16", "litert", "b"),
        artifact("float32", "litert", "c"),
        artifact("int8", "onnxruntime", "d"),
        artifact("float16", "coreml", "e"),
        artifact("pal4", "coreml", "f"),
        artifact("int16x8", "litert", "g"),
    )
    medians = {"a": 1e5, "b": 2.94e5, "c": 3e5, "d": 1e5, "e": 2e5, "f": 1e5}
    files = [timed(s, s, latency(m, 0.02, i)) for i, (s, m) in enumerate(medians.items())]
    found = judge_speeds(artifacts, report(*files))
    assert [(s.file, s.reference, s.verdict) for s in found] == [
        ("int8.litert", "float32.litert", "faster"),
        ("float16.litert", "float32.litert", "size only"),
        # No float file in ONNX Runtime, so no ratio for it; and int16x8 was not timed.
        ("pal4.coreml", "float16.coreml", "faster"),
    ]
    assert format_speed(replace(found[0], ratio=2.987)) == "2.99× faster"

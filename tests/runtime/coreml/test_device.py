"""Child processes that answer, crash, hang and babble; and the real worker where it can run."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hemline.benchmark.report import FileBench
from hemline.benchmark.timing import Schedule
from hemline.coreml import device as coreml_device
from hemline.coreml import worker as coreml_worker
from hemline.coreml.device import ask_child, plan_package, run_package
from hemline.coreml.plan import ComputePlan, OpPlacement
from hemline.documents import from_json, to_json
from hemline.engines.coreml import CoreMLEngine
from hemline.errors import ChecksumError, ManifestError
from hemline.facts import ModelFacts
from hemline.listing import Listed
from hemline.parity.execution import Job, run_jobs

PLAN = ComputePlan(
    compute_units="ALL",
    operations=(
        OpPlacement(
            operator="ios16.conv",
            output="a",
            preferred="NeuralEngine",
            supported=("CPU", "NeuralEngine"),
            cost=1.0,
        ),
    ),
    neural_engine_operations=1.0,
    neural_engine_cost=1.0,
)
SAY = "import json, os, signal, sys, time\ndef say(**a): print(json.dumps(a), flush=True)\n"
PACKAGE = Path("a.mlpackage")


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the child run a script instead; it finds `say` there."""

    def put(script: str) -> None:
        monkeypatch.setattr(
            "hemline.child.command_of",
            lambda _, arguments: [sys.executable, "-c", SAY + script, *arguments],
        )

    return put


def test_an_answer(child: Any) -> None:
    child(f"say(begin='load'); say(plan={to_json(PLAN)!r}); say(done=True)")
    assert plan_package(PACKAGE, "ALL") == (PLAN, None)


def test_what_the_child_is_told(child: Any) -> None:
    child("say(timing=sys.argv[1:]); say(done=True)")
    answer = ask_child(PACKAGE, "CPU_ONLY", ["--timing", "1", "2", "3"])
    assert answer.failure is None
    assert answer.results == {
        "timing": ["a.mlpackage", "CPU_ONLY", "--timing", "1", "2", "3"],
    }


def test_a_child_that_is_killed_while_it_predicts(child: Any) -> None:
    child(
        "say(begin='load'); say(begin='plan'); say(plan={'kept': 1}); say(begin='timing')\n"
        "print('noise', file=sys.stderr)\n"
        "print('ANECCompile() FAILED', file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    answer = ask_child(PACKAGE, "ALL", ["--plan"])
    assert answer.failure == (
        "its process was killed by SIGKILL while timing it; its last words: ANECCompile() FAILED"
    )
    # What it found out before is not lost.
    assert answer.results == {"plan": {"kept": 1}}


def test_a_child_that_aborts_before_it_says_anything(child: Any) -> None:
    child("os.abort()")
    plan, reason = plan_package(PACKAGE, "ALL")
    assert plan is None
    assert reason is not None
    assert reason.startswith("its process was killed by SIGABRT while starting")


def test_a_child_that_fails(child: Any) -> None:
    child("say(begin='load'); sys.exit(3)")
    answer = ask_child(PACKAGE, "ALL", [])
    assert answer.failure == "its process ended with status 3 while loading it"


def test_a_child_that_ends_early(child: Any) -> None:
    child("say(begin='plan')")
    answer = ask_child(PACKAGE, "ALL", [])
    assert answer.failure == "its process ended with status 0 while planning it"


def test_a_child_that_hangs_is_stopped_with_its_children(child: Any, tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    grandchild = f"import time, pathlib; time.sleep(4); pathlib.Path({str(mark)!r}).touch()"
    child(
        "import subprocess\n"
        "say(begin='load')\n"
        f"subprocess.Popen([sys.executable, '-c', {grandchild!r}])\n"
        "time.sleep(600)"
    )
    start = time.monotonic()
    answer = ask_child(PACKAGE, "ALL", [], time_limit_s=2)
    assert time.monotonic() - start < 60
    assert answer.failure == (
        "its process did not end within 2 s while loading it, and was stopped"
    )
    time.sleep(4)
    assert not mark.exists()


def test_the_time_limit_there_is_by_default(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coreml_device, "TIME_LIMIT_S", 0.5)
    child("time.sleep(600)")
    assert "within 0.5 s" in str(ask_child(PACKAGE, "ALL", []).failure)


@pytest.mark.parametrize("garbage", ["Segmentation something", "12", "[1]", "{"])
def test_a_child_that_babbles(child: Any, garbage: str) -> None:
    child(f"say(begin='load'); print({garbage!r})")
    answer = ask_child(PACKAGE, "ALL", [])
    assert answer.failure == f"its process said {garbage!r}, not JSON"


IMAGES = np.zeros((3, 28, 28), np.uint8)


def test_outputs_come_back(child: Any) -> None:
    child(
        "import numpy as np\n"
        "i = sys.argv.index('--outputs'); images = np.load(sys.argv[i + 1])\n"
        "np.save(sys.argv[i + 2], np.ones((len(images), 2), np.float32)); say(outputs=3)\n"
        "say(done=True)"
    )
    found, answer = run_package(PACKAGE, "CPU_AND_NE", IMAGES, expected_sha256="ab")
    assert answer.failure is None
    assert found is not None
    assert found.tolist() == [[1.0, 1.0]] * 3


@pytest.mark.parametrize(
    ("script", "crashed"),
    [
        ("say(begin='outputs'); os.kill(os.getpid(), signal.SIGKILL)", True),
        ("say(error={'kind': 'ModelFileError', 'message': 'no way'}); sys.exit(2)", False),
    ],
)
def test_a_package_that_cannot_run_takes_only_its_child_along(
    child: Any,
    monkeypatch: pytest.MonkeyPatch,
    model_facts: ModelFacts,
    script: str,
    crashed: bool,
) -> None:
    child(script)
    monkeypatch.setattr("hemline.engines.coreml.sys", SimpleNamespace(platform="darwin"))
    listed = Listed(sha256="ab", size_bytes=1, model=model_facts)
    (run,) = run_jobs([Job(path=PACKAGE, listed=listed, engine=None)], IMAGES)
    assert (run.engine, run.outputs, run.crashed) == ("coreml", None, crashed)
    assert ("killed by SIGKILL while running it" if crashed else "no way") in run.reason


def test_an_answer_of_another_form(child: Any) -> None:
    child("say(plan={'operations': 3}); say(done=True)")
    with pytest.raises(ManifestError, match=r"the compute plan of a\.mlpackage: .*missing keys"):
        plan_package(PACKAGE, "ALL")


def test_a_crash_after_the_answer_is_none(child: Any) -> None:
    child(f"say(plan={to_json(PLAN)!r}); say(done=True); os.abort()")
    assert plan_package(PACKAGE, "ALL") == (PLAN, None)


def test_errors_that_are_results(child: Any) -> None:
    for kind in ("EngineUnavailableError", "ModelFileError"):
        child(f"say(error={{'kind': {kind!r}, 'message': 'no way'}}); sys.exit(2)")
        assert plan_package(PACKAGE, "ALL") == (None, "no way")


def test_errors_that_are_errors_here_too(child: Any) -> None:
    child("say(error={'kind': 'ChecksumError', 'message': 'changed'}); sys.exit(2)")
    with pytest.raises(ChecksumError, match="changed"):
        plan_package(PACKAGE, "ALL")


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac runs it: tests/pipeline/test_coreml.py")
def test_the_real_worker_away_from_a_mac(exported: Path) -> None:
    plan, reason = plan_package(exported / "separable.float16.mlpackage", "ALL")
    assert plan is None
    assert str(reason).startswith("Core ML runs on macOS only")


def test_the_real_worker_and_a_changed_package(folder: Path) -> None:
    package = folder / "separable.float16.mlpackage"
    (package / "more").write_bytes(b"changed")
    with pytest.raises(ChecksumError, match=r"separable\.float16\.mlpackage has 13,\d+ bytes"):
        plan_package(package, "ALL")


class Opened:
    """What the worker loads, without Core ML."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, file_bench: FileBench) -> None:
        self.calls: list[Any] = []
        engine = object.__new__(CoreMLEngine)
        monkeypatch.setattr(CoreMLEngine, "compiled_path", lambda _: "/c")
        snapshot = SimpleNamespace(sha256="ab")
        model = SimpleNamespace(engine=engine, outputs=self.outputs, snapshot=snapshot)

        def load(file: Path, *, compute_units: str, trust: bool) -> Any:
            # What runs in a child needs no other.
            assert trust
            self.calls.append(("load", file, compute_units))
            return model

        def plan(compiled: str, compute_units: str) -> ComputePlan:
            self.calls.append(("plan", compiled, compute_units))
            return PLAN

        def time_it(_: Any, schedule: Schedule, batch: int) -> FileBench:
            self.calls.append((schedule, batch))
            return file_bench

        monkeypatch.setattr(coreml_worker, "load", load)
        monkeypatch.setattr(coreml_worker, "read_plan", plan)
        monkeypatch.setattr(coreml_worker, "bench_model", time_it)

    def outputs(self, images: Any) -> Any:
        self.calls.append(("outputs", images.shape))
        return np.full((len(images), 2), 0.5, np.float32)


def test_the_steps_of_the_worker(
    file_bench: FileBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened, said = Opened(monkeypatch, file_bench), []
    files = (tmp_path / "images.npy", tmp_path / "outputs.npy")
    np.save(files[0], np.zeros((4, 2, 2), np.uint8))
    coreml_worker.work(PACKAGE, "CPU_ONLY", True, [5, 6, 7, 8], files, said.append)
    assert opened.calls == [
        ("load", PACKAGE, "CPU_ONLY"),
        ("plan", "/c", "CPU_ONLY"),
        (Schedule(warmup_calls=5, calls_per_round=6, rounds=7), 8),
        ("outputs", (4, 2, 2)),
    ]
    assert np.load(files[1]).tolist() == [[0.5, 0.5]] * 4
    steps = [key for answer in said for key in answer]
    assert steps == ["begin", "begin", "plan", "begin", "timing", "begin", "outputs"]
    begun = [answer["begin"] for answer in said if "begin" in answer]
    assert begun == ["load", "plan", "timing", "outputs"]
    assert said[2]["plan"] == to_json(PLAN)
    timed = from_json(FileBench, said[4]["timing"], "timing")
    assert timed.bare == file_bench.bare
    assert timed.first_answer is not None
    assert timed.first_answer.load_ns > 0
    assert timed.first_answer.first_call_ns == file_bench.cold_ns


def test_the_worker_does_what_it_is_asked_only(
    file_bench: FileBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, said = Opened(monkeypatch, file_bench), []
    coreml_worker.work(PACKAGE, "ALL", False, None, None, said.append)
    assert opened.calls == [("load", PACKAGE, "ALL")]
    assert said == [{"begin": "load"}]
    with pytest.raises(ChecksumError, match=r"a\.mlpackage has SHA-256 ab…, its manifest says cd"):
        coreml_worker.work(PACKAGE, "ALL", False, None, None, said.append, expected_sha256="cd")


def test_the_worker_keeps_stdout_for_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys\nfrom hemline.coreml import worker as coreml_worker\n"
        "def work(*_, **__):\n    print('a library talks', flush=True)\n"
        "coreml_worker.work = work\nsys.exit(coreml_worker.main(sys.argv[1:]))"
    )
    monkeypatch.setattr(
        "hemline.child.command_of", lambda _, arguments: [sys.executable, "-c", code, *arguments]
    )
    assert ask_child(PACKAGE, "ALL", []).failure is None

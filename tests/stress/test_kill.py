"""Export and train, killed at seeded moments: the old files or the new ones, and a rerun ends well.

`make crashtest` kills each 20 times. A third of the moments are calls that replace files, a third
any calls of the system, a third lie anywhere in the run.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hemline.commit import writing

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")

VICTIM = Path(__file__).parent / "victim.py"
OLD, NEW = 0, 1


def start_victim(stage: str, folder: Path, version: int, call: int = 0) -> "subprocess.Popen[str]":
    with (folder.parent / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(VICTIM), stage, str(folder), str(version), str(call)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    if process.stdout.readline() != "started\n":
        process.communicate()
        pytest.fail((folder.parent / "errors.txt").read_text())
    return process


def names(folder: Path) -> list[str]:
    """What lies in a folder, but for the lock file, which a killed process may leave."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".hemline-lock")


def test_killed_runs(
    stage: str,
    run: Any,
    old: Path,
    version_of: Callable[[Path], int],
    pytestconfig: pytest.Config,
) -> None:
    whole = Path(shutil.copytree(old, old.parent / "whole"))
    started = time.monotonic()
    process = start_victim(stage, whole, NEW)
    ready = time.monotonic()
    answer, _ = process.communicate()
    seconds, calls = time.monotonic() - ready, int(answer)
    assert (process.returncode, version_of(whole)) == (0, NEW)
    print(f"{stage}: {ready - started:.1f} s of imports, then {seconds:.1f} s with {calls} calls")
    moments, found = random.Random(stage), []
    for i in range(pytestconfig.getoption("--kills")):
        # The calls are few and quick, so that hardly a moment of the clock meets one. The last
        # third holds those that replace files.
        call = (moments.randint(2 * calls // 3, calls), 0, moments.randint(1, calls))[i % 3]
        folder = Path(shutil.copytree(old, old.parent / f"killed{i}"))
        process = start_victim(stage, folder, NEW, call)
        if not call:
            time.sleep(moments.uniform(0, seconds))
            process.kill()
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
        found.append(version_of(folder))
        run(folder, NEW)
        assert version_of(folder) == NEW
        assert names(folder) == names(whole)
        shutil.rmtree(folder)
    print(f"{stage}: {found.count(OLD)} left the old files, {found.count(NEW)} the new ones")


def test_two_runs_into_one_folder(stage: str, old: Path, version_of: Callable[[Path], int]) -> None:
    before = names(old)
    with writing(old):
        process = start_victim(stage, old, NEW)
        process.communicate()
    assert process.returncode == 2
    line = (old.parent / "errors.txt").read_text().splitlines()[-1]
    assert line == (
        f"{old} is being written by another process: wait until it is done, or choose another "
        "folder"
    )
    assert names(old) == before
    assert version_of(old) == OLD

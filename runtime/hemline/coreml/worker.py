"""The child process that opens a Core ML package: `python -m hemline.coreml.worker`.

`hemline.coreml.device` starts it, since Core ML can kill the process that it runs in. It answers as
`hemline.child` says.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hemline import child
from hemline.arrays import read_array
from hemline.benchmark.first_answer import FirstAnswer
from hemline.benchmark.run import bench_model
from hemline.benchmark.timing import Schedule
from hemline.child import Say
from hemline.coreml.plan import read_plan
from hemline.documents import to_json
from hemline.engines.coreml import CoreMLEngine
from hemline.host import peak_memory_bytes
from hemline.model import load
from hemline.snapshot import require_sha256


def main(arguments: Sequence[str] | None = None) -> int:
    """Does the steps asked for, and tells of them on stdout."""
    parser = argparse.ArgumentParser(prog="python -m hemline.coreml.worker", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("compute_units", choices=CoreMLEngine.compute_units)
    parser.add_argument("--sha256", help="that the package must have")
    parser.add_argument("--plan", action="store_true")
    counts = ("WARMUP", "CALLS", "ROUNDS", "BATCH")
    parser.add_argument("--timing", type=int, nargs=4, metavar=counts)
    parser.add_argument("--outputs", type=Path, nargs=2, metavar=("IMAGES", "OUTPUTS"))
    options = parser.parse_args(arguments)
    return child.answer(
        lambda say: work(
            options.file,
            options.compute_units,
            options.plan,
            options.timing,
            options.outputs,
            say,
            expected_sha256=options.sha256,
        )
    )


def work(
    file: Path,
    compute_units: str,
    plan: bool,
    timing: Sequence[int] | None,
    outputs: Sequence[Path] | None,
    say: Say,
    *,
    expected_sha256: str | None = None,
) -> None:
    """Loads a package and, as asked, plans it, times it and runs it on images.

    Raises:
        HemlineError: it cannot be loaded or planned, or has another SHA-256.
    """
    say({"begin": "load"})
    start = time.perf_counter_ns()
    # This is a child already.
    model = load(file, compute_units=compute_units, trust=True)
    load_ns = time.perf_counter_ns() - start
    if expected_sha256 is not None and model.snapshot is not None:
        require_sha256(file, model.snapshot.sha256, expected_sha256)
    if plan and isinstance(model.engine, CoreMLEngine):
        say({"begin": "plan"})
        say({"plan": to_json(read_plan(model.engine.compiled_path(), compute_units))})
    if timing:
        say({"begin": "timing"})
        warmup, calls, rounds, batch = timing
        schedule = Schedule(warmup_calls=warmup, calls_per_round=calls, rounds=rounds or None)
        timed = bench_model(model, schedule, batch)
        first = FirstAnswer(
            load_ns=load_ns, first_call_ns=timed.cold_ns, peak_memory_bytes=peak_memory_bytes()
        )
        timed = replace(timed, first_answer=first)
        say({"timing": to_json(timed)})
    if outputs:
        say({"begin": "outputs"})
        given, made = outputs
        values = model.outputs(read_array(given))
        np.save(made, values, allow_pickle=False)
        say({"outputs": len(values)})


if __name__ == "__main__":
    sys.exit(main())

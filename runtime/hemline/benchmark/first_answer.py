"""A model file's first answer, and the memory it takes, in a process of its own.

In the process that times many files, memory and a first call say little of each: what one file
has brought along, the next one finds. The child is
`python -m hemline.benchmark.first_answer FILE THREADS BATCH`; it prints one JSON object.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hemline.benchmark.timed_calls import bare_call, predict_call
from hemline.documents import from_json, to_json
from hemline.errors import HemlineError, ModelFileError
from hemline.host import peak_memory_bytes
from hemline.model import load

TIME_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstAnswer:
    """What a process found that loaded one file and called it once.

    Attributes:
        load_ns: of `hemline.load`, the engine's import included.
        first_call_ns: of the first call after it.
        peak_memory_bytes: the most that the process had resident: Python, NumPy, Hemline, the
            engine and the file; None on Windows.
    """

    load_ns: int
    first_call_ns: int
    peak_memory_bytes: int | None


def first_answer(path: Path, threads: int, batch: int) -> FirstAnswer:
    """Has a child process load a file and call it once, with one image or a batch.

    Raises:
        ModelFileError: the child does not answer.
    """
    # -P: else Python would look for modules in the working folder first, whoever filled that.
    module = ["-P", "-m", "hemline.benchmark.first_answer"]
    command = [sys.executable, *module, str(path), str(threads), str(batch)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise ModelFileError(
            f"{path}: a process of its own gave no answer within {TIME_LIMIT_S:g} s"
        ) from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise ModelFileError(
            "; its last words: ".join(
                [f"{path}: a process of its own ended with status {done.returncode}", *last]
            )
        )
    return from_json(FirstAnswer, json.loads(done.stdout), f"the first answer of {path}")


def answer_once(path: Path, threads: int, batch: int) -> FirstAnswer:
    """Loads a file and calls it once, in this process."""
    start = time.perf_counter_ns()
    # This is a child already.
    model = load(path, threads=threads, trust=True)
    load_ns = time.perf_counter_ns() - start
    call = predict_call(model, batch) or bare_call(model, batch)
    start = time.perf_counter_ns()
    call.function(call.argument)
    return FirstAnswer(
        load_ns=load_ns,
        first_call_ns=time.perf_counter_ns() - start,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _main(file: str, threads: str, batch: str) -> int:
    # What libraries print must not stand beside the JSON.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        try:
            found = answer_once(Path(file), int(threads), int(batch))
        except HemlineError as error:
            print(error, file=sys.stderr)
            return 2
        json.dump(to_json(found), answer)
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))

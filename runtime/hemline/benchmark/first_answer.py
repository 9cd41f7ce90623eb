"""A model file's first answer, and the memory it takes, in a process of its own.

In the process that times many files, memory and a first call say little of each: what one file
has brought along, the next one finds. The child is this module, called with FILE THREADS BATCH; it
answers as `hemline.child` says.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hemline import child
from hemline.benchmark.timed_calls import bare_call, predict_call
from hemline.documents import from_json, to_json
from hemline.errors import ModelFileError
from hemline.host import peak_memory_bytes
from hemline.model import load

TIME_LIMIT_S = 300.0
WORKER = "hemline.benchmark.first_answer"


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
    arguments = [str(path), str(threads), str(batch)]
    answer = child.ask(WORKER, arguments, TIME_LIMIT_S, {})
    if answer.failure is not None:
        raise ModelFileError(f"{path}: {answer.failure}")
    return from_json(FirstAnswer, answer.results.get("first"), f"the first answer of {path}")


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
    return child.answer(
        lambda say: say({"first": to_json(answer_once(Path(file), int(threads), int(batch)))})
    )


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))

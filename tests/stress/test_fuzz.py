"""Hundreds of damaged files: none crashes, hangs or fills the process that loads or reads them."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
RELEASED = Path(__file__).parents[2] / "artifacts" / "fashion_mnist" / "cnn"
FILES = {
    "litert": "cnn.int8.tflite",
    "micro": "cnn.int8.tflite",
    "onnxruntime": "cnn.int8.onnx",
    "coreml-reference": "cnn.float16.mlpackage",
}
# What is read in the process itself, by what is damaged: its script, and the words for that.
READ = {
    "records": ("fuzz_records.py", RELEASED),
    "pictures": ("fuzz_pictures.py",),
    "archives": ("fuzz_archives.py", "npz", RELEASED),
    "Keras files": ("fuzz_archives.py", "keras", RELEASED.with_name("gru")),
}
# Beside what the engines keep of the files that open, for the damage itself, which this process
# does as well.
MOST_GROWTH_BYTES = 512 << 20
# A record as large as one may be, of empty lists, takes 0.7 GB.
MOST_READ_GROWTH_BYTES = 1 << 30


def fuzz(script: Path, words: Sequence[str | Path], count: int) -> tuple[list[dict[str, Any]], int]:
    """Runs a script; returns its results, and by how many bytes its process grew."""
    done = subprocess.run(
        [sys.executable, script, *words, f"--mutations={count}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120 + 20 * count,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    # A negative status: killed by a signal, over the file after the last result.
    assert done.returncode == 0, f"after {len(results)} files: {done.stderr[-2000:]}"
    memory = results.pop()
    return results, memory["after_bytes"] - memory["before_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", FILES)
def test_damaged_files(
    engine: str, pytestconfig: pytest.Config, print_at_end: Callable[[str], None]
) -> None:
    if engine == "micro" and not importlib.util.find_spec("tflite_micro"):
        pytest.skip("tflite-micro is not installed: it is for Linux on x86-64 only")
    count = pytestconfig.getoption("mutations")
    results, growth = fuzz(FUZZ, [engine, RELEASED / FILES[engine]], count)
    alone = Counter(result["alone"] for result in results)
    listed = Counter(result["listed"] for result in results)
    print_at_end(
        f"{engine}: of {count} damaged files {alone['refused']} refused, {alone['crashed']} "
        f"crashed and {alone['timed out']} timed out in the child, {alone['loaded']} loaded; "
        f"beside the manifest {listed['checksum']} refused for their checksum; memory "
        f"{growth / 2**20:+.0f} MiB"
    )
    faults = [
        result
        for result in results
        if result["alone"] not in ("refused", "crashed", "timed out", "loaded")
        or result["listed"] != "checksum"
    ]
    assert not faults, json.dumps(faults[:3], indent=1)
    assert alone.total() == count
    # Damage that no engine minds is no test.
    assert alone["refused"] > count / 2
    assert growth < MOST_GROWTH_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("kind", READ)
def test_damaged_input(
    kind: str, pytestconfig: pytest.Config, print_at_end: Callable[[str], None]
) -> None:
    count = pytestconfig.getoption("mutations")
    script, *words = READ[kind]
    results, growth = fuzz(FUZZ.with_name(str(script)), words, count)
    outcomes = Counter(result["outcome"] for result in results)
    print_at_end(
        f"{kind}: of {count} damaged {outcomes['refused']} refused, {outcomes['read']} read; "
        f"memory {growth / 2**20:+.0f} MiB"
    )
    faults = [result for result in results if result["outcome"] not in ("refused", "read")]
    assert not faults, json.dumps(faults[:3], indent=1)
    assert outcomes.total() == count
    # Damage that nobody minds is no test.
    assert outcomes["refused"] > count / 3
    assert growth < MOST_READ_GROWTH_BYTES

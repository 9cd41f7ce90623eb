"""`make footprint`: time to the first answer and peak memory, against bare scripts and Keras.

Each measurement is a process of its own, from its start to the line with its answer. The ways take
turns, so that a slow minute of the machine meets all of them. Exit status 1: a limit is missed;
2: two ways do not give the same answer, or one cannot run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# This process stays small, without NumPy and Hemline: the kernel counts the memory of the process
# that starts a child as the child's own peak, up to its exec.

PIXELS = """
import sys
import numpy as np
pixels = (np.arange(784) * 7 % 256).astype(np.uint8).reshape(28, 28)
"""

HEMLINE = f"""{PIXELS}
import hemline
prediction = hemline.load(sys.argv[1]).predict(pixels)
best = prediction.indices[0]
print(best, prediction.probabilities[0, best], prediction.labels[0], flush=True)
"""

# What `load` does, by hand: the checksum, the labels and the preprocessing of the manifest.
SAME = """
import hashlib
import json
import os
folder, name = os.path.split(sys.argv[1])
with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
    manifest = json.load(file)
(recorded,) = [one["sha256"] for one in manifest["artifacts"] if one["file"] == name]
with open(sys.argv[1], "rb") as file:
    content = file.read()
if hashlib.sha256(content).hexdigest() != recorded:
    sys.exit("another file")
labels, steps = manifest["model"]["labels"], manifest["model"]["input"]["preprocessing"]
mean, std = steps["mean"], steps["std"]
"""

# Trusts the file, and knows its preprocessing.
ENGINE_ONLY = """
with open(sys.argv[1], "rb") as file:
    content = file.read()
labels, mean, std = [""] * 10, 0, 255
"""

LITERT = """
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_content=content, num_threads=1)
interpreter.allocate_tensors()
source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
values = (pixels.reshape(source["shape"]).astype(np.float32) - mean) / std
if source["dtype"] == np.int8:
    scale, zero = source["quantization"]
    values = np.clip(np.round(values / scale) + zero, -128, 127).astype(np.int8)
interpreter.set_tensor(source["index"], values.astype(source["dtype"]))
interpreter.invoke()
probabilities = interpreter.get_tensor(result["index"])[0]
if result["dtype"] == np.int8:
    scale, zero = result["quantization"]
    probabilities = (probabilities.astype(np.float32) - zero) * scale
best = probabilities.argmax()
print(best, probabilities[best], labels[best], flush=True)
"""

ONNXRUNTIME = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.x64quantprecision", "1")
session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
source = session.get_inputs()[0]
values = ((pixels.reshape(1, 28, 28, 1).astype(np.float32) - mean) / std).astype(np.float32)
probabilities = session.run(None, {source.name: values})[0][0]
best = probabilities.argmax()
print(best, probabilities[best], labels[best], flush=True)
"""

KERAS = f"""{PIXELS}
import keras
model = keras.saving.load_model(sys.argv[1])
values = pixels.reshape(1, 28, 28, 1).astype(np.float32) / 255
probabilities = np.asarray(model(values, training=False))[0]
best = probabilities.argmax()
print(best, probabilities[best], flush=True)
"""

HOST = """
from hemline.host import describe_host
host = describe_host()
packages = ", ".join(f"{name} {version}" for name, version in host.packages.items())
print(f"{host.cpu}, {host.cores} cores, {host.system}; Python {host.python}, {packages}")
"""

ENGINES = {".tflite": LITERT, ".onnx": ONNXRUNTIME}
FILES = ("int8.tflite", "float32.tflite", "int8.onnx", "float32.onnx")
# Only LiteRT, the lighter engine, is held to them.
HELD = ".tflite"
TIME_TO_BARE, TIME_TO_KERAS = 1.15, 1 / 15
MEMORY_TO_BARE, MEMORY_TO_KERAS = 1.15, 1 / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One process: until its answer, its peak memory, and the class with its probability."""

    milliseconds: float
    mebibytes: float
    best: int
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What is run on a file; the script's argument is the file."""

    name: str
    script: str
    file: Path


def measure(way: Way) -> Measurement:
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    # As after pip install, which compiles the modules.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", way.script, str(way.file)]
    with tempfile.TemporaryFile("w+") as errors:
        started_ns = time.perf_counter_ns()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        assert process.stdout is not None
        with process.stdout as stdout:
            answer = stdout.readline()
            elapsed_ns = time.perf_counter_ns() - started_ns
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or not answer:
            errors.seek(0)
            sys.stderr.write(errors.read())
            raise SystemExit(2)
    best, probability = answer.split()[:2]
    # In bytes on macOS, in KiB elsewhere: getrusage(2).
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Measurement(
        milliseconds=elapsed_ns / 1e6,
        mebibytes=peak_bytes / 2**20,
        best=int(best),
        probability=float(probability),
    )


def measure_in_turns(ways: Sequence[Way], repeats: int) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = {way.name: [] for way in ways}
    # The first turn compiles modules and fills the disk cache; a single one is to try it out.
    discarded = int(repeats > 1)
    for turn in range(repeats + discarded):
        for way in ways:
            measurement = measure(way)
            if turn >= discarded:
                found[way.name].append(measurement)
    return found


def require_same_answers(file: str, found: dict[str, list[Measurement]], tolerance: float) -> None:
    answers = [one for measurements in found.values() for one in measurements]
    low, high = (pick(one.probability for one in answers) for pick in (min, max))
    if len({one.best for one in answers}) != 1 or high - low > tolerance:
        print(f"{file}: not the same answers: {sorted({str(a) for a in answers})}", file=sys.stderr)
        raise SystemExit(2)


def judge_model(folder: Path, repeats: int, keras_repeats: int) -> list[list[str]]:
    name = folder.name
    keras = Way(name="keras", script=KERAS, file=folder / f"{name}.float.keras")
    slow = measure_in_turns([keras], keras_repeats)
    rows = []
    for suffix in FILES:
        path = folder / f"{name}.{suffix}"
        ways = [
            Way(name="hemline", script=HEMLINE, file=path),
            Way(name="bare", script=PIXELS + SAME + ENGINES[path.suffix], file=path),
            Way(name="engine", script=PIXELS + ENGINE_ONLY + ENGINES[path.suffix], file=path),
        ]
        found = measure_in_turns(ways, repeats)
        require_same_answers(path.name, found, 1e-4)
        # A quantized file is allowed its own probability, as long as the class is the same.
        require_same_answers(path.name, found | slow, 0.1)
        rows.append(make_row(path, found | slow))
    return rows


def make_row(path: Path, found: dict[str, list[Measurement]]) -> list[str]:
    times = {name: [one.milliseconds for one in many] for name, many in found.items()}
    peaks = {name: [one.mebibytes for one in many] for name, many in found.items()}
    (ms, bare_ms, engine_ms, keras_ms), (mib, bare_mib, engine_mib, keras_mib) = (
        [statistics.median(values[name]) for name in ("hemline", "bare", "engine", "keras")]
        for values in (times, peaks)
    )
    kept = (
        ms <= TIME_TO_BARE * bare_ms
        and ms <= TIME_TO_KERAS * keras_ms
        and mib <= MEMORY_TO_BARE * bare_mib
        and mib <= MEMORY_TO_KERAS * keras_mib
    )
    return [
        path.name,
        spread(times["hemline"]),
        spread(times["bare"]),
        f"{ms / bare_ms:.2f}",
        f"{ms / engine_ms:.2f}",
        spread(times["keras"]),
        f"1/{keras_ms / ms:.1f}",
        f"{mib:.1f}",
        f"{bare_mib:.1f}",
        f"{mib / bare_mib:.2f}",
        f"{mib / engine_mib:.2f}",
        f"{keras_mib:.0f}",
        f"1/{keras_mib / mib:.1f}",
        ("PASS" if kept else "FAIL") if path.suffix == HELD else "not held",
    ]


def spread(values: list[float]) -> str:
    """Returns the median with the quartiles."""
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    return f"{middle:.0f} ({low:.0f}–{high:.0f})"


def format_page(rows: Sequence[Sequence[str]], repeats: int, keras_repeats: int) -> str:
    header = ("file", "ms", "bare ms", "to bare", "to engine", "Keras ms", "of Keras", "MiB")
    header += ("bare MiB", "to bare", "to engine", "Keras MiB", "of Keras", "verdict")
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]
    host = subprocess.run(
        [sys.executable, "-c", HOST], capture_output=True, text=True, check=True
    ).stdout.strip()
    return "\n".join(
        [
            "# Footprint",
            "",
            "Written by `make footprint`. From the start of a process to its answer on one image, "
            f"median and quartiles of {repeats} processes each ({keras_repeats} for Keras), and "
            "their median peak memory. `ms` and `MiB` are Hemline's: `load` and `predict`. `bare` "
            "does the same by hand with NumPy and the engine alone: checks the SHA-256 of the "
            "manifest, takes labels and preprocessing from it, predicts. `engine` trusts the file, "
            "knows its preprocessing and gives no label; no limit holds for it. Keras loads the "
            "float model and calls it once.",
            "",
            f"Limits for LiteRT: {TIME_TO_BARE:g} of the bare script's time and "
            f"1/{1 / TIME_TO_KERAS:.0f} of Keras's, {MEMORY_TO_BARE:g} of its memory and "
            f"1/{1 / MEMORY_TO_KERAS:.0f} of Keras's.",
            "",
            *lines,
            "",
            f"{host}.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="released models")
    parser.add_argument("--repeats", type=int, default=20, help="processes of each light way")
    parser.add_argument("--keras-repeats", type=int, default=5, help="processes of Keras")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the page there")
    options = parser.parse_args(arguments)
    rows = [
        row
        for folder in options.folders
        for row in judge_model(folder, options.repeats, options.keras_repeats)
    ]
    page = format_page(rows, options.repeats, options.keras_repeats)
    print(page, end="")
    if options.out:
        options.out.write_text(page, encoding="utf-8")
    return int(any(row[-1] == "FAIL" for row in rows))


if __name__ == "__main__":
    sys.exit(main())

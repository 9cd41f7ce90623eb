"""Damages the records beside model files in many ways, and has every command read them.

    python tests/stress/fuzz_records.py FOLDER [--mutations N] [--seed N]

FOLDER is one of the released ones. Of each copy one record is changed: a value or a part of it for
a hostile one, keys and entries deleted, added and put in another order, bytes flipped and cut. What
vouches for the record, such as its SHA-256 in the manifest, is made anew, so that the damage gets
past it. Prints a JSON object for each copy, and one at the end with the memory that this process
took for it all.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import sys
import tempfile
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import fuzz
import numpy as np
from fuzz import Random
from outcomes import FAULT, READ, REFUSED, Outcome, of_call, of_command

import hemline
from hemline import release
from hemline.benchmark import run as bench_run
from hemline.benchmark.report import SCHEMA as BENCH_SCHEMA
from hemline.benchmark.report import read_bench
from hemline.benchmark.timing import Schedule
from hemline.cli import main as hemline_main
from hemline.commit import PENDING, writing
from hemline.console import run_safely
from hemline.documents import from_json, read_document, write_document
from hemline.facts import EMBEDDED_KEY, InputFacts
from hemline.files import sha256, size_bytes
from hemline.golden import draw_inputs, inputs_sha256
from hemline.journal import FILE_NAME as JOURNAL
from hemline.ownership import is_recorded
from hemline.parity.verify import FLOAT_PREDICTIONS
from hemline.samples import resolve_samples
from hemline_train.garments import draw_garments
from hemline_train.report import SCHEMA as TRAINING_SCHEMA
from hemline_train.report import TrainingReport

# Not what json.dumps writes: it goes where this stands.
RAW = "<raw>"
LITERALS = ("9" * 5000, "1e400", "-0", "NaN", "Infinity", "-Infinity", "[" * 2000, '{"a":1,"a":2}')
HOSTILE: tuple[Any, ...] = (
    *(0, -1, 1, 2, 255, 2**15, 2**31, 2**53, 2**63, 2**64, 2**70, -(2**70), 10**400),
    *(0.0, -0.5, 0.5, 1e308, -1e308, 1e-320, 5e-324, 3.5e38, 1e-46, float("nan"), float("inf")),
    *("", "x" * 10_000, "../x", "/etc/passwd", "a\0b", "\ud800", "\x1b[2J", "\u202e", " ", "."),
    *("classification", "regression", "autoencoder", "tensors", "int8", "int16", "float32"),
    *("object", "complex64", "U8", "litert", "micro", "keras", "coreml", "PASS", "NOT_RUN"),
    *(None, True, False, [], {}, [[]], [[[]]], [None], {"": {}}, [0] * 9, [2**31] * 4),
    *([1] * 70, ["a", "a"], list(range(300)), {"a": 1}, {"schema": ""}),
)


# Of a parsed document.


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else ()
    # Of a long list, what is at either end is enough.
    if isinstance(value, list):
        items = [(i, value[i]) for i in sorted({*range(len(value))[:2], *range(len(value))[-1:]})]
    for key, inner in items:
        yield from places(inner, (*path, key))


def at(document: Any, path: Sequence[Any]) -> Any:
    for key in path:
        document = document[key]
    return document


def _pick(items: Sequence[Any], random: Random) -> Any:
    return items[random.integers(len(items))]


def place(document: Any, random: Random, kinds: tuple[type, ...] = (object,)) -> tuple[Any, ...]:
    """Returns a place in a document, of a value of some kind, and not the document itself."""
    found = [path for path in places(document) if path and isinstance(at(document, path), kinds)]
    return tuple(_pick(found, random)) if found else ()


def put(document: Any, path: Sequence[Any], value: Any) -> None:
    if path:
        at(document, path[:-1])[path[-1]] = value


def put_hostile(document: Any, random: Random) -> None:
    put(document, place(document, random), _pick(HOSTILE, random))


def put_hostile_number(document: Any, random: Random) -> None:
    numbers = [value for value in HOSTILE if type(value) in (int, float)]
    put(document, place(document, random, (int, float)), _pick(numbers, random))


def put_hostile_text(document: Any, random: Random) -> None:
    texts = [value for value in HOSTILE if type(value) is str]
    put(document, place(document, random, (str,)), _pick(texts, random))


def put_literal(document: Any, random: Random) -> None:
    put(document, place(document, random), RAW + _pick(LITERALS, random))


def scale_number(document: Any, random: Random) -> None:
    path = place(document, random, (int, float))
    if path:
        factor = _pick((-1, 0.5, 2, 1000, 1e-30, 1e30), random)
        put(document, path, at(document, path) * factor)


def graft(document: Any, random: Random) -> None:
    """Something that stands elsewhere in it."""
    found = deepcopy(at(document, place(document, random)))
    put(document, place(document, random), found)


def delete(document: Any, random: Random) -> None:
    path = place(document, random)
    if path:
        del at(document, path[:-1])[path[-1]]


def add_key(document: Any, random: Random) -> None:
    found = at(document, place(document, random, (dict,)))
    found[_pick(("", "schema", "x", "\ud800", "__class__"), random)] = _pick(HOSTILE, random)


def shuffle(document: Any, random: Random) -> None:
    path = place(document, random, (list,))
    if path:
        random.shuffle(at(document, path))


def repeat_entry(document: Any, random: Random) -> None:
    path = place(document, random, (list,))
    if path and at(document, path):
        found = at(document, path)
        found += [_pick(found, random)] * int(_pick((1, 1, 1000), random))


def nest(document: Any, random: Random) -> None:
    path = place(document, random)
    value = at(document, path)
    for _ in range(int(_pick((1, 2, 90), random))):
        value = [value]
    put(document, path, value)


CHANGES = (
    put_hostile,
    put_hostile_number,
    put_hostile_text,
    put_hostile,
    put_hostile_number,
    put_literal,
    scale_number,
    graft,
    delete,
    add_key,
    shuffle,
    repeat_entry,
    nest,
)


def encode(document: Any) -> bytes:
    """Returns a document as JSON, with literals that stand in it as they are."""
    text = json.dumps(document)
    for literal in LITERALS:
        text = text.replace(json.dumps(RAW + literal), literal)
    return text.encode()


# Of a file that holds one.


def deep(path: Path, _: Random) -> None:
    path.write_text("[" * 100_000)


def wide(path: Path, random: Random) -> None:
    path.write_text('{"schema": [' + "[]," * int(_pick((10_000, 4_000_000), random)) + "[]]}")


def giant(path: Path, _: Random) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def be_a_pipe(path: Path, _: Random) -> None:
    path.unlink()
    os.mkfifo(path)


def be_a_device(path: Path, _: Random) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def be_a_loop(path: Path, _: Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


FILE_CHANGES = (*fuzz.ANY_FILE, deep, wide, giant, be_a_pipe, be_a_device, be_a_loop)


# A folder with few files, as a release has them.


def prepare(released: Path, folder: Path, random: Random) -> tuple[Path, Path]:
    """Makes a small release and its test samples; returns its file and the samples'."""
    folder.mkdir()
    manifest = json.loads((released / "manifest.json").read_text())
    name = manifest["model"]["model"]
    files = [f"{name}.int8.onnx", f"{name}.int8.tflite", f"{name}.float32.tflite"]
    manifest["artifacts"] = [a for a in manifest["artifacts"] if a["file"] in files]
    for file in (*files, manifest["float_model"]["file"], "training.json"):
        shutil.copyfile(released / file, folder / file)
    golden = json.loads((released / "golden.json").read_text())
    golden["artifacts"] = [a for a in golden["artifacts"] if a["file"] in files]
    (folder / "golden.json").write_text(json.dumps(golden))
    manifest["golden_sha256"] = sha256(folder / "golden.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    images, labels = draw_garments(40, int(random.integers(2**31)))
    data = folder.parent / "small.npz"
    np.savez(data, images=images, labels=labels)
    np.save(folder.parent / "image.npy", images[0])
    samples = resolve_samples(str(data), None, "test")
    outputs = hemline.load(folder / f"{name}.float32.tflite").outputs(samples.images)
    key = np.array([manifest["float_model"]["sha256"], samples.sha256()])
    np.savez(folder / FLOAT_PREDICTIONS, key=key, outputs=outputs)
    # Its verdicts are on Fashion-MNIST, and all of them PASS.
    parity = json.loads((released / "parity.json").read_text())
    parity["artifacts"] = [a for a in parity["artifacts"] if a["file"] in files]
    (folder / "parity.json").write_text(json.dumps(parity))
    # As few calls as can be compared.
    schedule = Schedule(warmup_calls=1, calls_per_round=2, rounds=15)
    timed = bench_run.bench([folder], schedule=schedule)
    write_document(folder / "bench.json", BENCH_SCHEMA, timed)
    shutil.copy(folder / "bench.json", data.with_name("bench.json"))
    return folder / files[0], data


def embed(file: Path, facts: Any) -> None:
    """Puts a facts document into a file, valid or not."""
    content = encode({"schema": "hemline.facts/1"} | facts)
    if file.suffix == ".onnx":
        import onnx

        model = onnx.ModelProto.FromString(file.read_bytes())
        for entry in model.metadata_props:
            if entry.key == EMBEDDED_KEY:
                entry.value = content.decode()
        file.write_bytes(model.SerializeToString())
        return
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    entry = next(entry for entry in model.metadata if entry.name == EMBEDDED_KEY.encode())
    model.buffers[entry.buffer].data = np.frombuffer(content, np.uint8)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    file.write_bytes(builder.Output())


def record_golden(folder: Path) -> None:
    """Has the manifest vouch for golden.json, and that for its inputs, where they say enough."""
    path = folder / "golden.json"
    if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 25:
        return
    manifest = json.loads((folder / "manifest.json").read_text())
    with contextlib.suppress(Exception):
        golden = json.loads(path.read_text())
        facts = from_json(InputFacts, manifest["model"]["input"], "")
        if 0 < golden["count"] <= 1024 and math.prod(facts.shape) <= 1 << 16:
            inputs = draw_inputs(facts, golden["seed"], golden["count"])
            golden["inputs_sha256"] = inputs_sha256(inputs)
            path.write_text(json.dumps(golden))
    manifest["golden_sha256"] = sha256(path)
    (folder / "manifest.json").write_text(json.dumps(manifest))


# What is changed, and what reads it.


def change_record(path: Path, random: Random) -> str:
    """Changes a JSON document once or twice; returns by what."""
    if random.random() < 0.2:
        change = _pick(FILE_CHANGES, random)
        change(path, random)
        return str(change.__name__)
    document = json.loads(path.read_text())
    before = encode(document)
    names = []
    while encode(document) == before or random.random() < 0.2:
        change = _pick(CHANGES, random)
        change(document, random)
        names.append(change.__name__)
    path.write_bytes(encode(document))
    return " ".join(names[-2:])


def change_restated(file: Path, random: Random) -> str:
    """Changes what a release says of itself: in its manifest, in a file and in golden.json."""
    folder = file.parent
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = next(a for a in manifest["artifacts"] if a["file"] == file.name)
    facts = {"model": manifest["model"], "artifact": entry["facts"]}
    before = encode(facts)
    names = []
    while encode(facts) == before or random.random() < 0.2:
        change = _pick(CHANGES, random)
        change(facts, random)
        names.append(change.__name__)
    embed(file, facts)
    manifest["model"], entry["facts"] = facts.get("model"), facts.get("artifact")
    entry["sha256"], entry["size_bytes"] = sha256(file), size_bytes(file)
    # The other file still says what it said.
    manifest["artifacts"] = [entry]
    golden = json.loads((folder / "golden.json").read_text())
    golden["artifacts"] = [
        a | {"sha256": entry["sha256"]} for a in golden["artifacts"] if a["file"] == file.name
    ]
    (folder / "golden.json").write_text(json.dumps(golden))
    (folder / "manifest.json").write_bytes(encode(manifest))
    with contextlib.suppress(ValueError, RecursionError):
        record_golden(folder)
    return " ".join(names[-2:])


def change_journal(file: Path, random: Random) -> str:
    """Leaves a commit that was cut short, and changes its journal."""
    pending = file.parent / PENDING
    pending.mkdir()
    shutil.copyfile(file, pending / file.name)
    digest = sha256(file)
    moves = [
        {"name": file.name, "sha256": digest, "replaces": digest},
        {"name": "bench.json", "sha256": None, "replaces": sha256(file.parent / "bench.json")},
    ]
    (pending / JOURNAL).write_text(json.dumps({"schema": "hemline.commit/1", "moves": moves}))
    return change_record(pending / JOURNAL, random)


def change_facts(file: Path, random: Random) -> str:
    """Changes what a file says of itself, that no manifest lists."""
    change_restated(file, random)
    (file.parent / "manifest.json").unlink()
    return "facts"


def write_in(folder: Path) -> None:
    """What every command that writes begins with."""
    with writing(folder):
        pass


def main_with_bench(record: Path) -> Callable[[list[str]], int]:
    """Returns Hemline's main, whose benchmark comes to what a record says, without measuring."""

    def run(words: list[str]) -> int:
        result = read_bench(record)
        with unittest.mock.patch.object(bench_run, "bench", return_value=result):
            return hemline_main(words)

    return run


def main_of_release(words: list[str]) -> int:
    return run_safely(lambda: release._main(words), program="release")


def readers(kind: str, file: Path, data: Path) -> Iterator[tuple[str, Outcome]]:
    """Has everything read a folder that could mind a record of that kind."""
    folder, image = file.parent, data.with_name("image.npy")
    bench = ["bench", folder, "--rounds", "1"]
    release_words = [folder.parent, folder.parents[1] / "released"]
    trust = ["--trust"] if kind == "facts" else []
    commands: dict[str, list[str | Path]] = {
        "inspect": ["inspect", *trust, file],
        "predict file": ["predict", *trust, file, image],
        "predict folder": ["predict", folder, image],
        "selftest": ["selftest", folder],
        "report": ["report", folder],
        "verify": ["verify", folder, "--data", data],
        "bench": ["bench", *trust, file, "--rounds", "1"] if trust else [*bench],
        "compare": ["bench", folder, "--compare", folder / "bench.json"],
        "release": release_words,
    }
    calls: dict[str, Callable[[], object]] = {
        "load file": lambda: hemline.load(file, trust=bool(trust)).predict(np.load(image)),
        "load folder": lambda: hemline.load(folder).predict(np.load(image)),
        "is_recorded": lambda: is_recorded(file),
        "training": lambda: read_document(
            folder / "training.json", TRAINING_SCHEMA, TrainingReport
        ).summarize(),
        "write": lambda: write_in(folder),
    }
    for name in READERS[kind]:
        if name in calls:
            yield name, of_call(calls[name])
        elif name == "release":
            yield name, of_command(main_of_release, commands[name])
        elif name == "compare":
            yield name, of_command(main_with_bench(data.with_name("bench.json")), commands[name])
        else:
            yield name, of_command(hemline_main, commands[name])


READERS = {
    "manifest.json": (
        *("inspect", "predict file", "predict folder", "selftest", "report", "verify", "bench"),
        *("release", "load file", "load folder", "is_recorded"),
    ),
    "restated": ("inspect", "predict file", "selftest", "verify", "bench", "load file"),
    "golden.json": ("selftest", "release"),
    "parity.json": ("report", "release"),
    "bench.json": ("report", "compare", "release"),
    "training.json": ("training", "is_recorded"),
    "journal": ("inspect", "predict folder", "load file", "selftest", "write"),
    "facts": ("inspect", "predict file", "bench", "load file"),
}
# The records that most depends on come more often.
ORDER = (
    *("manifest.json", "restated", "golden.json", "parity.json", "restated", "bench.json"),
    *("manifest.json", "restated", "training.json", "journal", "golden.json", "facts"),
)


def fuzz_one(base: Path, name: str, data: Path, number: int, seed: int) -> dict[str, Any]:
    """Changes one record of a copy, and has everything read it."""
    kind, random = ORDER[number % len(ORDER)], np.random.default_rng([seed, number])
    with tempfile.TemporaryDirectory(prefix="hemline-fuzz-") as scratch:
        folder = Path(shutil.copytree(base, Path(scratch) / "build" / "model"))
        # The second is the slower to make anew.
        file = folder / f"{name}.int8{_pick(('.onnx', '.onnx', '.tflite'), random)}"
        if kind == "restated":
            change = change_restated(file, random)
        elif kind == "journal":
            change = change_journal(file, random)
        elif kind == "facts":
            change = change_facts(file, random)
        else:
            change = change_record(folder / kind, random)
        if kind == "golden.json" and random.random() < 0.9:
            record_golden(folder)
        found = dict(readers(kind, file, data))
    return result_of(number, f"{kind}: {change}", found)


def result_of(number: int, mutation: str, found: dict[str, Outcome]) -> dict[str, Any]:
    """Returns what to print of one mutation, by what came of it in each reader."""
    faults = {reader: text for reader, (word, text) in found.items() if word == FAULT}
    refusals = [text for word, text in found.values() if word == REFUSED]
    return {
        "number": number,
        "mutation": mutation,
        "outcome": FAULT if faults else REFUSED if refusals else READ,
        "message": faults or next(iter(refusals), ""),
    }


def leave_out_keras() -> None:
    """Makes this a device without Keras, which would take seconds to say the same of its file."""
    sys.modules.update(dict.fromkeys(("tensorflow", "torch", "sklearn", "tf_keras")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutations", type=int, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this mutation alone")
    options = parser.parse_args()
    leave_out_keras()
    # Starts a process, which reads what `predict` does.
    bench_run.first_answer = lambda *_: None  # type: ignore[assignment, misc]
    with tempfile.TemporaryDirectory(prefix="hemline-fuzz-") as scratch:
        base = Path(scratch) / "base"
        file, data = prepare(options.folder, base, np.random.default_rng(options.seed))
        # The readers themselves, and the records as they should be.
        for kind in ("manifest.json", "parity.json", "bench.json", "training.json"):
            for reader, (word, text) in readers(kind, file, data):
                assert word == READ, (kind, reader, text)
        name = file.name.partition(".")[0]
        before = fuzz.peak_bytes()
        numbers = range(options.mutations) if options.only is None else [options.only]
        for number in numbers:
            print(json.dumps(fuzz_one(base, name, data, number, options.seed)), flush=True)
    print(json.dumps({"before_bytes": before, "after_bytes": fuzz.peak_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

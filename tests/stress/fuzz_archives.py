"""Damages archives of arrays and Keras files in many ways, and has everything read them.

    python tests/stress/fuzz_archives.py npz FOLDER [--mutations N] [--seed N]
    python tests/stress/fuzz_archives.py keras FOLDER [--mutations N] [--seed N]

FOLDER is one of the released ones. `npz` makes test samples, float predictions and .npy files, of
arrays that they should not hold, in archives that lie; `keras` changes the float model's file. It
opens each in this one process, which has started TensorFlow. Prints a JSON object for each, and one
at the end with the memory that this process took for it all.
"""

import argparse
import contextlib
import io
import json
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz
import fuzz_records
import numpy as np
from fuzz import Random
from numpy.typing import NDArray
from outcomes import Outcome, of_call, of_command

from hemline.cli import main as hemline_main
from hemline.errors import DataError, HemlineError, InputError
from hemline.parity.verify import FLOAT_PREDICTIONS
from hemline.pictures import read_picture
from hemline.samples import resolve_samples

COUNT = 12


def _pick(items: Any, random: Random) -> Any:
    return items[random.integers(len(items))]


# Arrays as .npy files have them.


def arrays(random: Random) -> dict[str, Callable[[], NDArray[Any]]]:
    """Returns makers of arrays that samples, predictions and pictures may or may not be."""
    images = random.integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
    floats = images.astype(np.float32) / 255
    labels = random.integers(0, 10, COUNT)
    record = np.zeros(COUNT, [("a", "u1", (28, 28)), ("b", "O" if random.random() < 0.3 else "f4")])
    return {
        "images": lambda: images,
        "one more axis": lambda: images[..., None],
        "floats": lambda: floats,
        "labels": lambda: labels,
        "labels as floats": lambda: labels.astype(float),
        "no axes": lambda: images[0, 0, 0],
        "nothing": lambda: images[:0],
        "an axis of nothing": lambda: images[:, :0],
        "many axes": lambda: images.reshape(COUNT, *[1] * 28, 28, 28),
        "Fortran order": lambda: np.asfortranarray(floats),
        "big endian": lambda: floats.astype(">f4"),
        "big endian labels": lambda: labels.astype(">i8"),
        "wide integers": lambda: labels.astype(np.uint64) + np.uint64(2**63),
        "negative": lambda: -labels - 1,
        "least": lambda: np.full(COUNT, np.iinfo(np.int64).min),
        "too few": lambda: labels[:-1],
        "a column": lambda: labels[:, None],
        "NaN": lambda: np.where(floats > 0.5, np.float32("nan"), floats),
        "infinity": lambda: np.where(floats > 0.5, np.float32("inf"), floats),
        "float64": lambda: floats.astype(np.float64) * 1e300,
        "float16": lambda: floats.astype(np.float16),
        "longdouble": lambda: floats.astype(np.longdouble),
        "complex": lambda: floats.astype(np.complex64),
        "bool": lambda: images > 128,
        "dates": lambda: labels.astype("datetime64[s]"),
        "durations": lambda: labels.astype("timedelta64[ns]"),
        "text": lambda: labels.astype(str),
        "bytes": lambda: labels.astype("S3"),
        "void": lambda: images.view("V28"),
        "record": lambda: record,
        "objects": lambda: np.array([labels, "a", None], object),
        "hostile text": lambda: np.array(["\x1b[2J\n", "\udcff"], object).astype("U9")[:1],
        "key": lambda: np.array(["ab" * 32, "cd" * 32]),
        "sparse": lambda: np.zeros((COUNT, 512, 512), np.float32),
    }


HEADERS = (
    "{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 28, 28), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (%d,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-%d, -28), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (%d,), }",
    "{'descr': '<U%d', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|V%d', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': [('a', '<f4', (%d,))], 'fortran_order': False, 'shape': (12,), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (%dL, 28L), }",
    "{'descr': '|u1', 'fortran_order': 0, 'shape': [%d], }",
    "{'descr': '|u1', 'shape': (%d,), }",
    "{'descr': '|u0', 'fortran_order': False, 'shape': (%d,), }",
    "{'descr': '<M8[%dY]', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': None, 'fortran_order': None, 'shape': None, 'more': %d}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "1, " * 70 + "%d), }",
    "[" * 900 + "%d" + "]" * 900,
    "__import__('os').getpid() or %d",
    "{'descr': '\udcff', 'shape': (%d,)",
    "-" * 9000 + "%d",
)


def npy(array: NDArray[Any]) -> bytes:
    """Returns an .npy file, of objects too."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def hostile_npy(random: Random) -> bytes:
    """Returns an .npy file whose header announces what does not follow."""
    number = int(_pick((0, 1, 12, 10**6, 2**31, 2**40, 2**62, 2**63, 2**64, 10**30), random))
    header = (_pick(HEADERS, random) % number).encode(errors="surrogateescape") + b"\n"
    version = _pick((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\0\0", b"\xff\xff"), random)
    size = struct.pack(
        "<H" if version[0] < 2 else "<I", len(header) + int(_pick((0, 0, 9), random))
    )
    return b"\x93NUMPY" + version + size + header + random.bytes(int(_pick((0, 100), random)))


def any_npy(random: Random) -> tuple[str, bytes]:
    """Returns an .npy file as it may be, and what it is."""
    if random.random() < 0.3:
        return "hostile header", hostile_npy(random)
    made = arrays(random)
    name = _pick(sorted(made), random)
    return name, npy(made[name]())


# Archives of them.


def lie(content: bytes, random: Random) -> bytes:
    """Overwrites a field of an archive's own, in the list at its end or before a member."""
    found = bytearray(content)
    record, offsets = _pick(
        (
            # Flags, method, checksum, sizes, lengths and the offset: APPNOTE.TXT, 4.3.12.
            (b"PK\1\2", (6, 8, 10, 16, 20, 24, 28, 30, 32, 34, 42)),
            # The same before a member: 4.3.7.
            (b"PK\3\4", (4, 6, 8, 14, 18, 22, 26, 28)),
            # Counts, size and offset of the list: 4.3.16.
            (b"PK\5\6", (4, 8, 10, 12, 16, 20)),
        ),
        random,
    )
    starts = [i for i in range(len(found)) if found.startswith(record, i)]
    if starts:
        start = _pick(starts, random) + _pick(offsets, random)
        value = int(_pick((0, 1, 8, 9, 12, 14, 93, 99, 2**16 - 1, 2**31, 2**32 - 1), random))
        size = int(_pick((2, 4), random))
        found[start : start + size] = (value % 256**size).to_bytes(size, "little")
    return bytes(found)


def zip64(content: bytes, random: Random) -> bytes:
    """Has the list's entries say that their sizes stand in an extra field, which lies."""
    found = content
    start = found.rfind(b"PK\1\2")
    if start < 0:
        return found
    numbers = [int(_pick((0, 1, 2**40, 2**63, 2**64 - 1), random)) for _ in range(3)]
    extra = struct.pack("<HH3Q", 1, 24, *numbers)[: int(_pick((28, 28, 20, 3), random))]
    head = bytearray(found[start : start + 46])
    name_size, extra_size = struct.unpack("<HH", head[28:32])
    head[20:28] = b"\xff" * 8
    head[30:32] = struct.pack("<H", len(extra))
    end = start + 46 + name_size
    grown = len(extra) - extra_size
    rest = extra + found[end + extra_size :]
    found = found[:start] + bytes(head) + found[start + 46 : end] + rest
    # The list's own size, in the record after it, is then still right.
    last = found.rfind(b"PK\5\6")
    (size,) = struct.unpack("<I", found[last + 12 : last + 16])
    return found[: last + 12] + struct.pack("<I", size + grown) + found[last + 16 :]


def archive(members: list[tuple[str, bytes]], random: Random) -> bytes:
    """Returns an archive, packed in one of the ways that Python knows."""
    file = io.BytesIO()
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(file, "w", _pick(kinds[:2] * 3 + kinds, random)) as target:
        for name, content in members:
            target.writestr(zipfile.ZipInfo(name), content, target.compression)
    return file.getvalue()


def any_npz(names: tuple[str, ...], random: Random) -> tuple[str, bytes]:
    """Returns an archive of arrays of these names as it may be, and what it is."""
    made = arrays(random)
    members = [(f"{name}.npy", npy(made[PLAIN[name]]())) for name in names]
    what = []
    kind = random.random()
    if kind < 0.6:
        place = int(random.integers(len(members)))
        described, content = any_npy(random)
        members[place] = members[place][0], content
        what.append(f"{members[place][0]}: {described}")
    if random.random() < 0.15:
        place = int(random.integers(len(members)))
        name = _pick(("", "x.npy", "images", "../images.npy", "images.npy/", "a\0b", "é"), random)
        members[place] = name, members[place][1]
        what.append(f"named {name!r}")
    if random.random() < 0.15:
        members.append(_pick(members, random))
        what.append("twice")
    if random.random() < 0.1:
        members[0] = members[0][0], b"no array"
        what.append("no array")
    content = archive(members, random)
    if kind > 0.5 or not what:
        for change in (lie, lie, zip64):
            if random.random() < 0.5:
                content = change(content, random)
                what.append(change.__name__)
    return ", ".join(what) or "plain", content


PLAIN = {"images": "images", "labels": "labels", "targets": "floats", "key": "key"}
PLAIN["outputs"] = "floats"


# What reads them.


def damage(path: Path, random: Random) -> str:
    """In some cases damages a file as any other may be."""
    if random.random() < 0.75:
        return ""
    change = _pick(fuzz.ANY_FILE, random)
    change(path, random)
    return f", {change.__name__}"


def fuzz_samples(folder: Path, random: Random) -> tuple[str, dict[str, Outcome]]:
    path = folder.parent / "samples.npz"
    names = _pick((("images", "labels"), ("images", "labels", "targets"), ("images",)), random)
    what, content = any_npz(names, random)
    path.write_bytes(content)
    what += damage(path, random)
    with contextlib.suppress(HemlineError):
        # The float model's answers, so that the samples come to be judged.
        samples = resolve_samples(str(path), None, "test")
        manifest = json.loads((folder / "manifest.json").read_text())
        outputs = random.dirichlet(np.ones(10), len(samples)).astype(np.float32)
        key = np.array([manifest["float_model"]["sha256"], samples.sha256()])
        np.savez(folder / FLOAT_PREDICTIONS, key=key, outputs=outputs)
    return f"samples: {what}", {
        "resolve_samples": of_call(lambda: resolve_samples(str(path), None, "test"), DataError),
        "verify": of_command(hemline_main, ["verify", folder, "--data", path]),
    }


def fuzz_predictions(folder: Path, random: Random) -> tuple[str, dict[str, Outcome]]:
    path = folder / FLOAT_PREDICTIONS
    with np.load(path) as true:
        key, outputs = npy(true["key"]), npy(true["outputs"])
    members = {"key.npy": key, "outputs.npy": outputs}
    way = random.random()
    if way < 0.3:
        with np.load(path) as true:
            outputs = true["outputs"]
        value = _pick((np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, -1, 0, 1e-45), random)
        outputs[int(random.integers(len(outputs))) :: int(_pick((1, 7, 99), random))] = value
        what, members["outputs.npy"] = f"outputs.npy: {value:g}", npy(outputs)
        content = archive(list(members.items()), random)
    elif way < 0.6:
        what, member = any_npy(random)
        # What is of these samples comes to be looked at.
        name = "outputs.npy" if random.random() < 0.7 else "key.npy"
        members[name] = member
        content = archive(list(members.items()), random)
        what = f"{name}: {what}"
    else:
        what, content = "", archive(list(members.items()), random)
        for change in (lie, zip64):
            if random.random() < 0.6:
                what, content = f"{what} {change.__name__}", change(content, random)
    path.write_bytes(content)
    what += damage(path, random)
    data = folder.parent / "small.npz"
    found = of_command(hemline_main, ["verify", folder, "--data", data])
    return f"predictions: {what}", {"verify": found}


def fuzz_npy(folder: Path, random: Random) -> tuple[str, dict[str, Outcome]]:
    path = folder.parent / "picture.npy"
    what, content = any_npy(random)
    path.write_bytes(content)
    what += damage(path, random)
    return f"npy: {what}", {
        "read_picture": of_call(lambda: read_picture(path, (28, 28, 1), invert=False), InputError),
        "predict": of_command(hemline_main, ["predict", folder, path]),
        "verify": of_command(hemline_main, ["verify", folder, "--data", path]),
    }


FUZZERS = (fuzz_samples, fuzz_predictions, fuzz_samples, fuzz_npy)


def fuzz_arrays(base: Path, number: int, seed: int) -> tuple[str, dict[str, Outcome]]:
    """Makes one archive, beside a copy of a folder, and has everything read it."""
    random = np.random.default_rng([seed, number])
    with tempfile.TemporaryDirectory(prefix="hemline-fuzz-") as scratch:
        folder = Path(shutil.copytree(base, Path(scratch) / "model"))
        shutil.copyfile(base.parent / "small.npz", folder.parent / "small.npz")
        return FUZZERS[number % len(FUZZERS)](folder, random)


# Keras files.

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
# A model of this size opens anywhere; the limits of a child hold off larger ones.
KERAS_NUMBERS = (0, -1, 1, 2, 3, 7, 64, 0.5, -1.0, 1e308)


def change_config(content: bytes, random: Random) -> bytes:
    document = json.loads(content)
    for _ in range(int(random.integers(1, 4))):
        change = _pick(fuzz_records.CHANGES, random)
        if change in (fuzz_records.put_hostile, fuzz_records.put_hostile_number):
            path = fuzz_records.place(document, random, (int, float))
            fuzz_records.put(document, path, _pick(KERAS_NUMBERS, random))
        elif change is not fuzz_records.scale_number:
            change(document, random)
    return fuzz_records.encode(document)


def change_bytes(content: bytes, random: Random) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "member"
        path.write_bytes(content)
        _pick(fuzz.ANY_FILE[:-1], random)(path, random)
        return path.read_bytes()


def fuzz_keras(file: Path, number: int, seed: int) -> tuple[str, dict[str, Outcome]]:
    """Makes one Keras file of another, and opens it."""
    from hemline_export.keras_file import load_keras

    random = np.random.default_rng([seed, number])
    with zipfile.ZipFile(file) as source:
        members = {name: source.read(name) for name in source.namelist()}
    what = _pick(("config", "config", "config", "weights", "member", "file", "lie"), random)
    if what == "config":
        members[CONFIG] = change_config(members[CONFIG], random)
    elif what == "weights":
        members[WEIGHTS] = change_bytes(members[WEIGHTS], random)
    elif what == "member":
        name = _pick(sorted(members), random)
        content = members.pop(name)
        other = _pick(("", "../x", "/x", "assets/x", name, "x.json", "a\0b"), random)
        members[other] = content if random.random() < 0.5 else change_bytes(content, random)
    content = archive(list(members.items()), random)
    if what == "lie":
        content = lie(content, random)
    with tempfile.TemporaryDirectory(prefix="hemline-fuzz-") as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        if what == "file":
            change = _pick(fuzz.ANY_FILE, random)
            change(path, random)
            what = change.__name__
        return f"keras: {what}", {"load_keras": of_call(lambda: load_keras(path))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("npz", "keras"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutations", type=int, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this mutation alone")
    options = parser.parse_args()
    numbers = range(options.mutations) if options.only is None else [options.only]
    with tempfile.TemporaryDirectory(prefix="hemline-fuzz-") as scratch:
        if options.kind == "npz":
            fuzz_records.leave_out_keras()
            base = Path(scratch) / "base"
            fuzz_records.prepare(options.folder, base, np.random.default_rng(options.seed))

            def one(number: int) -> tuple[str, dict[str, Outcome]]:
                return fuzz_arrays(base, number, options.seed)
        else:
            (file,) = options.folder.glob("*.float.keras")
            from hemline_export.keras_file import load_keras

            load_keras(file)

            def one(number: int) -> tuple[str, dict[str, Outcome]]:
                return fuzz_keras(file, number, options.seed)

        before = fuzz.peak_bytes()
        for number in numbers:
            what, found = one(number)
            print(json.dumps(fuzz_records.result_of(number, what, found)), flush=True)
    print(json.dumps({"before_bytes": before, "after_bytes": fuzz.peak_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

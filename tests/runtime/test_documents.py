import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hemline.artifact_facts import EMBEDDED_SCHEMA, ArtifactFacts, EmbeddedFacts
from hemline.benchmark.report import SCHEMA as BENCH_SCHEMA
from hemline.benchmark.report import BenchReport
from hemline.documents import decode, encode, from_json, read_document, write_document
from hemline.errors import ManifestError, OutputError
from hemline.facts import ModelFacts
from hemline.golden import SCHEMA as GOLDEN_SCHEMA
from hemline.golden import Golden
from hemline.listing import SCHEMA as MANIFEST_SCHEMA
from hemline.manifest import Manifest
from hemline.parity.verify import SCHEMA as PARITY_SCHEMA
from hemline.parity.verify import ParityReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    number: float
    names: tuple[str, ...]
    counts: dict[str, int]
    maybe: int | None
    yes: bool


SMALL = Small(number=1.5, names=("a", "ü"), counts={"x": 1}, maybe=None, yes=True)
SMALL_JSON = {
    "schema": "small/1",
    "number": 1.5,
    "names": ["a", "ü"],
    "counts": {"x": 1},
    "maybe": None,
    "yes": True,
}


def small(**changes: Any) -> bytes:
    return json.dumps(SMALL_JSON | changes).encode()


def test_the_text_of_a_document() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Samples:
        values: tuple[float, ...]
        name: str

    text = encode("s/1", Samples(values=(1.0, -2.5, 3e-9), name="1, 2"))
    assert text.decode() == (
        '{\n "schema": "s/1",\n "values": [1.0, -2.5, 3e-09],\n "name": "1, 2"\n}\n'
    )
    assert json.loads(encode("small/1", SMALL)) == SMALL_JSON


def test_round_trips(build: Path, model_facts: ModelFacts, artifact_facts: ArtifactFacts) -> None:
    folder = build / "toy"
    facts = EmbeddedFacts(model=model_facts, artifact=artifact_facts)
    assert decode(EMBEDDED_SCHEMA, EmbeddedFacts, encode(EMBEDDED_SCHEMA, facts), "f") == facts
    bare = replace(facts, model=replace(model_facts, dataset=None, floor_accuracy=None))
    assert decode(EMBEDDED_SCHEMA, EmbeddedFacts, encode(EMBEDDED_SCHEMA, bare), "f") == bare
    for name, schema, kind in (
        ("manifest.json", MANIFEST_SCHEMA, Manifest),
        ("golden.json", GOLDEN_SCHEMA, Golden),
        ("parity.json", PARITY_SCHEMA, ParityReport),
        ("bench.json", BENCH_SCHEMA, BenchReport),
    ):
        value: Any = read_document(folder / name, schema, kind)
        assert type(value) is kind
        assert decode(schema, kind, encode(schema, value), name) == value
        assert encode(schema, value) == (folder / name).read_bytes()


def test_an_integer_will_do_for_a_float() -> None:
    value = decode("small/1", Small, small(number=2), "f")
    assert value.number == 2.0
    assert type(value.number) is float


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (small(extra=1), r"f: unknown keys \['extra'\], missing keys \[\]"),
        (
            json.dumps({k: v for k, v in SMALL_JSON.items() if k != "yes"}).encode(),
            r"f: unknown keys \[\], missing keys \['yes'\]",
        ),
        (small(number="1"), r"f\.number: expected a number, got '1'"),
        (small(number=True), r"f\.number: expected a number, got True"),
        (small(number=float("nan")), r"f\.number: expected a number, got nan"),
        (small(number=float("-inf")), r"f\.number: expected a number, got -inf"),
        (small(names="a"), r"f\.names: expected a list, got 'a'"),
        (small(names=["a", 2]), r"f\.names\[1\]: expected str, got 2"),
        (small(counts=[1]), r"f\.counts: expected an object, got \[1\]"),
        (small(counts={"x": 1.0}), r"f\.counts\.x: expected int, got 1\.0"),
        (small(maybe="no"), r"f\.maybe: expected int, got 'no'"),
        (small(yes=1), r"f\.yes: expected bool, got 1"),
        (small(schema="small/2"), r"f: schema is 'small/2', expected 'small/1'"),
        (b"{}", r"f: schema is None, expected 'small/1'"),
        (b"[1]", r"f: schema is None, expected 'small/1'"),
        (b"{", r"f: not valid JSON \("),
        (b"", r"f: not valid JSON \("),
        (b"\xff\xfe\x00", r"f: not valid JSON \("),
    ],
)
def test_a_wrong_document_is_named_with_its_key(content: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        decode("small/1", Small, content, "f")


def set_key(*path: str | int) -> Callable[[Any, Any], None]:
    def change(document: Any, value: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "value", "message"),
    [
        (set_key("artifacts", 1, "sha256"), 5, r"\.artifacts\[1\]\.sha256: expected str, got 5"),
        (
            set_key("artifacts", 0, "facts", "input", "quantization", "scale"),
            0,
            r"\.artifacts\[0\]\.facts\.input\.quantization: a scale must be finite",
        ),
        (
            set_key("artifacts", 0, "facts", "margin_pt"),
            -1,
            r"\.artifacts\[0\]\.facts: a margin must lie between",
        ),
        (
            set_key("artifacts", 0, "facts", "toolchain", "keras"),
            None,
            r"\.toolchain\.keras: expected str, got None",
        ),
        (set_key("artifacts", 0, "file"), "../x", r"\.artifacts\[0\]: an artifact must be a plain"),
        (set_key("float_model", "file"), "", r"\.float_model: an artifact must be a plain"),
        (set_key("model", "input", "shape"), [28, "28"], r"\.input\.shape\[1\]: expected int"),
        (set_key("model", "labels"), ["a", "a"], r"\.model: labels must be two or more"),
        (set_key("model", "input", "preprocessing", "std"), 0, r"\.preprocessing: preprocessing"),
        (
            set_key("artifacts", 0, "facts", "calibration"),
            [],
            r"\.calibration: expected an object, got \[\]",
        ),
    ],
)
def test_a_wrong_manifest_is_named_with_its_key(
    build: Path, change: Callable[[Any, Any], None], value: Any, message: str
) -> None:
    path = build / "toy" / "manifest.json"
    document = json.loads(path.read_bytes())
    change(document, value)
    path.write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=r"manifest\.json.*" + message):
        read_document(path, MANIFEST_SCHEMA, Manifest)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_is_not_written(tmp_path: Path, number: float) -> None:
    path = tmp_path / "small.json"
    write_document(path, "small/1", SMALL)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_document(path, "small/1", replace(SMALL, number=number))
    assert read_document(path, "small/1", Small) == SMALL


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot read .*none\.json: No such file"):
        read_document(tmp_path / "none.json", "small/1", Small)
    with pytest.raises(ManifestError, match="is a folder, expected an ordinary file"):
        read_document(tmp_path, "small/1", Small)


def test_an_unwritable_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write in"):
        write_document(tmp_path / "file" / "small.json", "small/1", SMALL)


def test_a_document_holds_nothing_that_a_terminal_obeys() -> None:
    small = replace(SMALL, names=("\x1b[2J\x9b\u202e", "\udcff", "\U000e0041", "émeu"))
    content = encode("small/1", small)
    assert rb'"\u001b[2J\u009b\u202e"' in content
    assert rb'"\udb40\udc41"' in content
    assert "émeu".encode() in content
    assert decode("small/1", Small, content, "it") == small


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"a":' * 100_000, '{"schema": "small/1", "number": 1' + "0" * 4_999 + "}"],
    ids=["lists", "objects", "digits"],
)
def test_documents_that_are_too_much(content: str) -> None:
    with pytest.raises(ManifestError, match="it: not valid JSON"):
        decode("small/1", Small, content.encode(), "it")


def test_a_number_beyond_all_floats() -> None:
    content = json.dumps(SMALL_JSON | {"number": 10**400}).encode()
    with pytest.raises(ManifestError, match=r"it\.number: expected a number, got 1000"):
        decode("small/1", Small, content, "it")


def test_a_giant_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "giant.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(
        ManifestError, match=r"giant\.json has 1,099,511,627,776 bytes; at most 33,554,432 are read"
    ):
        read_document(path, "small/1", Small)


@pytest.mark.parametrize("number", [1 << 64, -(1 << 64), 10**400])
def test_a_number_beyond_64_bits(number: int) -> None:
    with pytest.raises(ManifestError, match="x: expected a whole number of 64 bits"):
        from_json(int, number, "x")

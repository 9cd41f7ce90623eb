import shutil
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import hemline
from hemline import golden
from hemline.artifact_facts import EMBEDDED_SCHEMA, EmbeddedFacts
from hemline.documents import decode
from hemline.engines.c_source import CSourceEngine, read_array
from hemline.errors import ChecksumError, ModelFileError
from hemline.facts import Preprocessing
from hemline.manifest import read_manifest
from hemline.parity.paired import Verdict
from hemline.parity.verify import verify
from hemline_export.c_source import _escape, _identifier, _method, write_c_source
from hemline_export.export import Described, export
from hemline_export.recipes import Choices, select_recipes

LABELS = ('a"b', "c\\d", "émeu", "what??/", "{};", "6", "7", "8", "9", "10")
# More digits than `:g` would show.
PIXELS = Preprocessing(mean=0.0001234567, std=254.9987)
MICRO = find_spec("tflite_micro") is not None
needs_micro = pytest.mark.skipif(not MICRO, reason="tflite-micro is for Linux on x86-64")


@pytest.fixture(scope="module")
def made(separable_keras: Path, garments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the separable CNN as int8 files and as C source."""
    out = tmp_path_factory.mktemp("c")
    export(
        separable_keras,
        str(garments / "train.npz"),
        out,
        recipes=select_recipes("int8,micro"),
        described=Described(labels=LABELS, preprocessing=PIXELS, floor_accuracy=0.5),
        choices=Choices(calibration_count=100),
    )
    return out


@pytest.fixture
def source(made: Path) -> Path:
    return made / "separable.micro.csource"


PROGRAM = """
#include <stdint.h>
#include <stdio.h>
#include "separable_model.h"
#include "separable_model.h"

struct Resolver {
    int count = 0;
    void AddConv2D() { ++count; }
    void AddDepthwiseConv2D() { ++count; }
    void AddFullyConnected() { ++count; }
    void AddMean() { ++count; }
    void AddSoftmax() { ++count; }
};

#ifdef SEPARABLE_ARENA_BYTES
alignas(16) static uint8_t arena[SEPARABLE_ARENA_BYTES];
#else
static uint8_t arena[1];
#endif

int main() {
    Resolver resolver;
    SEPARABLE_ADD_OPERATORS(resolver);
    printf("%d %d %zu\\n", resolver.count, SEPARABLE_OPERATOR_COUNT, sizeof(arena));
    printf("%d %d\\n", SEPARABLE_INPUT_SIZE, SEPARABLE_OUTPUT_SIZE);
    printf("%.9g %d\\n", (double)SEPARABLE_INPUT_SCALE, SEPARABLE_INPUT_ZERO_POINT);
    printf("%.9g %d\\n", (double)SEPARABLE_OUTPUT_SCALE, SEPARABLE_OUTPUT_ZERO_POINT);
    printf("%.9g %.9g\\n", (double)SEPARABLE_PIXEL_MEAN, (double)SEPARABLE_PIXEL_STD);
    printf("%d\\n", (int)((uintptr_t)separable_model % 16));
    for (int i = 0; i < SEPARABLE_LABEL_COUNT; ++i) printf("%s\\n", separable_labels[i]);
    fwrite(separable_model, 1, separable_model_len, stderr);
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_it_compiles_and_holds_the_model(made: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "main.cc").write_text(PROGRAM)
    strict = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wtrigraphs")
    files = (tmp_path / "main.cc", source / "separable_model.cc")
    program = tmp_path / "program"
    subprocess.run(["g++", *strict, f"-I{source}", *files, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, check=True)
    assert done.stderr == read_array(source)
    count, sizes, given, taken, pixels, offset, *labels = done.stdout.decode().splitlines()
    artifact = next(a for a in read_manifest(made).artifacts if a.file == source.name)
    settings = artifact.facts.settings
    assert count == f"5 5 {settings['arena_bytes'] if MICRO else 1}"
    assert sizes == "784 10"
    for line, spec in ((given, artifact.facts.input), (taken, artifact.facts.output)):
        scale, zero = line.split()
        assert spec.quantization is not None
        assert float(scale) == pytest.approx(spec.quantization.scale, rel=1e-8)
        assert int(zero) == spec.quantization.zero_point
    found = [np.float32(number) for number in pixels.split()]
    assert found == [np.float32(number) for number in (PIXELS.mean, PIXELS.std)]
    assert offset == "0"
    assert tuple(labels) == LABELS


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler")
def test_the_header_is_for_c_as_well(source: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text('#include "separable_model.h"\nint main(void) { return 0; }\n')
    strict = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")
    subprocess.run(["gcc", *strict, f"-I{source}", tmp_path / "main.c"], check=True)


def test_the_array_is_the_int8_file_with_facts_of_its_own(made: Path, source: Path) -> None:
    int8 = hemline.load(made / "separable.int8.tflite")
    content = read_array(source)
    assert content[4:8] == b"TFL3"
    facts = CSourceEngine.read_facts(source)
    assert facts is not None
    stated = decode(EMBEDDED_SCHEMA, EmbeddedFacts, facts, "facts")
    assert (stated.artifact.recipe, stated.artifact.engine) == ("micro", "micro")
    assert stated.model == int8.facts
    structure = CSourceEngine.structure(source)
    assert (structure.inputs, structure.outputs) == (int8.info.inputs, int8.info.outputs)


@needs_micro
def test_it_runs_and_is_proven(made: Path, source: Path, garments: Path) -> None:
    from hemline.engines.micro import MicroEngine

    model = hemline.load(source)
    with np.load(garments / "test.npz") as data:
        images = data["images"][:20]
    as_file = hemline.load(made / "separable.int8.tflite", engine="micro")
    found = model.predict(images)
    assert model.info.engine == "micro"
    assert (found.probabilities == as_file.predict(images).probabilities).all()
    settings = model.info.artifact.settings if model.info.artifact else {}
    whole = MicroEngine(source, 1, content=read_array(source))
    assert settings["arena_bytes"] == str(whole.arena_bytes())
    report = verify(made, str(garments / "test.npz"), count=500)
    (judged,) = [a for a in report.artifacts if a.file == source.name]
    assert judged.engine == "micro"
    assert judged.accuracy is not None
    assert judged.accuracy > 0.5
    assert judged.audit is not None
    assert judged.audit.integer_operators == judged.audit.operators
    (tested,) = [a for a in golden.selftest(made).artifacts if a.file == source.name]
    assert tested.verdict == Verdict.PASS
    # golden.json has six digits.
    assert tested.max_change == pytest.approx(0, abs=1e-6)


def test_without_tflite_micro_the_arena_is_not_guessed(source: Path, tmp_path: Path) -> None:
    facts = decode(EMBEDDED_SCHEMA, EmbeddedFacts, CSourceEngine.read_facts(source) or b"", "facts")
    settings = {"arena_bytes": "not measured", "arena_measured_with": "it is not installed"}
    facts = replace(facts, artifact=replace(facts.artifact, settings=settings))
    folder = tmp_path / "separable.micro.csource"
    write_c_source(folder, read_array(source), facts)
    header = (folder / "separable_model.h").read_text()
    assert "// The arena was not measured: it is not installed.\n" in header
    assert "ARENA_BYTES" not in header


def test_a_changed_number_is_refused(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "made"))
    path = folder / "separable.micro.csource" / "separable_model.cc"
    content = bytearray(path.read_bytes())
    place = content.index(b"0x", len(content) // 2) + 3
    content[place] = ord("0") if content[place] != ord("0") else ord("1")
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"separable\.micro\.csource has SHA-256"):
        hemline.load(path.parent)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds 0 .cc files, expected exactly one"),
        ({"a.cc": "", "b.cc": ""}, "holds 2 .cc files"),
        ({"a.cc": "int main() {}"}, r"a\.cc holds no array of bytes"),
        ({"a.cc": "const unsigned char a[] = {0x100};"}, r"a\.cc holds no array"),
        ({"a.cc": "const unsigned char a[] = {0x1, 0xx};"}, r"a\.cc holds no array"),
        ({"a.cc": 2 * "const unsigned char a[] = {0x1};\n"}, r"a\.cc holds no array"),
    ],
)
def test_what_is_no_c_source(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelFileError, match=message):
        read_array(tmp_path)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("CONV_2D", "Conv2D"),
        ("FULLY_CONNECTED", "FullyConnected"),
        ("L2_POOL_2D", "L2Pool2D"),
        ("PADV2", "PadV2"),
        ("RELU6", "Relu6"),
        ("SPACE_TO_BATCH_ND", "SpaceToBatchNd"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "UnidirectionalSequenceLSTM"),
    ],
)
def test_the_resolver_s_methods(kind: str, method: str) -> None:
    """As micro_mutable_op_resolver.h of tflite-micro names them."""
    assert _method(kind) == method


def test_names_and_strings_of_c() -> None:
    assert [_identifier(name) for name in ("my-net", "2nd", "", "naïve", "int")] == [
        "my_net",
        "model_2nd",
        "model_",
        "na_ve",
        "int",
    ]
    assert _escape('a"b\\c?\né') == r"a\042b\134c\077\012\303\251"

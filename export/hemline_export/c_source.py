"""A model as C source for TensorFlow Lite Micro: a .cc file and its header, in a folder.

The array in the .cc file is the .tflite file to the byte; the header has what a program needs
beside it: the size of the arena, the grids, the labels and the operators to register.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from hemline.artifact_facts import EmbeddedFacts
from hemline.engines.litert import LiteRTEngine
from hemline.errors import EngineUnavailableError
from hemline.facts import TensorSpec
from hemline.ownership import replacing_package

ARENA_BYTES = "arena_bytes"
_NOT_MEASURED = "not measured"

# In micro_mutable_op_resolver.h, where capitals at the beginning of each word do not give it.
_METHODS = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}


def measure_arena(path: Path, content: bytes) -> dict[str, str]:
    """Returns the settings of an artifact that say what memory a model works in on a board.

    Args:
        path: what to call the model in an error.
        content: its .tflite file.

    Raises:
        ModelFileError: TensorFlow Lite Micro is installed and refuses it.
    """
    try:
        from hemline.engines.micro import MicroEngine
    except EngineUnavailableError:
        arena, measured = _NOT_MEASURED, "TensorFlow Lite Micro is not installed here"
    else:
        arena = str(MicroEngine(path, 1, content=content).arena_bytes())
        measured = f"tflite-micro {MicroEngine.version()} on x86-64"
    return {ARENA_BYTES: arena, "arena_measured_with": measured}


def write_c_source(folder: Path, content: bytes, facts: EmbeddedFacts | None = None) -> None:
    """Writes the folder, whole or not at all.

    Args:
        folder: what to write.
        content: the .tflite file.
        facts: what the header says; None writes the array alone, for the file to be read.

    Raises:
        OutputError: it cannot be written.
    """
    name = _identifier(facts.model.model if facts else folder.name.partition(".")[0])
    source = [f"alignas(16) const unsigned char {name}_model[] = {{", *_rows(content), "};"]
    if facts is not None:
        labels = [f'    "{_escape(label)}",' for label in facts.model.labels]
        source = [
            f'#include "{name}_model.h"',
            "",
            *source,
            f"const size_t {name}_model_len = sizeof({name}_model);",
            *([f"const char* const {name}_labels[] = {{", *labels, "};"] if labels else []),
        ]
    with replacing_package(folder) as temporary:
        temporary.mkdir()
        (temporary / f"{name}_model.cc").write_text("\n".join(source) + "\n", "utf-8")
        if facts is not None:
            header = "\n".join(_header(name, folder, content, facts)) + "\n"
            (temporary / f"{name}_model.h").write_text(header, "utf-8")


def _header(name: str, path: Path, content: bytes, facts: EmbeddedFacts) -> Iterator[str]:
    upper, settings = name.upper(), facts.artifact.settings
    yield "// For TensorFlow Lite Micro. Made by `hemline export --recipes micro` from the float"
    yield f"// model of SHA-256 {facts.artifact.parent_sha256}."
    yield f"#ifndef {upper}_MODEL_H_"
    yield f"#define {upper}_MODEL_H_"
    yield ""
    yield "#include <stddef.h>"
    yield ""
    if settings[ARENA_BYTES] == _NOT_MEASURED:
        yield f"// The arena was not measured: {settings['arena_measured_with']}."
    else:
        yield f"// The smallest arena that works, by {settings['arena_measured_with']}."
        yield "// Align it to 16 bytes. With pointers of 4 bytes it may be smaller; kernels other"
        yield "// than the portable ones may need more."
        yield f"#define {upper}_ARENA_BYTES {settings[ARENA_BYTES]}"
    yield ""
    pixels = facts.model.input.preprocessing
    if pixels is not None:
        yield "// A pixel of 0 to 255 stands for the real input (pixel - mean) / std."
        yield f"#define {upper}_PIXEL_MEAN {pixels.mean:.9e}f"
        yield f"#define {upper}_PIXEL_STD {pixels.std:.9e}f"
        yield ""
    for role, spec in (("INPUT", facts.artifact.input), ("OUTPUT", facts.artifact.output)):
        yield from _border(f"{upper}_{role}", spec)
    operations = LiteRTEngine(path, 1, content=content).describe().operators
    methods = sorted(_method(kind) for kind in operations)
    yield f"// tflite::MicroMutableOpResolver<{upper}_OPERATOR_COUNT> resolver;"
    yield f"// {upper}_ADD_OPERATORS(resolver);"
    yield f"#define {upper}_OPERATOR_COUNT {len(methods)}"
    yield f"#define {upper}_ADD_OPERATORS(resolver) \\"
    yield "    do { \\"
    for method in methods:
        yield f"        (resolver).Add{method}(); \\"
    yield "    } while (0)"
    yield ""
    yield "#ifdef __cplusplus"
    yield 'extern "C" {'
    yield "#endif"
    yield f"extern const unsigned char {name}_model[];"
    yield f"extern const size_t {name}_model_len;"
    if facts.model.labels:
        yield f"#define {upper}_LABEL_COUNT {len(facts.model.labels)}"
        yield f"extern const char* const {name}_labels[];"
    yield "#ifdef __cplusplus"
    yield '}  // extern "C"'
    yield "#endif"
    yield ""
    yield f"#endif  // {upper}_MODEL_H_"


def _border(prefix: str, spec: TensorSpec) -> Iterator[str]:
    sizes = [size for size in spec.shape if size is not None]
    yield f"// {spec.dtype}, shape {' x '.join(map(str, sizes))}"
    yield f"#define {prefix}_SIZE {math.prod(sizes)}"
    if spec.quantization is not None:
        yield "// real = scale * (integer - zero point)"
        yield f"#define {prefix}_SCALE {spec.quantization.scale:.9e}f"
        yield f"#define {prefix}_ZERO_POINT ({spec.quantization.zero_point})"
    yield ""


def _rows(content: bytes) -> Iterator[str]:
    for start in range(0, len(content), 16):
        yield "    " + ", ".join(f"0x{byte:02x}" for byte in content[start : start + 16]) + ","


def _method(kind: str) -> str:
    words = (word if word[0].isdigit() else word.capitalize() for word in kind.split("_"))
    return _METHODS.get(kind, "".join(words))


def _identifier(name: str) -> str:
    """Returns a name as a C identifier can have it: ASCII letters, digits and underscores."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"model_{plain}" if not plain or plain[0].isdigit() else plain


def _escape(text: str) -> str:
    """Returns text as a C string literal has it, in UTF-8, with no trigraphs."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )

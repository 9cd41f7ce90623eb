"""What holds for every file that any package reads, writes, moves or deletes.

A path from anywhere is opened by `hemline.files` alone, which reads ordinary files within limits.
What is there already is replaced, moved or deleted by the few modules that know whose it is.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hemline
import hemline_export
import hemline_train

READS = {"read_bytes", "read_text", "open", "load", "memmap", "fromfile", "loadtxt", "genfromtxt"}
REPLACES = {
    *("rename", "replace", "renames", "unlink", "rmdir", "removedirs", "rmtree", "move"),
    *("copyfile", "copytree", "copy2", "write_bytes", "write_text", "symlink_to"),
    *("hardlink_to", "truncate", "chmod", "touch"),
}
# What these words are methods of besides files.
OTHERS = {"archive", "Image", "schema", "json", "hemline", "point", "snapshot", "model", "self"}

# Each with the reason why it does no harm.
READERS = {
    "hemline/files.py": "is the one that opens",
    "hemline/host.py": "the system's own files below /proc and /sys",
    "hemline/commit.py": "its lock file, neither through a link nor waiting for a pipe",
    "hemline/console.py": "/dev/null",
    "hemline_export/coreml.py": "a package that it is just writing",
    "hemline_export/onnx_quantize.py": "in a temporary folder",
    "hemline_train/report.py": "this package's own source",
    "hemline_train/backend.py": "/dev/null",
}
WRITERS = {
    "hemline/release.py": "into a stage",
    "hemline/files.py": "refuses folders and what is no file",
    "hemline/commit.py": "by its journal, and only what Hemline made",
    "hemline/ownership.py": "packages by packages of their kind",
    "hemline/snapshot.py": "its own copy in a temporary folder",
    "hemline_export/export.py": "in a stage",
    "hemline_export/ladder.py": "in a stage",
    "hemline_export/coreml.py": "a package that it is just writing",
    "hemline_export/c_source.py": "a package that it is just writing",
    "hemline_export/debug.py": "in a temporary folder",
}


def sources() -> dict[str, str]:
    """The source of each module, by its path from the folder above its package."""
    found = {}
    for package in (hemline, hemline_export, hemline_train):
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            name = file.relative_to(folder.parent).as_posix()
            found[name] = file.read_text(encoding="utf-8")
    return found


def calls(source: str, names: set[str]) -> Iterator[str]:
    """Yields each call of one of these functions or methods, as it is written."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id == "open" and "open" in names:
            yield ast.unparse(node)
        elif isinstance(function, ast.Attribute) and function.attr in names:
            owner = ast.unparse(function.value)
            texts = [a for a in node.args if isinstance(a, ast.Constant | ast.JoinedStr)]
            # `str.replace` takes two texts, and an entry point's `load` nothing.
            is_other = (function.attr == "replace" and texts) or (
                function.attr == "load" and not node.args
            )
            if owner.partition(".")[0] not in OTHERS and not is_other:
                yield ast.unparse(node)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_bytes()", 1),
        ("open(path)", 1),
        ("np.load(path, allow_pickle=False)", 1),
        ("archive.open('config.json'); json.load(file)", 0),
        ("with path.open('rb') as file: pass", 1),
    ],
)
def test_what_counts_as_reading(source: str, found: int) -> None:
    assert len(list(calls(source, READS))) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("shutil.rmtree(path)", 1),
        ("written.replace(path); path.rename(other)", 2),
        ("text.replace('a', 'b'); replace(facts, model=m)", 0),
        ("os.replace(a, b); os.unlink(c)", 2),
    ],
)
def test_what_counts_as_replacing(source: str, found: int) -> None:
    assert len(list(calls(source, REPLACES))) == found


def test_every_path_is_opened_by_one_function() -> None:
    found = {name: list(calls(source, READS)) for name, source in sources().items()}
    assert {
        n: complaints for n, complaints in found.items() if complaints and n not in READERS
    } == {}
    # None that is excused for nothing.
    assert [name for name in READERS if not found[name]] == []


def test_only_those_replace_who_know_whose_it_is() -> None:
    found = {name: list(calls(source, REPLACES)) for name, source in sources().items()}
    assert {
        n: complaints for n, complaints in found.items() if complaints and n not in WRITERS
    } == {}
    assert [name for name in WRITERS if not found[name]] == []

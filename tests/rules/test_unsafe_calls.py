"""Nothing in the packages can be made to run code that stands in a file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hemline
import hemline_export
import hemline_train

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
# YAML and archives are not forbidden, but nothing here reads them; what comes to must think of it.
MODULES |= {"yaml", "tarfile", "code", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {"extract", "extractall", "unpack_archive", "load_weights", "fromfile"}


def complaints(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [module, *(alias.name for alias in node.names)]
            yield from (name for name in names if name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            function = node.func
            given = {k.arg: k.value for k in node.keywords}
            if isinstance(function, ast.Name) and function.id in CALLS:
                yield function.id
            if isinstance(function, ast.Attribute) and function.attr in METHODS:
                yield function.attr
            if _is(given.get("allow_pickle"), True) or _is(given.get("shell"), True):
                yield "allow_pickle or shell"
            if ast.unparse(function) in ("np.load", "numpy.load", "np.save") and not _is(
                given.get("allow_pickle"), False
            ):
                yield f"{ast.unparse(function)} without allow_pickle=False"
            if ast.unparse(function).endswith("load_model") and "safe_mode" not in given:
                yield "load_model without safe_mode"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def sources() -> list[Path]:
    packages = (hemline, hemline_export, hemline_train)
    folders = [Path(str(package.__file__)).parent for package in packages]
    return [file for folder in folders for file in sorted(folder.rglob("*.py"))]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle", ["pickle"]),
        ("from marshal import loads", ["marshal"]),
        ("import os, shelve", ["shelve"]),
        ("eval('1')", ["eval"]),
        ("exec(code)", ["exec"]),
        ("archive.extractall()", ["extractall"]),
        ("np.load(f)", ["np.load without allow_pickle=False"]),
        (
            "np.load(f, allow_pickle=True)",
            ["allow_pickle or shell", "np.load without allow_pickle=False"],
        ),
        ("subprocess.run(c, shell=True)", ["allow_pickle or shell"]),
        ("keras.saving.load_model(p)", ["load_model without safe_mode"]),
        ("np.load(f, allow_pickle=False); re.compile('a'); keras.load_model(p, safe_mode=s)", []),
    ],
)
def test_what_is_found(source: str, expected: list[str]) -> None:
    assert list(complaints(source)) == expected


def test_there_is_none_in_the_packages() -> None:
    files = sources()
    assert len(files) > 80
    found = {file.name: list(complaints(file.read_text(encoding="utf-8"))) for file in files}
    assert {name: reasons for name, reasons in found.items() if reasons} == {}

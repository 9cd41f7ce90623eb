"""What may import what: a runtime without TensorFlow, and stages that do not know each other."""

import ast
import subprocess
import sys
from pathlib import Path

import hemline
import hemline_export
import hemline_train

HEAVY = ("tensorflow", "keras", "tf_keras", "hemline_train", "hemline_export", "PIL", "onnx")

BLOCK = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run_python(code: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_packages(package: Path) -> set[str]:
    """Names the packages that any file of a package imports, at its top or inside a function."""
    found = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                found.add((node.module or "").partition(".")[0])
    return found


def folder_of(module: object) -> Path:
    return Path(str(getattr(module, "__file__", None))).parent


def test_every_module_imports_without_what_is_heavy() -> None:
    code = f"""{BLOCK}
import importlib, pkgutil, hemline
names = [m.name for m in pkgutil.walk_packages(hemline.__path__, "hemline.")]
for name in names:
    if name == "hemline.__main__":
        continue
    try:
        importlib.import_module(name)
    except hemline.EngineUnavailableError:
        # For Linux on x86-64 only.
        if name != "hemline.engines.micro":
            raise
print(*names)
"""
    names = run_python(code).split()
    expected = {
        ".".join(file.relative_to(folder_of(hemline).parent).with_suffix("").parts)
        for file in folder_of(hemline).rglob("*.py")
    }
    assert set(names) == {name.removesuffix(".__init__") for name in expected} - {"hemline"}


def test_a_model_predicts_without_what_is_heavy(exported: Path, tmp_path: Path) -> None:
    code = f"""{BLOCK}
import numpy, hemline
model = hemline.load(sys.argv[1])
print(model.predict(numpy.zeros((28, 28), numpy.uint8)).labels)
print(sorted(sys.modules.keys() & set({HEAVY!r})))
"""
    for file in ("separable.int8.tflite", "separable.float32.onnx"):
        copy = tmp_path / file
        copy.write_bytes((exported / file).read_bytes())
        label, heavy = run_python(code, copy).splitlines()
        assert label.startswith("['")
        assert heavy == "[]"


def test_importing_hemline_imports_numpy_and_nothing_else() -> None:
    code = """
import sys
before = set(sys.modules)
import hemline
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
    found = set(run_python(code).split())
    assert found - set(sys.stdlib_module_names) == {"hemline", "numpy"}


def test_the_command_line_imports_no_engine() -> None:
    code = """
import sys
import hemline.cli
hemline.cli._parser()
print(sorted(sys.modules.keys() & {"ai_edge_litert", "onnxruntime", "coremltools", "tensorflow"}))
"""
    assert run_python(code) == "[]\n"


def test_imports_point_one_way() -> None:
    runtime = imported_packages(folder_of(hemline))
    assert runtime - set(sys.stdlib_module_names) == {
        "hemline",
        "numpy",
        # Each inside the one module that needs it.
        "ai_edge_litert",
        "onnxruntime",
        "onnx",
        "coremltools",
        "PIL",
        "threadpoolctl",
        "tflite_micro",
    }
    assert "hemline_train" not in imported_packages(folder_of(hemline_export))
    assert "hemline_export" not in imported_packages(folder_of(hemline_train))

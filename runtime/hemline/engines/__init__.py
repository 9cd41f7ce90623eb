"""The engines that run model files, each in its own module, imported when a file needs it."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hemline.engines.base import Engine
from hemline.errors import EngineUnavailableError, ModelFileError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

ENTRY_POINTS = "hemline.engines"

# Hemline's own engines by suffix and name. Of several for one suffix, the first is the default.
BUILT_IN = {
    ".tflite": {
        "litert": ("hemline.engines.litert", "LiteRTEngine"),
        "litert-builtin": ("hemline.engines.litert", "LiteRTBuiltinEngine"),
        "micro": ("hemline.engines.micro", "MicroEngine"),
    },
    ".csource": {"micro": ("hemline.engines.c_source", "CSourceEngine")},
    ".onnx": {"onnxruntime": ("hemline.engines.onnxruntime", "ONNXRuntimeEngine")},
    ".mlpackage": {
        "coreml": ("hemline.engines.coreml", "CoreMLEngine"),
        "coreml-reference": ("hemline.engines.coreml_reference", "CoreMLReferenceEngine"),
    },
}


def engine_for(path: Path, name: str | None = None) -> type[Engine]:
    """Returns the engine class for a file, by its suffix.

    Other packages add one through an entry point of the group `hemline.engines` whose name is
    the suffix without its dot.

    Args:
        path: the file.
        name: of one of Hemline's own engines; None for the default.

    Raises:
        ModelFileError: nothing runs files of this suffix, or not the engine of that name.
        EngineUnavailableError: what runs them is not installed, or not for this system.
    """
    choices = BUILT_IN.get(path.suffix, {})
    if name is not None and name not in choices:
        raise ModelFileError(
            f"{path}: no engine {name!r} runs files ending in {path.suffix!r}; "
            f"known: {', '.join(choices) or 'none by name'}"
        )
    if choices:
        return engine_named(path.suffix, name or next(iter(choices)))
    engine: type[Engine]
    for point in _plugged_in(path):
        try:
            engine = point.load()
        except ImportError as error:
            raise EngineUnavailableError(
                f"{path.name} needs {error.name}, which is not installed: "
                "pip install 'hemline[export]'"
            ) from error
        return engine
    raise ModelFileError(
        f"{path}: nothing runs files ending in {path.suffix!r}; known: {', '.join(BUILT_IN)}"
    )


def engine_named(suffix: str, name: str) -> type[Engine]:
    """Returns one of Hemline's own engines.

    Raises:
        EngineUnavailableError: what it takes is not installed.
    """
    module, attribute = BUILT_IN[suffix][name]
    engine: type[Engine] = getattr(import_module(module), attribute)
    return engine


def engine_names(path: Path) -> tuple[str, ...]:
    """Returns the names of the engines for a file, by its suffix, the default first."""
    return tuple(BUILT_IN.get(path.suffix, ()))


def is_model(path: Path) -> bool:
    """Tells whether `hemline.load` takes such a path: by its suffix, or as a folder."""
    return path.suffix in BUILT_IN or bool(_plugged_in(path)) or path.is_dir()


def _plugged_in(path: Path) -> "EntryPoints":
    # A fifth of the time that a first prediction takes, and only files of other packages need it.
    from importlib.metadata import entry_points

    return entry_points(group=ENTRY_POINTS, name=path.suffix.removeprefix("."))


def stand_in(engine: str) -> str | None:
    """Returns the engine that judges the files of one that does not run on this system, if any."""
    from hemline.engines import coreml

    return "coreml-reference" if engine == "coreml" and not coreml.runs_here() else None


__all__ = [
    "Engine",
    "engine_for",
    "engine_names",
    "is_model",
    "stand_in",
]

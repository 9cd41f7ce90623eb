"""The engines that run model files, each in its own module, imported when a file needs it."""

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from hemline.engines.base import Engine
from hemline.errors import EngineUnavailableError, ModelFileError

ENTRY_POINTS = "hemline.engines"

_BUILT_IN = {
    ".tflite": ("hemline.engines.litert", "LiteRTEngine"),
    ".onnx": ("hemline.engines.onnxruntime", "ONNXRuntimeEngine"),
    ".mlpackage": ("hemline.engines.coreml", "CoreMLEngine"),
}


def engine_for(path: Path) -> type[Engine]:
    """Returns the engine class for a file, by its suffix.

    Other packages add one through an entry point of the group `hemline.engines` whose name is
    the suffix without its dot.

    Raises:
        ModelFileError: nothing runs files of this suffix.
        EngineUnavailableError: what runs them is not installed, or not for this system.
    """
    if path.suffix in _BUILT_IN:
        module, name = _BUILT_IN[path.suffix]
        engine: type[Engine] = getattr(import_module(module), name)
        return engine
    for point in entry_points(group=ENTRY_POINTS, name=path.suffix.removeprefix(".")):
        try:
            engine = point.load()
        except ImportError as error:
            raise EngineUnavailableError(
                f"{path.name} needs {error.name}, which is not installed: "
                "pip install 'hemline[export]'"
            ) from error
        return engine
    raise ModelFileError(
        f"{path}: nothing runs files ending in {path.suffix!r}; known: {', '.join(_BUILT_IN)}"
    )


__all__ = ["Engine", "engine_for"]

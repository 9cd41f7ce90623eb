"""Core ML packages from a frozen function."""

from pathlib import Path
from typing import Any

from hemline.errors import ExportError
from hemline.facts import EMBEDDED_KEY
from hemline.files import replacing
from hemline.quiet import quiet
from hemline_export.backend import coremltools
from hemline_export.freeze import Frozen


def coreml_from_frozen(frozen: Frozen, labels: tuple[str, ...]) -> Any:
    """Converts to a float16 ML program for macOS 13 and later.

    Float16 throughout, input included, since the Neural Engine takes nothing else.

    Args:
        frozen: the float model.
        labels: with which it becomes a classifier; none for a program that gives a plain array.

    Returns:
        A `coremltools.models.MLModel`, not loaded into Core ML.

    Raises:
        ExportError: the converter refuses the model.
    """
    try:
        with quiet():
            model = coremltools.convert(
                [frozen.function],
                source="tensorflow",
                convert_to="mlprogram",
                inputs=[coremltools.TensorType(name=frozen.input_name, shape=(1, *frozen.shape))],
                classifier_config=coremltools.ClassifierConfig(list(labels)) if labels else None,
                minimum_deployment_target=coremltools.target.macOS13,
                compute_precision=coremltools.precision.FLOAT16,
                compute_units=coremltools.ComputeUnit.CPU_AND_NE,
                skip_model_load=True,
            )
            return model if labels else _name_output(model, frozen.output_name)
    # coremltools raises whatever its frontend and passes run into.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"Core ML: the converter refuses the model: {reason}") from error


def _name_output(model: Any, name: str) -> Any:
    """Returns a model whose only output has the name that it has in the other files."""
    spec = model.get_spec()
    coremltools.utils.rename_feature(spec, spec.description.output[0].name, name)
    return coremltools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def write_package(path: Path, model: Any) -> None:
    """Writes an .mlpackage folder, whole or not at all."""
    with replacing(path) as temporary:
        model.save(str(temporary))


def embed_facts(path: Path, facts: bytes) -> None:
    """Puts a facts document into the user-defined metadata of an .mlpackage folder."""
    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    model.user_defined_metadata[EMBEDDED_KEY] = facts.decode()
    write_package(path, model)

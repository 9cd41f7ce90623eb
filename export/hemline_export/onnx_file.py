"""ONNX files from a frozen function."""

import onnx

from hemline.errors import ExportError
from hemline.facts import EMBEDDED_KEY
from hemline.quiet import quiet
from hemline_export.backend import tf2onnx
from hemline_export.freeze import Frozen

# The newest that tf2onnx 1.17 writes.
OPSET = 18


def onnx_from_frozen(frozen: Frozen) -> bytes:
    """Converts to float32 ONNX with batch 1, checked by onnx's own checker.

    Raises:
        ExportError: the converter or the checker refuses the model.
    """
    function = frozen.named()
    try:
        with quiet():
            model, _ = tf2onnx.convert.from_function(
                function, input_signature=function.input_signature, opset=OPSET
            )
        onnx.checker.check_model(model, full_check=True)
    # tf2onnx raises whatever its many rewriters run into.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"ONNX: the converter refuses the model: {reason}") from error
    content: bytes = model.SerializeToString()
    return content


def embed_facts(content: bytes, facts: bytes) -> bytes:
    """Returns an .onnx file with a facts document in its metadata."""
    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, {EMBEDDED_KEY: facts.decode()})
    embedded: bytes = model.SerializeToString()
    return embedded

"""Forecasts of real packages, converted or compressed with coremltools on any system."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813 - as its documentation does
from coremltools.converters.mil.mil import types
from coremltools.optimize import coreml as compression

from hemline.coreml.forecast import RULES, Forecast, forecast
from hemline.documents import encode
from hemline.engines.coreml import read_spec

GUIDE = "https://apple.github.io/coremltools/docs-guides/source/"
TYPES = GUIDE + "typed-execution-example.html"
RECURRENT = "https://github.com/apple/coremltools/issues/1780"
LOOPS = "https://github.com/apple/coremltools/issues/2208"
WEIGHTS = GUIDE + "optimizecoreml-api-overview.html"
SHAPES = "https://developer.apple.com/forums/thread/724930"


def findings(found: Forecast) -> dict[str, str]:
    """Returns what the rules that apply found, by source."""
    return {line.source: line.finding for line in found.lines if line.finding is not None}


def convert(program: Any, *, float32: bool = False, inputs: Any = None) -> Any:
    """Returns the specification of a program converted for macOS 13."""
    precision = coremltools.precision.FLOAT32 if float32 else coremltools.precision.FLOAT16
    return coremltools.convert(
        program,
        convert_to="mlprogram",
        compute_precision=precision,
        minimum_deployment_target=coremltools.target.macOS13,
        inputs=inputs,
        skip_model_load=True,
    ).get_spec()


def program(shape: tuple[int, ...], dtype: Any = types.fp32) -> Callable[[Any], Any]:
    spec = mb.TensorSpec(shape=shape, dtype=dtype)
    made: Callable[[Any], Any] = mb.program(
        input_specs=[spec], opset_version=coremltools.target.iOS16
    )
    return made


def dense(x: Any) -> Any:
    weight = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    return mb.softmax(x=mb.relu(x=mb.linear(x=x, weight=weight)), axis=-1)


def test_a_float16_export(exported: Path) -> None:
    found = forecast(read_spec(exported / "separable.float16.mlpackage"))
    assert found.operations == found.eligible > 5
    assert findings(found) == {
        TYPES: f"none of {found.operations} operations is typed float32, so the types bar none"
    }
    assert "not a measurement" in found.note
    assert len(found.lines) == len(RULES)


def test_a_float32_program() -> None:
    found = forecast(convert(program((1, 4))(dense), float32=True))
    assert (found.operations, found.eligible) == (3, 0)
    assert findings(found) == {
        TYPES: "3 of 3 operations are typed float32, so they run on the GPU or the CPU"
    }


def test_the_same_program_in_float16() -> None:
    # Its input and output stay float32, so it casts; that bars nothing.
    found = forecast(convert(program((1, 4))(dense)))
    assert (found.operations, found.eligible) == (3, 3)


def test_compressed_weights(exported: Path) -> None:
    model = coremltools.models.MLModel(
        str(exported / "separable.float16.mlpackage"), skip_model_load=True
    )
    config = compression.OptimizationConfig(
        global_config=compression.OpLinearQuantizerConfig(
            mode="linear_symmetric", weight_threshold=16
        )
    )
    plain = forecast(model.get_spec())
    spec = compression.linear_quantize_weights(model, config).get_spec()
    found = forecast(spec)
    main = spec.mlProgram.functions["main"]
    kinds = [o.type for o in main.block_specializations[main.opset].operations]
    count = kinds.count("constexpr_affine_dequantize")
    assert count > 1
    assert findings(found)[WEIGHTS] == (
        f"constexpr_affine_dequantize × {count}: the file is smaller, but the operations compute "
        "in float all the same, not in integers"
    )
    # What computes, and in which type, is as before.
    assert (found.operations, found.eligible) == (plain.operations, plain.eligible)


def test_recurrent_operations_and_loops() -> None:
    @program((3, 1, 4))
    def recurrent(x: Any) -> Any:
        state, _ = mb.gru(
            x=x,
            initial_h=np.zeros((1, 2), np.float32),
            weight_ih=np.ones((6, 4), np.float32),
            weight_hh=np.ones((6, 2), np.float32),
        )
        return mb.while_loop(
            _cond=lambda a: mb.less(x=mb.reduce_sum(x=a), y=np.float32(9)),
            _body=lambda a: mb.add(x=a, y=np.float32(1)),
            loop_vars=(state,),
        )

    found = forecast(convert(recurrent, float32=True))
    applied = findings(found)
    assert applied[RECURRENT].startswith("gru × 1: kept off the Neural Engine")
    assert applied[LOOPS].startswith("while_loop × 1: may stay off")
    # The loop's sum, comparison and addition count, beside the gru and the loop.
    assert found.operations == 5
    # Of these only the comparison, whose result is bool, is not float32.
    assert found.eligible == 1


def test_a_recurrent_operation_is_barred_whatever_its_type() -> None:
    @program((3, 1, 4))
    def recurrent(x: Any) -> Any:
        return mb.relu(
            x=mb.lstm(
                x=x,
                initial_h=np.zeros((1, 2), np.float32),
                initial_c=np.zeros((1, 2), np.float32),
                weight_ih=np.ones((8, 4), np.float32),
                weight_hh=np.ones((8, 2), np.float32),
            )[0]
        )

    spec = convert(recurrent)
    main = spec.mlProgram.functions["main"]
    for operation in main.block_specializations[main.opset].operations:
        if operation.type == "lstm":
            for output in operation.outputs:
                output.type.tensorType.dataType = 10  # FLOAT16 in MIL.proto
    found = forecast(spec)
    assert findings(found)[TYPES].startswith("none of 2 operations is typed float32")
    assert (found.operations, found.eligible) == (2, 1)


@pytest.mark.parametrize(
    ("shape", "finding"),
    [
        (
            coremltools.Shape((coremltools.RangeDim(1, 8, default=2), 4)),
            "input x has a range of shapes: all but the default stay off it",
        ),
        (
            coremltools.EnumeratedShapes([(1, 4), (2, 4)]),
            "input x has a list of shapes, which bars none of them",
        ),
    ],
)
def test_flexible_shapes(shape: Any, finding: str) -> None:
    from coremltools.converters.mil.mil import get_new_symbol

    made = program((get_new_symbol(), 4))(dense)
    spec = convert(made, inputs=[coremltools.TensorType(name="x", shape=shape)])
    assert findings(forecast(spec))[SHAPES] == finding


def test_activations_in_integers() -> None:
    spec = convert(program((1, 4))(dense))
    main = spec.mlProgram.functions["main"]
    block = main.block_specializations[main.opset]
    for kind in ("quantize", "dequantize", "constexpr_blockwise_shift_scale"):
        block.operations.add(type=kind)
    applied = findings(forecast(spec))
    assert applied[GUIDE + "opt-whats-new.html"].startswith("dequantize × 1, quantize × 1: int8")
    # Weights and activations both: the rule for weights alone does not hold.
    assert WEIGHTS not in applied


def test_every_rule_names_its_source(exported: Path) -> None:
    for line in forecast(read_spec(exported / "separable.float16.mlpackage")).lines:
        assert line.source.startswith("https://")
        assert line.rule.endswith(".")
        assert not (line.finding or "").endswith(".")


def test_a_forecast_is_json(exported: Path) -> None:
    found = forecast(read_spec(exported / "separable.float16.mlpackage"))
    assert b'"finding": null' in encode("x/1", found)

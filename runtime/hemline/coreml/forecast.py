"""What documented rules say of a Core ML package's way to the Neural Engine, without a Mac.

A forecast, not a measurement, and an upper bound: the rules name what keeps an operation off the
Neural Engine, never what brings it there. Each rule is one function, listed in `RULES` with the
statement that it applies and where that is documented.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

NOTE = (
    "A forecast from rules, not a measurement: there is no complete list of what the Neural "
    "Engine runs, since it changes with the device, the system and the sizes "
    "(https://github.com/apple/coremltools/issues/1780)."
)

# Which operations a rule speaks of: MIL's names, from coremltools' converters/mil/mil/ops/defs.
_RECURRENT = frozenset({"gru", "lstm", "rnn"})
_LOOPS = frozenset({"while_loop"})
# Constants, conversions and labels do no work that a float type could keep off the Neural Engine.
_NO_WORK = frozenset({"const", "cast", "classify"})
_COMPRESSED = "constexpr_"
_QUANTIZERS = frozenset({"quantize", "dequantize"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastLine:
    """What one rule says of one package.

    Attributes:
        rule: the documented statement.
        source: where it is documented.
        finding: what follows for this package; None: the rule does not apply to it.
    """

    rule: str
    source: str
    finding: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What all rules say of one package.

    Attributes:
        note: what a forecast is worth.
        operations: how many operations compute something: constants, casts, the decompression of
            weights and the labelling of the output are left out.
        eligible: how many of these no rule bars from the Neural Engine.
        lines: one per rule.
    """

    note: str
    operations: int
    eligible: int
    lines: tuple[ForecastLine, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """What the rules look at.

    Attributes:
        spec: the package's specification, a protobuf message of coremltools.
        operations: all of its operations, those inside loops and branches included.
    """

    spec: Any
    operations: tuple[Any, ...]

    def working(self) -> list[Any]:
        """Returns the operations that compute something."""
        return [
            o
            for o in self.operations
            if o.type not in _NO_WORK and not o.type.startswith(_COMPRESSED)
        ]


def forecast(spec: Any) -> Forecast:
    """Applies all rules to a package's specification, as `read_spec` gives it."""
    program = Program(spec, tuple(_operations(spec)))
    working = program.working()
    return Forecast(
        note=NOTE,
        operations=len(working),
        eligible=sum(not _is_float32(o) and o.type not in _RECURRENT for o in working),
        lines=tuple(
            ForecastLine(rule=rule, source=source, finding=find(program))
            for find, rule, source in RULES
        ),
    )


def _find_types(program: Program) -> str:
    working = program.working()
    float32 = sum(map(_is_float32, working))
    if not float32:
        return f"none of {len(working)} operations is typed float32, so the types bar none"
    return (
        f"{float32} of {len(working)} operations are typed float32, so they run on the GPU or the "
        "CPU"
    )


def _find_recurrent(program: Program) -> str | None:
    found = Counter(o.type for o in program.operations if o.type in _RECURRENT)
    if not found:
        return None
    return f"{_list(found)}: kept off the Neural Engine; unrolled, it may run there"


def _find_loops(program: Program) -> str | None:
    found = Counter(o.type for o in program.operations if o.type in _LOOPS)
    if not found:
        return None
    return f"{_list(found)}: may stay off the Neural Engine; not counted, since Apple says nothing"


def _find_compressed_weights(program: Program) -> str | None:
    found = Counter(o.type for o in program.operations if o.type.startswith(_COMPRESSED))
    if not found or any(o.type in _QUANTIZERS for o in program.operations):
        return None
    return (
        f"{_list(found)}: the file is smaller, but the operations compute in float all the same, "
        "not in integers"
    )


def _find_quantized_activations(program: Program) -> str | None:
    found = Counter(o.type for o in program.operations if o.type in _QUANTIZERS)
    if not found:
        return None
    return f"{_list(found)}: int8 may be faster there, and has no faster path on older chips"


def _find_ranges(program: Program) -> str | None:
    names = [
        feature.name
        for feature in program.spec.description.input
        if _flexibility(feature) in ("shapeRange", "imageSizeRange")
    ]
    if not names:
        return None
    return f"input {', '.join(names)} has a range of shapes: all but the default stay off it"


def _find_enumerations(program: Program) -> str | None:
    names = [
        feature.name
        for feature in program.spec.description.input
        if _flexibility(feature) in ("enumeratedShapes", "enumeratedSizes")
    ]
    if not names:
        return None
    return f"input {', '.join(names)} has a list of shapes, which bars none of them"


Rule = tuple[Callable[[Program], str | None], str, str]

_GUIDE = "https://apple.github.io/coremltools/docs-guides/source/"
_SHAPES = "https://developer.apple.com/forums/thread/724930"

RULES: tuple[Rule, ...] = (
    (
        _find_types,
        "A model typed float16 is eligible for the Neural Engine, the GPU and the CPU; one typed "
        "float32 executes on the GPU and the CPU.",
        _GUIDE + "typed-execution-example.html",
    ),
    (
        _find_recurrent,
        "RNN and LSTM operations are not supported on the Neural Engine (an Apple engineer, 2023; "
        "taken to hold for GRU, the same family).",
        "https://github.com/apple/coremltools/issues/1780",
    ),
    (
        _find_loops,
        "Not documented: a user saw no loop run on the Neural Engine or the GPU (2024), and the "
        "question is open.",
        "https://github.com/apple/coremltools/issues/2208",
    ),
    (
        _find_compressed_weights,
        "Weights alone compressed are decompressed into float, when the model is loaded or when it "
        "predicts, and all computation is in float.",
        _GUIDE + "optimizecoreml-api-overview.html",
    ),
    (
        _find_quantized_activations,
        "Weights and activations both in int8 are accelerated on the Neural Engine of the A17 Pro "
        "and M4 chips, from iOS 17 and macOS 14.",
        _GUIDE + "opt-whats-new.html",
    ),
    (
        _find_ranges,
        "A model whose input has a range of shapes runs on the Neural Engine for the default shape "
        "only (an Apple engineer, 2023).",
        _SHAPES,
    ),
    (
        _find_enumerations,
        "With a list of input shapes, each should be able to run on the Neural Engine (an Apple "
        "engineer, 2023).",
        _SHAPES,
    ),
)


def _operations(spec: Any) -> Iterator[Any]:
    for function in spec.mlProgram.functions.values():
        yield from _operations_in(function.block_specializations[function.opset])


def _operations_in(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _operations_in(inner)


def _is_float32(operation: Any) -> bool:
    """Tells whether any output is a tensor of float32."""
    tensors = [o.type.tensorType for o in operation.outputs if o.type.HasField("tensorType")]
    return any(_type_name(tensor) == "FLOAT32" for tensor in tensors)


def _type_name(tensor: Any) -> str:
    name: str = (
        tensor.DESCRIPTOR.fields_by_name["dataType"]
        .enum_type.values_by_number[tensor.dataType]
        .name
    )
    return name


def _flexibility(feature: Any) -> str | None:
    """Returns which kind of flexible shape an input has, in the specification's own words."""
    kind = feature.type.WhichOneof("Type")
    if kind == "multiArrayType":
        name: str | None = feature.type.multiArrayType.WhichOneof("ShapeFlexibility")
    elif kind == "imageType":
        name = feature.type.imageType.WhichOneof("SizeFlexibility")
    else:
        name = None
    return name


def _list(found: Counter[str]) -> str:
    return ", ".join(f"{name} × {count}" for name, count in sorted(found.items()))

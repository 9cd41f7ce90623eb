"""`hemline debug`: where a quantized file departs from its float model, tensor by tensor.

Both run on the same training samples, and tensors of one name are compared: those of a .tflite
file with those of the float32 recipe's, as LiteRT's own kernels compute them; those of an .onnx
file with those of the float ONNX file, read out by ONNX Runtime's own debug tools.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from hemline.artifact_facts import EmbeddedFacts
from hemline.commit import newest
from hemline.errors import InputError, ModelFileError
from hemline.facts import QuantParams
from hemline.files import read_regular, sha256_of
from hemline.limits import MODEL_BYTES
from hemline.model import embedded_facts, load
from hemline.parity.measures import decibels
from hemline.quiet import quiet
from hemline.samples import resolve_samples
from hemline.tensors import Quantizer, dequantize
from hemline_export.calibration import preprocess
from hemline_export.freeze import Frozen, freeze
from hemline_export.keras_file import lambda_layers, open_keras
from hemline_export.onnx_file import onnx_from_frozen
from hemline_export.recurrent import restore_recurrent_loop, unroll_recurrent
from hemline_export.reorder import pool_before_activation
from hemline_export.tflite import tflite_from_frozen

DEFAULT_COUNT = 50
# Not calibration's draw: ranges fit the samples that they were taken from.
_SEED = 1

SCHEMA = "hemline.debug/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorError:
    """What quantization did to one tensor. Ranges and grids are in the float model's units.

    Attributes:
        layer: the Keras layer that it comes from, if its name tells.
        operator: what makes it, by the file's own name of it.
        tensor: its name.
        sqnr_db: of its values against the float model's, with all the error that came before;
            None: equal, or the float model's are all 0.
        grid_sqnr_db: of the float model's values put on this tensor's grid: what the grid alone
            costs. None without a grid, or as above.
        minimum: the least of the float model's values.
        maximum: the greatest.
        grid: scale and zero point; None for a tensor in floating point.
        grid_minimum: the least value on the grid.
        grid_maximum: the greatest.
        clipped: the share of the float model's values that the grid does not reach.
    """

    layer: str | None
    operator: str
    tensor: str
    sqnr_db: float | None
    grid_sqnr_db: float | None
    minimum: float
    maximum: float
    grid: QuantParams | None
    grid_minimum: float | None
    grid_maximum: float | None
    clipped: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugReport:
    """A quantized file against its float model.

    Attributes:
        file: the file's name.
        count: how many samples both ran on.
        compared: how many of the file's tensors have a counterpart in the float model.
        tensors: how many there are.
        errors: of the compared ones, the lowest SQNR first.
    """

    file: str
    count: int
    compared: int
    tensors: int
    errors: tuple[TensorError, ...]


@lambda_layers()
def debug(
    keras_file: Path,
    file: Path,
    data: str | None = None,
    *,
    count: int = DEFAULT_COUNT,
    trust: bool = False,
) -> DebugReport:
    """Compares a quantized file with its float model, tensor by tensor, worst first.

    Args:
        keras_file: the float Keras file that it was made from.
        file: a .tflite or .onnx file that Hemline exported.
        data: training samples, as `hemline.samples.resolve_samples` takes them.
        count: how many samples to draw at the most.
        trust: opens files that nothing beside them records at once, not first in a child process.

    Raises:
        ModelFileError: a file is missing, or not of its kind.
        ChecksumError: the file is not the one that the manifest beside it records.
        InputError: the file was made from another model, or is of a kind without tensors to read.
        DataError: there are no such samples.
    """
    facts, content = _read(file, trust=trust)
    model, snapshot = open_keras(keras_file, trust=trust)
    if facts.artifact.parent_sha256 != snapshot.sha256:
        raise InputError(
            f"{file.name} was made from the float model {facts.artifact.parent_sha256[:16]}…, and "
            f"{keras_file.name} is {snapshot.sha256[:16]}…: give the file it was made from"
        )
    samples = resolve_samples(data, facts.model.dataset, "train")
    drawn = samples.take(np.random.default_rng(_SEED).permutation(len(samples))[:count])
    shape = facts.model.input.shape
    values = preprocess(drawn, facts.model.input.preprocessing).reshape(-1, *shape)

    def trace(rewrite: Callable[[Any], Any]) -> Frozen:
        names = {"input_name": facts.model.input.name, "output_name": facts.model.output_name}
        return pool_before_activation(freeze(rewrite(model), **names))

    if file.suffix == ".tflite":
        frozen = trace(unroll_recurrent)
        before: _TFLite | _ONNX = _TFLite(tflite_from_frozen(frozen))
        after: _TFLite | _ONNX = _TFLite(content)
    else:
        frozen = trace(restore_recurrent_loop)
        before, after = _ONNX(onnx_from_frozen(frozen)), _ONNX(content)
    tallies: dict[str, _Tally] = {}
    for expected, found in zip(before.run(values), after.run(values), strict=True):
        for name in expected.keys() & found.keys():
            tally = tallies.setdefault(name, _Tally(after.grids.get(name)))
            tally.add(expected[name], found[name])
    errors = [
        tally.result(frozen.layer_of(name), after.operators[name], name)
        for name, tally in tallies.items()
    ]
    return DebugReport(
        file=file.name,
        count=len(values),
        compared=len(errors),
        tensors=len(after.operators),
        errors=tuple(sorted(errors, key=lambda e: np.inf if e.sqnr_db is None else e.sqnr_db)),
    )


def _read(file: Path, *, trust: bool) -> tuple[EmbeddedFacts, bytes]:
    """Returns the facts inside a file, and its content."""
    if file.suffix not in (".tflite", ".onnx"):
        raise InputError(f"{file}: tensors can be read out of .tflite and .onnx files only")
    # What a manifest lists must be what it says; another file is tried in a child process.
    with load(file, trust=trust) as model:
        facts = embedded_facts(file, model.engine.embedded_facts())
        digest = model.snapshot.sha256 if model.snapshot else ""
    if facts is None:
        raise InputError(f"{file.name} has no Hemline facts, so its float model is not known")
    content = read_regular(newest(file), MODEL_BYTES)
    if sha256_of(content) != digest:
        raise ModelFileError(f"{file} was changed while it was being read; try again")
    return facts, content


class _Tally:
    """Sums over samples of one tensor's values."""

    def __init__(self, grid: tuple[QuantParams, str] | None) -> None:
        self._grid = grid
        self._signal = self._noise = self._grid_noise = 0.0
        self._low, self._high = np.inf, -np.inf
        self._count = self._clipped = 0
        if grid is not None:
            limits = np.iinfo(grid[1])
            ends = np.array([limits.min, limits.max], np.float32)
            self._ends = dequantize(ends, grid[0])
            self._quantize = Quantizer(grid[0], grid[1], -np.inf, np.inf)

    def add(self, expected: NDArray[np.float32], found: NDArray[np.float32]) -> None:
        real = expected.astype(np.float64)
        self._signal += float(np.square(real).sum())
        self._noise += float(np.square(found - real).sum())
        self._low = min(self._low, float(expected.min()))
        self._high = max(self._high, float(expected.max()))
        self._count += expected.size
        if self._grid is not None:
            kept = dequantize(self._quantize(expected), self._grid[0])
            self._grid_noise += float(np.square(kept - real).sum())
            # Half a step beyond the ends is rounded, not clipped.
            reach = self._grid[0].scale / 2
            least, greatest = self._ends
            outside = (expected < least - reach) | (expected > greatest + reach)
            self._clipped += int(outside.sum())

    def result(self, layer: str | None, operator: str, name: str) -> TensorError:
        grid = self._grid
        return TensorError(
            layer=layer,
            operator=operator,
            tensor=name,
            sqnr_db=decibels(self._signal, self._noise),
            grid_sqnr_db=decibels(self._signal, self._grid_noise) if grid else None,
            minimum=self._low,
            maximum=self._high,
            grid=grid[0] if grid else None,
            grid_minimum=float(self._ends[0]) if grid else None,
            grid_maximum=float(self._ends[1]) if grid else None,
            clipped=self._clipped / self._count,
        )


class _TFLite:
    """A .tflite file that keeps every tensor.

    Attributes:
        operators: the operator that makes each tensor, by the tensor's name.
        grids: the grid and the dtype of each quantized tensor among them.
    """

    def __init__(self, content: bytes) -> None:
        self._interpreter = Interpreter(
            model_content=content,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        details = {d["index"]: d for d in self._interpreter.get_tensor_details()}
        graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
        kinds = {o["index"]: o["op_name"] for o in self._interpreter._get_ops_details()}
        self.operators: dict[str, str] = {}
        self._indices: dict[str, int] = {}
        self.grids: dict[str, tuple[QuantParams, str]] = {}
        for position, operator in enumerate(graph.operators):
            index = int(operator.outputs[0])
            # A fused tensor's name is those of all its parts; the first is the one that is kept.
            name = graph.tensors[index].name.decode().partition(";")[0]
            self.operators[name] = kinds[position]
            self._indices[name] = index
            grid = _grid_of(details[index])
            if grid is not None:
                self.grids[name] = grid, np.dtype(details[index]["dtype"]).name

    def run(self, samples: NDArray[np.float32]) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        """Yields each sample's tensors, as real values."""
        grid = _grid_of(self._input)
        for sample in samples:
            tensor = sample[np.newaxis]
            if grid is not None:
                name = np.dtype(self._input["dtype"]).name
                tensor = Quantizer(grid, name, -np.inf, np.inf)(tensor)
            self._interpreter.set_tensor(self._input["index"], tensor)
            self._interpreter.invoke()
            yield dict(self._read())

    def _read(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        for name, index in self._indices.items():
            tensor = self._interpreter.get_tensor(index)
            if name in self.grids:
                yield name, dequantize(tensor, self.grids[name][0])
            elif tensor.dtype == np.float32:
                yield name, tensor


def _grid_of(details: Mapping[str, Any]) -> QuantParams | None:
    grid = details["quantization_parameters"]
    if len(grid["scales"]) != 1:
        return None
    return QuantParams(scale=float(grid["scales"][0]), zero_point=int(grid["zero_points"][0]))


class _ONNX:
    """An .onnx file with every tensor as an output.

    Attributes:
        operators: as for `_TFLite`.
        grids: as for `_TFLite`, of each tensor that goes through a QuantizeLinear.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        graph = onnx.load_from_string(content).graph
        self._input = graph.input[0].name
        constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
        conversions = ("QuantizeLinear", "DequantizeLinear", "Constant")
        self.operators = {
            node.output[0]: node.op_type for node in graph.node if node.op_type not in conversions
        }
        self.grids = {
            node.input[0]: (
                QuantParams(
                    scale=float(constants[node.input[1]]),
                    zero_point=int(constants[node.input[2]]),
                ),
                constants[node.input[2]].dtype.name,
            )
            for node in graph.node
            if node.op_type == "QuantizeLinear" and node.input[0] in self.operators
        }

    def run(self, samples: NDArray[np.float32]) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        """Yields each sample's tensors, before they go through a QuantizeLinear."""
        with quiet():
            from onnxruntime.quantization import qdq_loss_debug as tools
        with tempfile.TemporaryDirectory() as folder:
            plain, augmented = Path(folder) / "plain.onnx", Path(folder) / "augmented.onnx"
            plain.write_bytes(self._content)
            with quiet():
                tools.modify_model_output_intermediate_tensors(plain, augmented)
                feeds = [{self._input: sample[np.newaxis]} for sample in samples]
                collected = tools.collect_activations(str(augmented), feeds)
        for position in range(len(samples)):
            yield {name: collected[name][position] for name in self.operators if name in collected}

"""Damages a model file in many ways, and loads each damaged copy as a user would.

    python tests/stress/fuzz.py ENGINE FILE [--mutations N] [--seed N]

FILE is listed in the manifest beside it. Each copy is loaded twice: alone, where `hemline.load`
must refuse it with an error of Hemline's or open it so that it runs, and in the place of FILE
beside the manifest, where it must refuse it for its checksum. Prints a JSON object for each copy,
and one at the end with the memory that this process took for it all.
"""

import argparse
import json
import os
import re
import resource
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

import hemline
from hemline.engines import engine_for
from hemline.errors import ChecksumError, HemlineError
from hemline.files import sha256

Random = np.random.Generator
Mutation = Callable[[Path, Random], None]

MANIFEST = "manifest.json"
HUGE = (2**30, 2**31 - 1, 2**16, 0, -1)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200)


# Of any file.


def truncate(path: Path, random: Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: random.integers(1, len(content))])


def empty(path: Path, _: Random) -> None:
    path.write_bytes(b"")


def flip_bits(path: Path, random: Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(random.integers(1, 9)):
        content[random.integers(len(content))] ^= 1 << random.integers(8)
    path.write_bytes(content)


def flip_ends(path: Path, random: Random) -> None:
    """Where a file's structure is, before and after its weights."""
    content = bytearray(path.read_bytes())
    reach = min(4096, len(content))
    for _ in range(random.integers(1, 9)):
        position = int(random.integers(reach))
        content[position if random.random() < 0.5 else -1 - position] ^= 1 << random.integers(8)
    path.write_bytes(content)


def overwrite_number(path: Path, random: Random) -> None:
    """Four bytes, as an offset or a length is, with what such numbers overflow at."""
    content = bytearray(path.read_bytes())
    position = 4 * int(random.integers(max(1, min(2048, len(content)) // 4)))
    if random.random() < 0.5:
        position = max(0, len(content) - 4 - position)
    value = int(random.choice([0, 1, 2**16, 2**30, 2**31 - 1, 2**31, 2**32 - 1]))
    content[position : position + 4] = struct.pack("<I", value)
    path.write_bytes(content)


def cut_out(path: Path, random: Random) -> None:
    content = path.read_bytes()
    start = random.integers(len(content))
    path.write_bytes(content[:start] + content[start + random.integers(1, 257) :])


def insert(path: Path, random: Random) -> None:
    content = path.read_bytes()
    start = random.integers(len(content))
    path.write_bytes(content[:start] + random.bytes(random.integers(1, 257)) + content[start:])


def repeat(path: Path, random: Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content + content[random.integers(len(content)) :])


def be_another_kind(path: Path, random: Random) -> None:
    others = [PNG, b"Not a model, just text.\n" * 20, random.bytes(10_000), bytes(10_000)]
    path.write_bytes(others[random.integers(len(others))])


def be_a_folder(path: Path, _: Random) -> None:
    path.unlink()
    path.mkdir()
    (path / "data").write_bytes(PNG)


ANY_FILE = (
    truncate,
    empty,
    flip_bits,
    flip_ends,
    overwrite_number,
    cut_out,
    insert,
    repeat,
    be_another_kind,
    be_a_folder,
)


# Of a .tflite file, by means of its schema.


def _tflite(change: Callable[[Any, Random], None]) -> Mutation:
    def mutate(path: Path, random: Random) -> None:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
        graph = model.subgraphs[0]
        for item, names in (
            *((tensor, ("shape",)) for tensor in graph.tensors),
            *((operator, ("inputs", "outputs")) for operator in graph.operators),
            (graph, ("inputs", "outputs")),
        ):
            # Views of the file, which are read-only.
            for name in names:
                setattr(item, name, list(getattr(item, name)))
        change(model, random)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        path.write_bytes(builder.Output())

    mutate.__name__ = change.__name__
    return mutate


def _pick(items: Any, random: Random) -> Any:
    return items[random.integers(len(items))]


def tflite_input_shape(model: Any, random: Random) -> None:
    graph = model.subgraphs[0]
    shape = graph.tensors[graph.inputs[0]].shape
    shape[random.integers(len(shape))] = _pick(HUGE, random)


def tflite_tensor_shape(model: Any, random: Random) -> None:
    tensor = _pick([t for t in model.subgraphs[0].tensors if len(t.shape)], random)
    tensor.shape[random.integers(len(tensor.shape))] = _pick(HUGE, random)


def tflite_tensor_type(model: Any, random: Random) -> None:
    _pick(model.subgraphs[0].tensors, random).type = int(random.integers(-1, 25))


def tflite_tensor_buffer(model: Any, random: Random) -> None:
    _pick(model.subgraphs[0].tensors, random).buffer = _pick((0, 1, 10**6, 2**32 - 1), random)


def tflite_empty_buffer(model: Any, random: Random) -> None:
    buffer = _pick([b for b in model.buffers if b.data is not None], random)
    buffer.data = buffer.data[: random.integers(len(buffer.data))]


def tflite_operands(model: Any, random: Random) -> None:
    operator = _pick(model.subgraphs[0].operators, random)
    operands = operator.inputs if random.random() < 0.7 else operator.outputs
    operands[random.integers(len(operands))] = int(
        _pick((-2, -1, 0, 10**6, 2**31 - 1, random.integers(30)), random)
    )


def tflite_operator_kind(model: Any, random: Random) -> None:
    code = _pick(model.operatorCodes, random)
    code.builtinCode = code.deprecatedBuiltinCode = int(random.integers(0, 127))


def tflite_operator_index(model: Any, random: Random) -> None:
    _pick(model.subgraphs[0].operators, random).opcodeIndex = _pick((7, 99, 2**32 - 1), random)


def tflite_order(model: Any, random: Random) -> None:
    random.shuffle(model.subgraphs[0].operators)


def tflite_graph_border(model: Any, random: Random) -> None:
    graph = model.subgraphs[0]
    border = graph.inputs if random.random() < 0.5 else graph.outputs
    border[0] = _pick((-1, 0, 10**6, 2**31 - 1), random)


def tflite_options(model: Any, random: Random) -> None:
    operator = _pick(
        [o for o in model.subgraphs[0].operators if o.builtinOptions is not None], random
    )
    numbers = [name for name, v in vars(operator.builtinOptions).items() if type(v) is int]
    if numbers:
        setattr(operator.builtinOptions, _pick(numbers, random), _pick((0, -1, 100, 127), random))


def tflite_grid(model: Any, random: Random) -> None:
    grid = _pick([t for t in model.subgraphs[0].tensors if t.quantization], random).quantization
    grid.scale = [_pick((0.0, -1.0, float("nan"), float("inf"), 1e-45), random)]
    grid.zeroPoint = [_pick((0, 10**6, -(2**63)), random)]


def tflite_calls_itself(model: Any, _: Random) -> None:
    """A loop whose body is the graph that it stands in."""
    from ai_edge_litert import schema_py_generated as schema

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.WHILE
    code.version = 1
    model.operatorCodes.append(code)
    # The condition is the graph without the loop.
    model.subgraphs.append(deepcopy(model.subgraphs[0]))
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 0
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    graph = model.subgraphs[0]
    operator.inputs, operator.outputs = list(graph.inputs), [len(graph.tensors)]
    graph.tensors.append(graph.tensors[graph.inputs[0]])
    operator.builtinOptions = options
    operator.builtinOptionsType = schema.BuiltinOptions.WhileOptions
    graph.operators.insert(0, operator)


TFLITE = tuple(
    _tflite(change)
    for change in (
        tflite_input_shape,
        tflite_tensor_shape,
        tflite_tensor_type,
        tflite_tensor_buffer,
        tflite_empty_buffer,
        tflite_operands,
        tflite_operator_kind,
        tflite_operator_index,
        tflite_order,
        tflite_graph_border,
        tflite_options,
        tflite_grid,
        tflite_calls_itself,
    )
)


def be_onnx(path: Path, _: Random) -> None:
    """A few bytes of the other format: an IR version and a producer."""
    path.write_bytes(b"\x08\x08\x12\x07pytorch:\x04\n\0\x12\0")


def be_tflite(path: Path, _: Random) -> None:
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(200))


# Of an .onnx file, by means of protobuf.


def _onnx(change: Callable[[Any, Random], None]) -> Mutation:
    def mutate(path: Path, random: Random) -> None:
        import onnx

        # Not onnx.load_from_string, which may refuse what is to be written.
        model = onnx.ModelProto.FromString(path.read_bytes())
        change(model, random)
        path.write_bytes(model.SerializeToString())

    mutate.__name__ = change.__name__
    return mutate


def onnx_input_shape(model: Any, random: Random) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    _pick(dims, random).dim_value = _pick(HUGE, random)


def onnx_weight_shape(model: Any, random: Random) -> None:
    weight = _pick([w for w in model.graph.initializer if len(w.dims)], random)
    weight.dims[random.integers(len(weight.dims))] = _pick((*HUGE, 2**62), random)


def onnx_weight_type(model: Any, random: Random) -> None:
    _pick(model.graph.initializer, random).data_type = int(random.integers(-1, 30))


def onnx_empty_weight(model: Any, random: Random) -> None:
    weight = _pick([w for w in model.graph.initializer if w.raw_data], random)
    weight.raw_data = weight.raw_data[: random.integers(len(weight.raw_data))]


def onnx_outside_weight(model: Any, random: Random) -> None:
    weight = _pick([w for w in model.graph.initializer if w.raw_data], random)
    weight.ClearField("raw_data")
    weight.data_location = 1
    location = weight.external_data.add()
    location.key = "location"
    location.value = _pick(("/etc/passwd", "../../../etc/passwd", "weights.bin"), random)


def onnx_operands(model: Any, random: Random) -> None:
    node = _pick(model.graph.node, random)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    operands = node.input if random.random() < 0.7 else node.output
    operands[random.integers(len(operands))] = _pick([*names, "", "nothing"], random)


def onnx_operator_kind(model: Any, random: Random) -> None:
    kinds = ("Loop", "If", "Scan", "Conv", "Gather", "Reshape", "Nothing", "Tile", "GRU", "")
    _pick(model.graph.node, random).op_type = _pick(kinds, random)


def onnx_attribute(model: Any, random: Random) -> None:
    attributes = [a for node in model.graph.node for a in node.attribute if a.ints or a.i]
    attribute = _pick(attributes, random)
    value = _pick((*HUGE, 2**62), random)
    if attribute.ints:
        attribute.ints[random.integers(len(attribute.ints))] = value
    else:
        attribute.i = value


def onnx_versions(model: Any, random: Random) -> None:
    model.ir_version = _pick((-1, 0, 3, 10**6, 2**62), random)
    model.opset_import[0].version = _pick((-1, 0, 1, 999, 2**62), random)


def onnx_big_constant(model: Any, random: Random) -> None:
    """A fill of a size that is computed while the file is opened."""
    import onnx

    sizes = np.array([2 ** int(random.integers(16, 31)), 2**15], np.int64)
    model.graph.initializer.append(onnx.numpy_helper.from_array(sizes, "huge_shape"))
    model.graph.node.insert(
        0, onnx.helper.make_node("ConstantOfShape", ["huge_shape"], ["huge_fill"])
    )
    model.graph.node.insert(1, onnx.helper.make_node("ReduceSum", ["huge_fill"], ["huge_sum"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("huge_sum", 1, None))


def onnx_nest(model: Any, random: Random) -> None:
    """Branches within branches."""
    import onnx

    output = onnx.helper.make_tensor_value_info("nested", 9, [])
    graph = onnx.helper.make_graph([], "leaf", [], [output])
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "nested"))
    for depth in range(int(_pick((4, 8, 90), random))):
        name = f"nested{depth}"
        node = onnx.helper.make_node(
            "If", ["nest_condition"], [name], then_branch=graph, else_branch=graph
        )
        graph = onnx.helper.make_graph(
            [node], f"g{depth}", [], [onnx.helper.make_tensor_value_info(name, 9, [])]
        )
        if graph.ByteSize() > 4_000_000:
            break
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "nest_condition"))
    model.graph.node.extend(graph.node)
    model.graph.output.append(graph.output[0])


ONNX = tuple(
    _onnx(change)
    for change in (
        onnx_input_shape,
        onnx_weight_shape,
        onnx_weight_type,
        onnx_empty_weight,
        onnx_outside_weight,
        onnx_operands,
        onnx_operator_kind,
        onnx_attribute,
        onnx_versions,
        onnx_big_constant,
        onnx_nest,
    )
)


# Of an .mlpackage: any file's mutations on its files, and its own.

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
LISTING = "Manifest.json"


def _inside(file: str, mutation: Mutation) -> Mutation:
    def mutate(path: Path, random: Random) -> None:
        mutation(path / file, random)

    mutate.__name__ = f"{mutation.__name__} {Path(file).name}"
    return mutate


def _spec(change: Callable[[Any, Random], None]) -> Mutation:
    def mutate(path: Path, random: Random) -> None:
        from coremltools.proto import Model_pb2

        spec = Model_pb2.Model.FromString((path / MODEL).read_bytes())
        change(spec, random)
        (path / MODEL).write_bytes(spec.SerializeToString())

    mutate.__name__ = change.__name__
    return mutate


def _block(spec: Any) -> Any:
    main = spec.mlProgram.functions["main"]
    return main.block_specializations[main.opset]


def coreml_input_shape(spec: Any, random: Random) -> None:
    shape = spec.description.input[0].type.multiArrayType.shape
    position = random.integers(len(shape))
    shape[position] = _pick(HUGE, random)
    if random.random() < 0.5:
        dims = spec.mlProgram.functions["main"].inputs[0].type.tensorType.dimensions
        dims[position].constant.size = abs(shape[position])


def coreml_tensor_shape(spec: Any, random: Random) -> None:
    outputs = [o for op in _block(spec).operations for o in op.outputs]
    dims = _pick([o for o in outputs if o.type.tensorType.dimensions], random).type.tensorType
    _pick(dims.dimensions, random).constant.size = _pick([h for h in HUGE if h >= 0], random)


def coreml_operator_kind(spec: Any, random: Random) -> None:
    kinds = ("while_loop", "cond", "conv", "reshape", "tile", "nothing", "", "const", "fill")
    _pick(_block(spec).operations, random).type = _pick(kinds, random)


def coreml_operands(spec: Any, random: Random) -> None:
    operations = _block(spec).operations
    names = [output.name for operation in operations for output in operation.outputs]
    operation = _pick([op for op in operations if op.inputs], random)
    argument = operation.inputs[_pick(sorted(operation.inputs), random)].arguments
    if argument:
        argument[0].name = _pick([*names, "", "nothing"], random)


def coreml_weight_offset(spec: Any, random: Random) -> None:
    values = [
        op.attributes["val"].blobFileValue
        for op in _block(spec).operations
        if op.attributes["val"].HasField("blobFileValue")
    ]
    _pick(values, random).offset = _pick((0, 1, 63, 2**20, 2**31, 2**63), random)


def coreml_weight_file(spec: Any, random: Random) -> None:
    for op in _block(spec).operations:
        if op.attributes["val"].HasField("blobFileValue"):
            op.attributes["val"].blobFileValue.fileName = _pick(
                ("/etc/passwd", "@model_path/../../../../etc/passwd", ""), random
            )


def coreml_order(spec: Any, random: Random) -> None:
    operations = list(_block(spec).operations)
    random.shuffle(operations)  # type: ignore[arg-type]
    del _block(spec).operations[:]
    _block(spec).operations.extend(operations)


def coreml_nest(spec: Any, random: Random) -> None:
    """Blocks within blocks, by the operation that may have them."""
    block = _block(spec)
    for _ in range(int(_pick((10, 40), random))):
        inner = type(block)()
        inner.CopyFrom(block)
        del inner.operations[3:]
        operation = block.operations.add(type="cond")
        operation.blocks.add().CopyFrom(inner)
        block = operation.blocks[0]


def coreml_versions(spec: Any, random: Random) -> None:
    spec.specificationVersion = _pick((0, 1, 99, 2**31 - 1), random)
    spec.mlProgram.version = _pick((0, 1, 99, 2**62), random)


def no_listing(path: Path, _: Random) -> None:
    (path / LISTING).unlink()


def listing_without_root(path: Path, random: Random) -> None:
    listing = json.loads((path / LISTING).read_text())
    del listing[_pick(sorted(listing), random)]
    (path / LISTING).write_text(json.dumps(listing))


def listing_leads_outside(path: Path, random: Random) -> None:
    listing = json.loads((path / LISTING).read_text())
    for entry in listing["itemInfoEntries"].values():
        entry["path"] = _pick(("../../../../etc/passwd", "/etc/passwd", "..\\x", "C:x"), random)
    (path / LISTING).write_text(json.dumps(listing))


def deep_listing(path: Path, _: Random) -> None:
    (path / LISTING).write_text("[" * 100_000)


def no_weights(path: Path, _: Random) -> None:
    (path / WEIGHTS).unlink()


def be_a_file(path: Path, _: Random) -> None:
    shutil.rmtree(path)
    path.write_bytes(PNG)


CORE_ML = (
    *(_inside(MODEL, mutation) for mutation in ANY_FILE),
    *(_inside(WEIGHTS, mutation) for mutation in ANY_FILE),
    *(_inside(LISTING, mutation) for mutation in ANY_FILE[:5]),
    *map(
        _spec,
        (
            coreml_input_shape,
            coreml_tensor_shape,
            coreml_operator_kind,
            coreml_operands,
            coreml_weight_offset,
            coreml_weight_file,
            coreml_order,
            coreml_nest,
            coreml_versions,
        ),
    ),
    no_listing,
    listing_without_root,
    listing_leads_outside,
    deep_listing,
    no_weights,
    be_a_file,
)

MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "litert": (*ANY_FILE, be_onnx, *TFLITE),
    "micro": (*ANY_FILE, be_onnx, *TFLITE),
    "onnxruntime": (*ANY_FILE, be_tflite, *ONNX),
    "coreml-reference": CORE_ML,
}


def copy(source: Path, target: Path) -> Path:
    """Copies a file or a package."""
    return Path((shutil.copytree if source.is_dir() else shutil.copyfile)(source, target))


def outcome_of(path: Path, engine: str) -> tuple[str, str]:
    """Loads a file and runs it; returns what came of it in a word, and in full."""
    try:
        model = hemline.load(path, engine=engine)
        inputs = {
            spec.name: np.zeros([size or 1 for size in spec.shape], spec.dtype)
            for spec in model.engine.inputs
        }
        model.run_all(inputs)
    except ChecksumError as error:
        return "checksum", str(error)
    except HemlineError as error:
        text = str(error)
        if "did not end within" in text:
            return "timed out", text
        return ("crashed" if "tried in a child process" in text else "refused"), text
    # Anything else is a fault of Hemline's: the user would see a traceback.
    except Exception as error:
        return "FAULT", f"{type(error).__name__}: {error}"
    return "loaded", ""


def fuzz_one(engine: str, file: Path, number: int, seed: int) -> dict[str, Any]:
    """Makes one damaged copy and loads it, alone and beside the manifest."""
    mutation = MUTATIONS[engine][number % len(MUTATIONS[engine])]
    random = np.random.default_rng([seed, number])
    with tempfile.TemporaryDirectory(prefix="hemline-fuzz-") as folder:
        alone, listed = Path(folder) / "alone" / file.name, Path(folder) / "listed" / file.name
        for target in (alone, listed):
            target.parent.mkdir()
        copy(file, alone)
        # Some damage undoes itself, or writes what was there.
        while sha256(alone) == sha256(file):
            mutation(alone, random)
        copy(alone, listed)
        shutil.copyfile(file.parent / MANIFEST, listed.parent / MANIFEST)
        found, message = outcome_of(alone, engine)
        beside, complaint = outcome_of(listed, engine)
    return {
        "number": number,
        "mutation": mutation.__name__,
        "alone": found,
        "message": message,
        "listed": beside,
        "complaint": complaint,
    }


def peak_bytes() -> int:
    """Returns the most memory that this process ever took, without its children's."""
    status = Path("/proc/self/status")
    if status.is_file():
        # On Linux ru_maxrss begins with what the parent had before it started this process.
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        assert found
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engine", choices=MUTATIONS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--mutations", type=int, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    options = parser.parse_args()
    # What coremltools would import to no use: it takes seconds.
    sys.modules.update(dict.fromkeys(("tensorflow", "torch", "sklearn")))
    # The engine itself, and the file as it should be.
    assert outcome_of(options.file, options.engine)[0] == "loaded"
    # A hang costs its limit; the limit there is by default is tested by itself.
    engine_for(options.file, options.engine).trial_limit_s = 8.0
    before = peak_bytes()

    def one(number: int) -> dict[str, Any]:
        return fuzz_one(options.engine, options.file, number, options.seed)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(one, range(options.mutations)):
            print(json.dumps(result), flush=True)
    print(json.dumps({"before_bytes": before, "after_bytes": peak_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`hemline selftest`: golden vectors, which check a folder on a device without any data set.

golden.json holds what each artifact answered where it was exported, to synthetic inputs that the
device draws again from a seed. A file that was swapped, damaged or edited, and an engine that
computes something else, answer differently.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemline.commit import newest
from hemline.documents import decode
from hemline.engines import stand_in
from hemline.engines.coreml_reference import CAVEAT, CoreMLReferenceEngine
from hemline.errors import InputError, ManifestError
from hemline.facts import InputFacts, ModelFacts, Task
from hemline.files import read_regular, sha256_of
from hemline.host import Host, describe_host
from hemline.limits import DOCUMENT_BYTES, DRAWN_ELEMENTS
from hemline.manifest import Artifact, FloatModel, Manifest, check_files, read_manifest
from hemline.model import Model, check_embedded_facts
from hemline.parity.execution import Job, run_jobs
from hemline.parity.paired import Verdict, require_verdict
from hemline.snapshot import require_sha256

SCHEMA = "hemline.golden/1"
REPORT_SCHEMA = "hemline.selftest/1"
FILE_NAME = "golden.json"

SEED = 0
COUNT = 16
# Of more, nobody's golden.json needs the memory.
_MOST = 1024
_DIGITS = 6
# Of a larger output as many elements are kept, so that the file stays small.
_ELEMENTS = 16

# How far an output may lie from the golden one, per recipe, as a share of `output_scale`, which is
# 1 for probabilities. A softmax turns an error e of the logits into at most e/4 of probability.
# Seen: the released CNN and GRU on x86-64, XNNPACK against LiteRT's plain and reference kernels,
# by tests/runtime/test_golden.py on the golden inputs and once on 200 inputs of the same kind.
# Without a softmax, and so without coarse logits, outputs are held to a quarter of that share of
# their range: the models of tests/pipeline/test_tasks.py differ by up to 0.014 of it in int8 and
# 6e-7 in float32 between XNNPACK and LiteRT's plain kernels, on 1,000 inputs.
TOLERANCES = {
    # Other processors add in another order, with or without fused multiply-add: seen 2e-6.
    "float32": 1e-4,
    # Not measured on Apple hardware: off macOS the reference evaluation gives the answers. Near
    # 10, where logits lie, float16 values are 2⁻⁷ apart; this allows an error of 15 such steps,
    # as float16 accumulators may leave.
    "float16": 0.03,
    # Compressed weights, and the arithmetic of float16.
    "int8w": 0.03,
    "pal4": 0.03,
    # A value between two steps of a grid that is made as it comes falls to the one or the other,
    # and a recurrence carries that on: seen 0.0025 on the golden inputs, 0.012 on 200.
    "dynamic": 0.03,
    # As int8, but with steps 256 times finer: seen 9e-5 on the golden inputs, 4e-4 on 200.
    "int16x8": 0.002,
    # Integer products are exact, but kernels differ in how they round the requantization. That
    # is one step per layer, yet the logits' own steps are coarse, 0.17 and 0.18 in these models,
    # and it is up to four of them by then: seen 0.11 on the golden inputs, 0.17 on 200.
    "int8": 0.2,
    "int8-qat": 0.2,
    "int8-selective": 0.2,
    "int8-pruned": 0.2,
    "int8-clustered": 0.2,
    # TensorFlow Lite Micro's portable kernels do the same everywhere: a step of an output's grid,
    # in case a release rounds differently.
    "micro": 0.004,
}

# Cells along each axis of the patterns that an input is mixed of, and the parts of the mixture.
_CELLS = (4, 9, 64)
_MIXTURES = ((5, 2, 1), (2, 5, 1), (1, 2, 5), (1, 1, 0))
# What is darker than this in the mask is black, as most of a picture of one thing is.
_THRESHOLDS = (64, 128, 160, 192)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenFloat:
    """The float model's own answers.

    Attributes:
        file: its file name.
        sha256: of the file.
        outputs: one row per input, rounded to 6 digits of the scale: the output, flattened, or
            16 elements of a larger one; None where an element was not finite.
    """

    file: str
    sha256: str
    outputs: tuple[tuple[float, ...] | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenArtifact:
    """One artifact's answers where it was exported.

    Attributes:
        file: its file name.
        sha256: of the file that answered.
        engine: what ran it, with its version.
        tolerance: how far an output may lie from these.
        outputs: one row per input, rounded to 6 digits of the scale: the output, flattened, or
            16 elements of a larger one; None where an element was not finite.
    """

    file: str
    sha256: str
    engine: str
    tolerance: float
    outputs: tuple[tuple[float, ...] | None, ...]

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"a tolerance must be above 0 and finite, got {self.tolerance}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """The golden vectors of a folder.

    Attributes:
        seed: of the inputs.
        count: how many inputs.
        inputs_sha256: of the inputs, as `inputs_sha256` computes it.
        float_model: the float model's answers.
        artifacts: those of each artifact whose engine ran at the export.
    """

    seed: int
    count: int
    inputs_sha256: str
    float_model: GoldenFloat
    artifacts: tuple[GoldenArtifact, ...]

    def __post_init__(self) -> None:
        if not (0 < self.count <= _MOST and 0 <= self.seed < 1 << 64):
            raise ValueError(
                f"expected 1 to {_MOST} inputs and a seed from 0 on, got {self.count} of seed "
                f"{self.seed}"
            )
        for part in self.parts():
            if len(part.outputs) != self.count:
                raise ValueError(f"{part.file} has {len(part.outputs)} rows, expected {self.count}")

    def parts(self) -> tuple[GoldenFloat | GoldenArtifact, ...]:
        """Returns all answers, the float model's first."""
        return (self.float_model, *self.artifacts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """A sample that an artifact answers otherwise than it did at the export.

    Attributes:
        sample: the input's index.
        label: the class that is furthest off, or the first that is not finite; for another task
            the output's position in its tensor.
        expected: its golden value; None if that was not finite at the export.
        found: its value here; None if it is not finite.
    """

    sample: int
    label: str
    expected: float | None
    found: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactSelftest:
    """One artifact's result. The measures are None if it did not run or gave no finite output.

    Attributes:
        file: its file name.
        engine: what ran it, with its version; without, if nothing did.
        sha256: of the file.
        verdict: PASS, FAIL or NOT_RUN.
        reason: why, in a sentence.
        tolerance: how far an output may lie from the golden one.
        max_change: the largest distance of an output from the golden one.
        max_change_from_float: the largest from the float model's, which is no verdict here.
        mismatches: the samples that differ.
    """

    file: str
    engine: str
    sha256: str
    verdict: str
    reason: str
    tolerance: float | None = None
    max_change: float | None = None
    max_change_from_float: float | None = None
    mismatches: tuple[Mismatch, ...] = ()

    def __post_init__(self) -> None:
        require_verdict(self.verdict, (Verdict.PASS, Verdict.FAIL, Verdict.NOT_RUN))


@dataclass(frozen=True, slots=True, kw_only=True)
class SelftestReport:
    """A folder's artifacts against their golden vectors."""

    model: str
    seed: int
    count: int
    host: Host
    artifacts: tuple[ArtifactSelftest, ...]

    def verdicts(self) -> list[str]:
        """Returns every verdict."""
        return [artifact.verdict for artifact in self.artifacts]


def draw_inputs(facts: InputFacts, seed: int = SEED, count: int = COUNT) -> NDArray[Any]:
    """Draws synthetic inputs, the same bits on every machine.

    The random bytes are SHAKE-256's (FIPS 202) and the rest is integer arithmetic, because NumPy
    promises neither the same stream nor the same distributions from one version to the next, and
    floating-point functions may differ from one processor to the next. Each input mixes patterns
    of coarse, middle and fine cells and masks them with one of the first two: noise alone has no
    structure for a convolution or a recurrence to act on, and nearly always gets the same class.

    Returns:
        uint8 (count, *shape) for a model that takes pixels, else float32 (count, *shape) with
        256 values from the facts' minimum to their maximum.

    Raises:
        InputError: they would take too much memory.
    """
    elements = count * math.prod(facts.shape)
    if elements > DRAWN_ELEMENTS:
        raise InputError(
            f"{count} golden inputs of shape {facts.shape} have {elements:,} elements; at most "
            f"{DRAWN_ELEMENTS:,} are drawn"
        )
    images = np.stack([_draw_input(facts.shape, seed, i) for i in range(count)])
    if facts.preprocessing is not None:
        return images
    # In float64, whose multiplication and addition IEEE 754 defines to the last bit.
    step = (facts.maximum - facts.minimum) / 255
    table = (facts.minimum + step * np.arange(256, dtype=np.float64)).astype(np.float32)
    values: NDArray[np.float32] = table[images]
    return values


def inputs_sha256(inputs: NDArray[Any]) -> str:
    """Returns the SHA-256 of inputs, their dtype and shape included, little-endian."""
    digest = hashlib.sha256(f"{inputs.dtype.name}{inputs.shape}".encode())
    digest.update(inputs.astype(inputs.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def output_scale(facts: ModelFacts, reference: NDArray[np.float32]) -> float:
    """Returns what tolerances are shares of: 1 for probabilities, else a quarter of the range.

    Args:
        facts: the model's.
        reference: the float model's outputs, float32 (n, *output shape). The range runs from the
            least to the greatest finite one and holds 0, as TFLite's integer grids do.
    """
    finite = reference[np.isfinite(reference)]
    if facts.task == Task.CLASSIFICATION or not finite.any():
        return 1.0
    return (float(max(finite.max(), 0.0)) - float(min(finite.min(), 0.0))) / 4


def golden_of_float(
    float_model: FloatModel, outputs: NDArray[np.float32], scale: float
) -> GoldenFloat:
    """Returns the float model's golden vectors.

    Args:
        float_model: its entry in the manifest.
        outputs: what it makes of the inputs that `draw_inputs` returns, float32.
        scale: as `output_scale` returns it.
    """
    return GoldenFloat(
        file=float_model.file, sha256=float_model.sha256, outputs=_rounded(outputs, scale)
    )


def golden_of_artifact(
    artifact: Artifact, model: Model, inputs: NDArray[Any], scale: float
) -> GoldenArtifact:
    """Returns one artifact's golden vectors, right or wrong: that is for `verify` to judge.

    Args:
        artifact: its entry in the manifest.
        model: the same, opened by an engine that runs here.
        inputs: as `draw_inputs` returns them.
        scale: as `output_scale` returns it.
    """
    return GoldenArtifact(
        file=artifact.file,
        sha256=artifact.sha256,
        engine=f"{model.engine.name} {model.engine.version()}",
        tolerance=TOLERANCES[artifact.facts.recipe] * scale,
        outputs=_rounded(model.outputs(inputs), scale),
    )


def read_golden(folder: Path, manifest: Manifest) -> Golden:
    """Reads a folder's golden vectors.

    Raises:
        ManifestError: the manifest names none, or they are not of its files.
        ModelFileError: they are not there.
        ChecksumError: they are not those that the manifest records.
    """
    path = newest(folder / FILE_NAME)
    if manifest.golden_sha256 is None:
        raise ManifestError(
            f"the manifest of {folder} names no golden vectors, so there is nothing to compare "
            "with: export again"
        )
    content = read_regular(path, DOCUMENT_BYTES)
    require_sha256(path, sha256_of(content), manifest.golden_sha256)
    golden = decode(SCHEMA, Golden, content, str(path))
    if golden.float_model.sha256 != manifest.float_model.sha256:
        raise ManifestError(
            f"{path} is of the float model {golden.float_model.sha256[:16]}…, its manifest of "
            f"{manifest.float_model.sha256[:16]}…: it belongs to another training run; export again"
        )
    unknown = {part.file for part in golden.artifacts} - manifest.sha256_by_file().keys()
    if unknown:
        raise ManifestError(f"{path} is of files that the manifest does not list: {unknown}")
    size = len(_positions(manifest.model.output_shape))
    for part in golden.parts():
        if any(row is not None and len(row) != size for row in part.outputs):
            raise ManifestError(f"{path}: {part.file} does not have {size} numbers in each row")
    return golden


def selftest(folder: Path, progress: Callable[[str], None] = lambda _: None) -> SelftestReport:
    """Compares what each artifact of a folder answers here with what it answered at the export.

    Args:
        folder: where manifest.json, golden.json and the artifacts are.
        progress: is told what is being run.

    Raises:
        ManifestError: the manifest or golden.json is missing or not valid, or disagrees with
            the facts inside a file; or this version of Hemline draws other inputs.
        ModelFileError: a file is missing, or its engine refuses it.
        ChecksumError: a file, golden.json included, is not the one that the manifest records.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    golden = read_golden(folder, manifest)
    check_embedded_facts(folder, manifest)
    inputs = draw_inputs(manifest.model.input, golden.seed, golden.count)
    found = inputs_sha256(inputs)
    if found != golden.inputs_sha256:
        raise ManifestError(
            f"the inputs drawn from seed {golden.seed} have SHA-256 {found[:16]}…, "
            f"{folder / FILE_NAME} says {golden.inputs_sha256[:16]}…; another version of Hemline "
            "wrote it: export again"
        )
    by_file = {part.file: part for part in golden.artifacts}
    results = []
    for artifact in manifest.artifacts:
        progress(f"selftest {artifact.file}")
        results.append(
            _test_artifact(
                folder,
                manifest,
                artifact,
                by_file.get(artifact.file),
                golden.float_model,
                inputs,
            )
        )
    return SelftestReport(
        model=manifest.model.model,
        seed=golden.seed,
        count=golden.count,
        host=describe_host(),
        artifacts=tuple(results),
    )


def _draw_input(shape: tuple[int, ...], seed: int, index: int) -> NDArray[np.uint8]:
    coarse, middle, fine = (_draw_pattern(shape, seed, index, cells) for cells in _CELLS)
    a, b, c = _MIXTURES[index % len(_MIXTURES)]
    mixture = (a * coarse + b * middle + c * fine) // (a + b + c)
    mask = (middle, coarse)[index // 4 % 2] >= _THRESHOLDS[index // 4 % len(_THRESHOLDS)]
    return np.where(mask, mixture, 0).astype(np.uint8)


def _draw_pattern(shape: tuple[int, ...], seed: int, index: int, cells: int) -> NDArray[np.int64]:
    """Draws one value per cell, up to `cells` of them along each axis that is no channel axis."""
    axes = len(shape) - 1 if len(shape) > 2 else len(shape)
    sides = [-(-size // cells) for size in shape[:axes]]
    grid = [-(-size // side) for size, side in zip(shape, sides, strict=False)] + [*shape[axes:]]
    source = hashlib.shake_256(f"{SCHEMA} {seed} {index} {cells}".encode())
    drawn = np.frombuffer(source.digest(math.prod(grid)), np.uint8)
    pattern = drawn.astype(np.int64).reshape(grid)
    for axis, side in enumerate(sides):
        pattern = np.repeat(pattern, side, axis=axis)
    return pattern[tuple(slice(size) for size in shape)]


def _positions(shape: tuple[int, ...]) -> list[int]:
    """Returns which elements of a flattened output are kept: all, or some from end to end."""
    size = math.prod(shape)
    if size <= _ELEMENTS:
        return list(range(size))
    return [i * (size - 1) // (_ELEMENTS - 1) for i in range(_ELEMENTS)]


def _kept(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the kept elements, (n, up to 16), of outputs (n, *output shape)."""
    return outputs.reshape(len(outputs), -1)[:, _positions(outputs.shape[1:])]


def _rounded(outputs: NDArray[np.float32], scale: float) -> tuple[tuple[float, ...] | None, ...]:
    digits = _DIGITS - math.floor(math.log10(scale))
    return tuple(
        tuple(round(float(value), digits) for value in row) if np.isfinite(row).all() else None
        for row in _kept(outputs)
    )


def _test_artifact(
    folder: Path,
    manifest: Manifest,
    artifact: Artifact,
    golden: GoldenArtifact | None,
    float_model: GoldenFloat,
    inputs: NDArray[Any],
) -> ArtifactSelftest:
    def not_run(reason: str) -> ArtifactSelftest:
        return ArtifactSelftest(
            file=artifact.file,
            engine=artifact.facts.engine,
            sha256=artifact.sha256,
            verdict=Verdict.NOT_RUN,
            reason=reason,
        )

    job = Job(
        path=folder / artifact.file,
        listed=manifest.listed(artifact.file),
        engine=stand_in(artifact.facts.engine),
    )
    (run,) = run_jobs([job], inputs)
    if run.outputs is None and not run.crashed:
        return not_run(run.reason)
    if golden is None:
        return not_run(
            f"{FILE_NAME} has no answers of it, since {artifact.facts.engine} did not run where "
            "it was exported",
        )
    if run.outputs is None:
        return replace(not_run(run.reason), verdict=Verdict.FAIL)
    found = _kept(run.outputs)
    mismatches = _compare(golden, found, _output_names(manifest.model))
    reasons = [_explain(mismatches, golden)] if mismatches else []
    if golden.sha256 != artifact.sha256:
        reasons.append(
            f"{FILE_NAME} is of a file with SHA-256 {golden.sha256[:16]}…, this one has "
            f"{artifact.sha256[:16]}…"
        )
    reason = "; ".join(reasons) or (
        f"all outputs lie within {golden.tolerance:g} of the golden ones"
    )
    is_reference = run.engine == CoreMLReferenceEngine.name
    return ArtifactSelftest(
        file=artifact.file,
        engine=f"{run.engine} {run.version}",
        sha256=artifact.sha256,
        verdict=Verdict.FAIL if reasons else Verdict.PASS,
        reason=f"{reason} ({CAVEAT})" if is_reference else reason,
        tolerance=golden.tolerance,
        max_change=_max_change(golden.outputs, found),
        max_change_from_float=_max_change(float_model.outputs, found),
        mismatches=mismatches,
    )


def _output_names(facts: ModelFacts) -> list[str]:
    """Returns what to call each kept output: its class, or its position."""
    if facts.labels:
        return list(facts.labels)
    return [
        str([int(i) for i in np.unravel_index(position, facts.output_shape)])
        for position in _positions(facts.output_shape)
    ]


def _compare(
    golden: GoldenArtifact, found: NDArray[np.float32], names: Sequence[str]
) -> tuple[Mismatch, ...]:
    mismatches = []
    for sample, (expected, row) in enumerate(zip(golden.outputs, found, strict=True)):
        finite = np.isfinite(row)
        if not finite.all():
            worst = int(np.flatnonzero(~finite)[0])
        elif expected is None:
            worst = int(row.argmax())
        else:
            change = np.abs(row.astype(np.float64) - np.array(expected))
            worst = int(change.argmax())
            if change[worst] <= golden.tolerance:
                continue
        mismatches.append(
            Mismatch(
                sample=sample,
                label=names[worst],
                expected=None if expected is None else expected[worst],
                found=float(row[worst]) if finite[worst] else None,
            )
        )
    return tuple(mismatches)


def _explain(mismatches: tuple[Mismatch, ...], golden: GoldenArtifact) -> str:
    first = mismatches[0]
    found, expected = (
        "NaN or infinity" if p is None else f"{p:.6f}" for p in (first.found, first.expected)
    )
    return (
        f"sample {first.sample}, {first.label}: found {found}, expected {expected} "
        f"± {golden.tolerance:g}; {len(mismatches)} of {len(golden.outputs)} samples differ"
    )


def _max_change(
    expected: tuple[tuple[float, ...] | None, ...], found: NDArray[np.float32]
) -> float | None:
    if None in expected or not np.isfinite(found).all():
        return None
    return float(np.abs(found.astype(np.float64) - np.array(expected)).max())

"""The command `hemline`: each subcommand is one library call and its output.

Exit status 0: done, and nothing FAILed; 1: it ran, and something FAILed; 2: it could not run.
Other packages plug in subcommands through the entry-point group `hemline.commands`.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

import hemline
from hemline import doctor, golden, inspection
from hemline.benchmark import command as bench_command
from hemline.benchmark import run as bench
from hemline.benchmark.timing import Schedule
from hemline.bundled import bundled_model, bundled_models
from hemline.console import (
    Commands,
    above_zero,
    add_trust,
    end_progress,
    points,
    positive,
    run_safely,
    show_progress,
)
from hemline.documents import encode, write_document
from hemline.engines import coreml, is_model
from hemline.engines.coreml_reference import CAVEAT
from hemline.errors import InputError, ModelFileError
from hemline.facts import Task
from hemline.files import write_bytes
from hemline.host import peak_memory_bytes
from hemline.manifest import read_manifest
from hemline.ownership import require_record
from hemline.parity import verify as parity
from hemline.parity.junit import format_junit
from hemline.parity.paired import Verdict
from hemline.pictures import read_picture
from hemline.report import format_speed, format_table, mark_verdict, report
from hemline.terminal import printable, show

COMMANDS = "hemline.commands"

# SGR codes: green, bold red, yellow, yellow.
_COLOURS: dict[str, str] = {
    Verdict.PASS: "32",
    Verdict.FAIL: "1;31",
    Verdict.INCONCLUSIVE: "33",
    Verdict.NOT_RUN: "33",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments

    def run() -> int:
        options = _parser().parse_args(words)
        status: int = options.run(options)
        return status

    return run_safely(run, verbose="-v" in words or "--verbose" in words)


def paint(table: str) -> str:
    """Returns a table with its verdicts in colour, if stdout is a terminal and NO_COLOR unset."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return table
    verdicts = "|".join(_COLOURS)
    return re.sub(
        rf"\b({verdicts})(?=( \(reference\))? \|)",
        lambda m: f"\x1b[{_COLOURS[m[1]]}m{m[1]}\x1b[0m",
        table,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # It quotes arguments, which may be file names.
        super().error(printable(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse passes over a stream that takes nothing, as if it had printed the help.
        if message:
            (file or sys.stderr).write(message)


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="hemline", description="Export, run, verify and benchmark models for the edge."
    )
    parser.add_argument("--version", action="version", version=hemline.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for point in sorted(entry_points(group=COMMANDS), key=lambda point: point.name, reverse=True):
        point.load()(commands)
    _add_verify(commands)
    _add_selftest(commands)
    bench_command.add_command(commands)
    _add_predict(commands)
    _add_inspect(commands)
    _add_report(commands)
    _add_doctor(commands)
    for command in commands.choices.values():
        command.add_argument(
            "-v", "--verbose", action="store_true", help="say more, and of a failure where it arose"
        )
    return parser


def _add_verify(commands: Commands) -> None:
    parser = commands.add_parser(
        "verify", help="each artifact of a folder against its float model, on test samples"
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="test samples: an .npz file with images and labels (for regression, targets; for "
        "autoencoders and tensors, images alone), a data set's name, or the "
        "folder of the model's own data set (default: found as the README says)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write parity.json there; and into DIR, beside it, the float model's predictions, "
        "which verify needs where Keras is not installed",
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML there, for CI")
    parser.add_argument(
        "--margin",
        type=points,
        metavar="POINTS",
        help="how much accuracy any artifact may lose (default: as its manifest says)",
    )
    parser.add_argument(
        "--loss-margin",
        type=above_zero,
        metavar="PERCENT",
        help="by how much the loss of any artifact may exceed the float model's, for regression "
        "and autoencoders (default: as its manifest says)",
    )
    parser.add_argument(
        "--samples", type=positive, metavar="N", help="only the first N test samples, for a look"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 unless every verdict is PASS")
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    for record in filter(None, (options.json, options.junit)):
        require_record(record)
    start = time.perf_counter()
    result = parity.verify(
        options.folder,
        options.data,
        show_progress,
        keep_predictions=options.json is not None and _lies_in(options.json, options.folder),
        margin_pt=options.margin,
        margin_loss_percent=options.loss_margin,
        count=options.samples,
    )
    try:
        timed = bench.bench(
            [options.folder],
            schedule=_SPEED,
            compute_units=bench.COMPUTE_UNITS[:1],
            progress=show_progress,
        )
    except ModelFileError:
        # Nothing in the folder runs here but in a reference evaluation.
        pass
    else:
        judged = tuple(file.speed for file in timed.files if file.speed is not None)
        result = replace(result, speeds=judged)
    end_progress()
    duration_s, peak = time.perf_counter() - start, peak_memory_bytes()
    if options.json:
        write_document(options.json, parity.SCHEMA, result)
    if options.junit:
        write_bytes(options.junit, format_junit(result, strict=options.strict))
    show(f"{result.model} on {result.data.count:,} samples of {result.data.source}")
    reference = result.float_model
    header = ("file", *_PARITY_COLUMNS[result.task], "speed", "verdict")
    speeds = {speed.file: format_speed(speed) for speed in result.speeds}
    rows = [
        _parity_row(header, reference.file, _float_cells(reference), "", reference.verdict),
        *(
            _parity_row(
                header,
                artifact.file,
                _artifact_cells(artifact),
                speeds.get(artifact.file, ""),
                mark_verdict(artifact.verdict, is_reference=artifact.is_reference),
            )
            for artifact in result.artifacts
        ),
    ]
    print(paint(format_table(header, rows)))
    if reference.reason:
        show(f"{reference.file}: {reference.reason}")
    for artifact in result.artifacts:
        if artifact.verdict != Verdict.PASS or artifact.is_reference:
            show(f"{artifact.file}: {artifact.verdict}: {artifact.reason}")
        for change in artifact.classes:
            if change.falls:
                show(
                    f"{artifact.file}: class {change.label} loses recall: "
                    f"{change.recall_change_pt:+.1f} points, p {change.holm_p:.2g} (Holm)"
                )
    memory = f", at most {peak / 2**20:.0f} MiB of memory" if peak else ""
    show(f"{duration_s:.1f} s{memory}")
    verdicts = set(result.verdicts())
    return int(bool(verdicts - {Verdict.PASS}) if options.strict else Verdict.FAIL in verdicts)


def _lies_in(file: Path, folder: Path) -> bool:
    return file.resolve().parent == folder.resolve()


# A look at the speed, enough for a ratio: `hemline bench` measures longer.
_SPEED = Schedule(rounds=15, calls_per_round=20)

_PARITY_COLUMNS: dict[str, tuple[str, ...]] = {
    Task.CLASSIFICATION: (
        "accuracy",
        "delta pt",
        "95 % interval",
        "margin",
        "errors",
        "agrees",
        "SQNR dB",
    ),
    Task.REGRESSION: ("loss", "growth %", "95 % interval", "margin", "SQNR dB"),
    Task.AUTOENCODER: ("loss", "growth %", "95 % interval", "margin", "SQNR dB"),
    Task.TENSORS: ("SQNR dB", "at least", "cosine", "at least", "lowest", "max Δ"),
}


def _parity_row(
    header: Sequence[str], file: str, cells: list[str], speed: str, verdict: str
) -> list[str]:
    """Returns a row of the table, filled up between its cells and the last two."""
    return [file, *cells, *[""] * (len(header) - len(cells) - 3), speed, verdict]


def _float_cells(reference: parity.FloatParity) -> list[str]:
    if reference.accuracy is not None:
        return [f"{reference.accuracy:.4f}"]
    return [] if reference.loss is None else [f"{reference.loss:.4g}"]


def _artifact_cells(artifact: parity.ArtifactParity) -> list[str]:
    sqnr = "equal" if artifact.sqnr_db is None else f"{artifact.sqnr_db:.1f}"
    paired, growth = artifact.paired, artifact.error_growth
    if paired is not None and growth is not None:
        return [
            f"{artifact.accuracy:.4f}",
            f"{paired.delta_pt:+.2f}",
            f"{paired.low_pt:+.3f} … {paired.high_pt:+.3f}",
            f"−{paired.margin_pt:g}",
            "" if growth.growth is None else f"{100 * growth.growth:+.1f} %",
            f"{artifact.agreement:.4f}",
            sqnr,
        ]
    loss = artifact.loss_growth
    if loss is not None:
        growth_percent, low, high = (
            "∞" if percent is None else f"{percent:+.3f}"
            for percent in (loss.growth_percent, loss.low_percent, loss.high_percent)
        )
        return [
            f"{loss.artifact_loss:.4g}",
            growth_percent,
            f"{low} … {high}",
            f"+{loss.margin_percent:g}",
            sqnr,
        ]
    found = artifact.fidelity
    if found is not None:
        return [
            sqnr,
            f"{found.least_sqnr_db:g}",
            f"{found.cosine:.6f}",
            f"{found.least_cosine:g}",
            f"{found.lowest_cosine:.6f}",
            f"{found.max_change:.2g}",
        ]
    return []


def _add_selftest(commands: Commands) -> None:
    parser = commands.add_parser(
        "selftest", help="each artifact of a folder against its golden vectors, without data"
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    parser.add_argument("--strict", action="store_true", help="exit 1 unless every verdict is PASS")
    parser.set_defaults(run=_selftest)


def _selftest(options: argparse.Namespace) -> int:
    if options.json:
        require_record(options.json)
    result = golden.selftest(options.folder, show_progress)
    end_progress()
    if options.json:
        write_document(options.json, golden.REPORT_SCHEMA, result)
    show(f"{result.model} on {result.count} golden inputs of seed {result.seed}")
    rows = [
        [
            artifact.file,
            artifact.engine,
            *(
                "" if number is None else f"{number:.2g}"
                for number in (artifact.max_change, artifact.tolerance)
            ),
            artifact.verdict,
        ]
        for artifact in result.artifacts
    ]
    print(format_table(("file", "engine", "max Δ", "tolerance", "verdict"), rows))
    for artifact in result.artifacts:
        if artifact.verdict != Verdict.PASS or CAVEAT in artifact.reason:
            show(f"{artifact.file}: {artifact.verdict}: {artifact.reason}")
    verdicts = set(result.verdicts())
    return int(bool(verdicts - {Verdict.PASS}) if options.strict else Verdict.FAIL in verdicts)


def _add_predict(commands: Commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="classify image files",
        usage="%(prog)s [options] [FILE|DIR] IMAGE...",
        description="Classifies image files, with a model file, a folder of artifacts, or a model "
        "that comes with Hemline.",
    )
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="IMAGE", help="image or .npy file; first the model"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="without FILE or DIR: a model that comes with Hemline, "
        f"{' or '.join(bundled_models())} (default: the first)",
    )
    parser.add_argument("--engine", help="what runs it (default: the file's own)")
    parser.add_argument("--top", type=positive, default=3, help="classes to show (default 3)")
    parser.add_argument("--invert", action="store_true", help="swap dark and light")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_trust(parser)
    parser.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    first, *rest = options.paths
    is_named = options.model is not None or not is_model(first)
    model_path, images = (
        (bundled_model(options.model), options.paths) if is_named else (first, rest)
    )
    if not images:
        raise InputError(f"no images to classify with {model_path}: name some after it")
    model = hemline.load(model_path, engine=options.engine, trust=options.trust)
    facts = model.require_facts()
    if options.verbose:
        show(f"model {model.path.name} in {model.info.engine}", file=sys.stderr)
    found = []
    for path in images:
        picture = read_picture(path, facts.input.shape, invert=options.invert)
        if options.verbose:
            show(f"{path}: {picture.conversion}", file=sys.stderr)
        prediction = model.predict(picture.pixels)
        found += [(str(path), best) for best in prediction.top(options.top)]
    if options.json:
        print(json.dumps([{"image": path, "top": best} for path, best in found], indent=1))
        return 0
    for path, best in found:
        show(f"{path}: {', '.join(f'{label} {probability:.3f}' for label, probability in best)}")
    return 0


def _add_inspect(commands: Commands) -> None:
    parser = commands.add_parser("inspect", help="what a model file holds")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "--compute-units",
        choices=coreml.COMPUTE_UNITS,
        default=coreml.DEFAULT_COMPUTE_UNITS,
        help="what Core ML plans for, on macOS (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_trust(parser)
    parser.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    result = inspection.inspect(
        options.file, compute_units=options.compute_units, trust=options.trust
    )
    if options.json:
        print(encode(inspection.SCHEMA, result).decode(), end="")
        return 0
    show(f"{result.file}: {result.size_bytes:,} bytes, runs in {result.engine}")
    show(f"sha256     {result.sha256}")
    show(f"manifest   {result.manifest}")
    tensors = [("input", tensor) for tensor in result.inputs]
    tensors += [("output", tensor) for tensor in result.outputs]
    for role, tensor in tensors:
        grid = tensor.quantization
        real = f", real = {grid.scale:.9g} · (q − {grid.zero_point})" if grid else ""
        show(f"{role:<10} {tensor.name}: {tensor.dtype} {list(tensor.shape)}{real}")
    counts = sorted(result.operators.items(), key=lambda item: (-item[1], item[0]))
    show(f"operators  {', '.join(f'{name} {count}' for name, count in counts)}")
    found = result.audit
    show(
        f"integers   {found.integer_operators} of {found.operators} operators, "
        f"{found.integer_macs:,} of {found.macs:,} multiply-accumulates"
        + (f"; {found.mixed_macs:,} with compressed weights" if found.mixed_macs else "")
        + f"; {found.conversions} conversions"
    )
    for island in found.islands:
        show(f"           in floating point: {', '.join(island.operators)}")
    if result.micro is not None:
        arena = result.micro.arena_bytes
        show(
            f"micro      {result.micro.reason}"
            if arena is None
            else f"micro      runs in TensorFlow Lite Micro, in an arena of {arena:,} bytes here"
        )
    if result.core_ml is not None:
        for line in inspection.describe_core_ml(result.core_ml):
            show(line)
    if result.facts is None:
        show("facts      none inside the file")
        return 0
    model, artifact = result.facts.model, result.facts.artifact
    show(f"model      {model.model}, recipe {artifact.recipe}, from {artifact.parent_sha256[:16]}…")
    show(f"task       {model.task}")
    if model.labels:
        show(f"labels     {', '.join(model.labels)}")
    pixels = model.input.preprocessing
    if pixels:
        show(f"pixels     (pixel − {pixels.mean:g}) / {pixels.std:g}")
    if artifact.settings:
        show(f"settings   {', '.join(f'{k} {v}' for k, v in artifact.settings.items())}")
    show(f"made with  {', '.join(f'{k} {v}' for k, v in artifact.toolchain.items())}")
    return 0


def _add_report(commands: Commands) -> None:
    parser = commands.add_parser(
        "report", help="one table of folders that were verified and benchmarked"
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    rows = [row for folder in options.folders for row in report(folder)]
    for header in dict.fromkeys(row.header() for row in rows):
        alike = [row.cells() for row in rows if row.header() == header]
        print(paint(format_table(header, alike)))
    if any(row.is_reference for row in rows):
        show(f"(reference): the verdict is from {CAVEAT}")
    for folder in options.folders:
        manifest = read_manifest(folder)
        for recipe, reason in manifest.omitted.items():
            show(f"{manifest.model.model}.{recipe}: not made: {reason}")
    return int(Verdict.FAIL in {row.verdict for row in rows})


def _add_doctor(commands: Commands) -> None:
    parser = commands.add_parser("doctor", help="what is installed here and which engines run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    found = doctor.diagnose()
    if options.json:
        print(encode(doctor.SCHEMA, found).decode(), end="")
        return int(not found.is_well)
    host = found.host
    show(f"{host.cpu}, {host.cores} cores, {host.machine}, {host.system}, Python {host.python}")
    show(f"installed: {', '.join(f'{k} {v}' for k, v in host.packages.items())}")
    engines = [
        [engine.name, engine.suffix, engine.version or "", engine.reason or "runs"]
        for engine in found.engines
    ]
    print(format_table(("engine", "files", "version", "here"), engines))
    for trial in found.trials:
        outcome = trial.reason or f"predicts with {trial.engine}"
        show(f"the model {trial.model}, which comes with Hemline: {outcome}")
    return int(not found.is_well)

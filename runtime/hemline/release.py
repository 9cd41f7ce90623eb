"""`make release`: promotes a build whose verdicts all pass to the released artifacts.

`python -m hemline.release BUILD RELEASED` takes every model folder below BUILD.
"""

import shutil
import sys
from pathlib import Path

from hemline import golden
from hemline.benchmark import report as bench_report
from hemline.commit import commit, newest, writing
from hemline.console import run_safely
from hemline.errors import ManifestError
from hemline.facts import Task
from hemline.listing import FILE_NAME
from hemline.manifest import check_files, read_manifest
from hemline.parity import verify as parity
from hemline.parity.paired import Verdict
from hemline.report import read_parity
from hemline.terminal import show

_DOCUMENTS = (
    FILE_NAME,
    golden.FILE_NAME,
    "training.json",
    parity.FILE_NAME,
    parity.FLOAT_PREDICTIONS,
    bench_report.FILE_NAME,
)


def release(build: Path, released: Path) -> list[Path]:
    """Copies each model folder of a build to the same place below `released`, whole or not at all.

    What else Hemline made there is deleted.

    An artifact whose engine does not run on this machine (NOT_RUN) is released as such: its
    parity.json says so.

    Returns:
        The folders written.

    Raises:
        ManifestError: there is nothing to release, a document is missing, the float model has
            no floor to be held to (only a full build on the real data has one), or a verdict is
            FAIL or INCONCLUSIVE.
        ChecksumError: a file is not the one that was verified.
    """
    folders = sorted(path.parent for path in build.glob(f"*/{FILE_NAME}"))
    if not folders:
        raise ManifestError(f"{build} holds no model folders; run `make all` first")
    for folder in folders:
        _require_releasable(folder)
    for folder in folders:
        manifest = read_manifest(folder)
        names = [*manifest.sha256_by_file(), *_DOCUMENTS]
        target = released / folder.name
        with writing(target) as stage:
            for name in names:
                source = newest(folder / name)
                if source.is_dir():
                    shutil.copytree(source, stage / name)
                else:
                    shutil.copyfile(source, stage / name)
            check_files(stage, manifest)
            others = {path.name for path in target.iterdir()} - set(names)
            commit(stage, target, remove=[n for n in others if not n.startswith(".hemline-")])
    return [released / folder.name for folder in folders]


def _require_releasable(folder: Path) -> None:
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    for name in _DOCUMENTS:
        if not newest(folder / name).is_file():
            raise ManifestError(f"{folder} has no {name}; run `make all` first")
    golden.read_golden(folder, manifest)
    result = read_parity(folder, manifest)
    bench_report.read_bench(folder / bench_report.FILE_NAME)
    # Tensors have no measure of their own that could have a floor.
    held = (result.float_model.floor_accuracy, result.float_model.ceiling_loss)
    if manifest.model.task != Task.TENSORS and held == (None, None):
        raise ManifestError(
            f"{folder} sets no floor for its float model: only a full build on the real data is "
            "released"
        )
    bad = set(result.verdicts()) - {Verdict.PASS, Verdict.NOT_RUN}
    if bad:
        raise ManifestError(f"{folder} is not released, its verdicts include {sorted(bad)}")


def _main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m hemline.release BUILD RELEASED", file=sys.stderr)
        return 2
    for folder in release(Path(arguments[0]), Path(arguments[1])):
        show(f"released {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(run_safely(lambda: _main(sys.argv[1:]), program="release"))

"""What was hashed is what is opened: files exchanged between one reading and the next."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemline import snapshot as snapshot_module
from hemline.engines import engine_for
from hemline.errors import ChecksumError, ModelFileError
from hemline.files import sha256, size_bytes
from hemline.inspection import inspect
from hemline.manifest import read_manifest
from hemline.parity.verify import verify
from hemline.snapshot import Snapshot

INT8, FLOAT32 = "separable.int8.tflite", "separable.float32.tflite"
PACKAGE = "separable.float16.mlpackage"


@pytest.fixture
def exchange(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts another file in a file's place as soon as that was hashed."""

    def put(file: str, other: str) -> None:
        content = (folder / other).read_bytes()

        def then_exchange(function: Any) -> Any:
            def hashed(what: Any) -> str:
                digest: str = function(what)
                (folder / file).write_bytes(content)
                return digest

            return hashed

        for name in ("sha256", "sha256_of"):
            function = getattr(snapshot_module, name)
            monkeypatch.setattr(snapshot_module, name, then_exchange(function))

    return put


def test_inspect_of_a_file_that_is_exchanged(
    folder: Path, exchange: Callable[[str, str], None]
) -> None:
    expected = inspect(folder / INT8)
    exchange(INT8, FLOAT32)
    assert inspect(folder / INT8) == expected
    assert sha256(folder / INT8) == sha256(folder / FLOAT32)


def test_verify_of_a_file_that_is_exchanged(
    folder: Path, few: Path, exchange: Callable[[str, str], None]
) -> None:
    exchange(INT8, FLOAT32)
    with pytest.raises(ChecksumError, match=rf"{INT8} has .*its manifest says"):
        verify(folder, str(few))


def test_a_file_is_its_content(folder: Path) -> None:
    engine = engine_for(folder / INT8)
    found = Snapshot(folder / INT8, engine)
    content = (folder / INT8).read_bytes()
    assert (found.content, found.size_bytes) == (content, len(content))
    (folder / INT8).unlink()
    assert found.structure(engine).operators
    assert found.open(engine, 1).run(np.zeros((1, 28, 28, 1), np.int8)).shape == (1, 10)
    # The engine holds it; nobody else need.
    assert found.content is None


def test_a_package_is_a_copy_that_goes_with_its_snapshot(folder: Path) -> None:
    engine = engine_for(folder / PACKAGE)
    found = Snapshot(folder / PACKAGE, engine)
    assert (found.sha256, found.size_bytes) == (
        sha256(folder / PACKAGE),
        size_bytes(folder / PACKAGE),
    )
    copy = found.opened
    shutil.rmtree(folder / PACKAGE)
    assert found.read_facts(engine)
    assert copy.stat().st_mode & 0o777 == 0o777 & ~_umask()
    assert copy.parent.stat().st_mode & 0o77 == 0
    del found
    assert not copy.parent.exists()


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_errors_name_the_file_and_not_its_copy(folder: Path) -> None:
    (folder / PACKAGE / "Manifest.json").write_text("[]")
    engine = engine_for(folder / PACKAGE)
    found = Snapshot(folder / PACKAGE, engine)
    with pytest.raises(ModelFileError, match=f"^{folder / PACKAGE} is no valid Core ML package"):
        found.read_facts(engine)


def test_sizes_are_compared_before_anything_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_module, "read_regular", None)
    listed = read_manifest(folder).listed(INT8)
    with (folder / INT8).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ChecksumError, match=r"has 1,099,511,627,776 bytes, its manifest says"):
        Snapshot(folder / INT8, engine_for(folder / INT8), listed)


@pytest.mark.parametrize("size", [3 << 30, 1 << 40])
@pytest.mark.parametrize("name", ["sparse.tflite", "sparse.onnx", "sparse.keras"])
def test_a_sparse_giant_is_not_read(tmp_path: Path, name: str, size: int) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(size)
    for trust in (False, True):
        with pytest.raises(ModelFileError, match=f"has {size:,} bytes; at most 2,147,483,648"):
            inspect(path, trust=trust)

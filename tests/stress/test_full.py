"""Export and train onto a full disk: a clear error, and the old files intact."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hemline.errors import OutputError

OLD, NEW = 0, 1
DISK_BYTES = 4 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no mount command: a small file system cannot be made here")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(
    run: Any,
    old: Path,
    disk: Path,
    version_of: Callable[[Path], int],
) -> None:
    folder, filler = disk / "model", disk / "filler"
    shutil.copytree(old, folder)
    shutil.copy(old.parent / "train.npz", disk)
    before = sorted(path.name for path in folder.iterdir())
    whole = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    for left in (0, 4096, whole // 4, whole // 2, 3 * whole // 4):
        free = shutil.disk_usage(disk).free
        filler.write_bytes(bytes(max(0, free - left)))
        with pytest.raises(
            OutputError,
            match=r"cannot write .*: No space left on device; bytes free: [\d,]+ in .*; make room",
        ):
            run(folder, NEW)
        filler.unlink()
        assert version_of(folder) == OLD
        assert sorted(path.name for path in folder.iterdir()) == before
    run(folder, NEW)
    assert version_of(folder) == NEW

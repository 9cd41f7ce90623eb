import errno
import hashlib
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hemline import files
from hemline.errors import DataError, ManifestError, ModelFileError, OutputError
from hemline.files import (
    read_regular,
    require_writable,
    sha256,
    size_bytes,
    staging,
    write_bytes,
)
from hemline.limits import MODEL_BYTES, PACKAGE_FILES


def test_bytes_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced_and_not_written_over(tmp_path: Path) -> None:
    path, link = tmp_path / "a.bin", tmp_path / "link"
    path.write_bytes(b"old")
    link.hardlink_to(path)
    write_bytes(path, b"new")
    assert (path.read_bytes(), link.read_bytes()) == (b"new", b"old")


def test_a_folder_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years")
    with pytest.raises(OutputError, match=r"cannot write .*thesis: it is a folder; name a file"):
        write_bytes(tmp_path / "thesis", b"{}")
    assert (tmp_path / "thesis" / "chapter").read_text() == "years"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


@pytest.mark.skipif(os.name == "nt", reason="Windows makes links for administrators only")
def test_a_link_leads_to_what_is_written(tmp_path: Path) -> None:
    target, link, new = tmp_path / "far" / "target", tmp_path / "link", tmp_path / "new"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to(target)
    new.symlink_to("far/later")
    for path in (link, new):
        write_bytes(path, b"new")
        assert path.is_symlink()
    assert target.read_bytes() == (tmp_path / "far" / "later").read_bytes() == b"new"
    link.unlink()
    link.symlink_to(tmp_path / "far")
    with pytest.raises(OutputError, match="it is a folder"):
        write_bytes(link, b"newer")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OutputError, match="cannot write"):
        write_bytes(loop, b"newer")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    for mode in (0o600, 0o640, 0o664):
        path.chmod(mode)
        write_bytes(path, b"new")
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_what_is_write_protected_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for another user: root may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    (tmp_path / "a.json").touch()
    with pytest.raises(OutputError, match=r"a\.json: it is write-protected; name another file"):
        require_writable(tmp_path / "a.json")
    for name in ("new.json", "new/folder/new.json"):
        with pytest.raises(OutputError, match=f"cannot write in {tmp_path}: it is write-protected"):
            require_writable(tmp_path / name)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    write_bytes(path, b"a record")
    reader.join()
    assert found == [b"a record"]
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such devices")
def test_a_device_is_written_through() -> None:
    write_bytes(Path("/dev/null"), b"a record")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(OutputError, match="No space left on device"):
        write_bytes(Path("/dev/full"), b"a record")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no /dev/stdout")
def test_stdout_by_its_name_goes_on_after_it(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\nfrom hemline.files import write_bytes\n"
        "print('before', flush=True)\nwrite_bytes(pathlib.Path('/dev/stdout'), b'record\\n')\n"
        "print('after')"
    )
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\nrecord\nafter\n"


def test_a_socket_is_no_place_for_a_record(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(OutputError, match="it is neither a file nor a pipe"):
            write_bytes(path, b"")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(_: Path) -> None:
        assert path.read_bytes() == b"old"
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "sync", fail)
    with pytest.raises(OutputError, match=r"cannot write .*a\.bin: Input/output error"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_ordinary_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(ManifestError, match=r"a has 5 bytes; at most 4 are read of such a file"):
        read_regular(path, 4, ManifestError)
    with pytest.raises(DataError, match=r"cannot read .*gone: No such file or directory"):
        read_regular(tmp_path / "gone", 4, DataError)
    with pytest.raises(ModelFileError, match=r"is a folder, expected an ordinary file"):
        read_regular(tmp_path, 4)
    with pytest.raises(ModelFileError, match=r"cannot read .*: File name too long"):
        read_regular(tmp_path / ("n" * 256), 4)
    with pytest.raises(ModelFileError, match=r"cannot read .*null"):
        read_regular(tmp_path / "a\0b", 4)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_what_blocks_or_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        for read in (sha256, lambda path: read_regular(path, 100)):
            with pytest.raises(ModelFileError, match="is neither a file nor a folder"):
                read(tmp_path / name)


def test_a_giant_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "giant"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    for read in (sha256, lambda path: read_regular(path, MODEL_BYTES)):
        with pytest.raises(ModelFileError, match="has 1,099,511,627,776 bytes; at most 2,147,483"):
            read(path)
    package = tmp_path / "package"
    package.mkdir()
    path.rename(package / "giant")
    with pytest.raises(ModelFileError, match="package has 1,099,511,627,776 bytes"):
        sha256(package)


def test_a_file_that_grows_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    fstat = os.fstat

    def grow(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        with path.open("ab") as file:
            file.write(b"6")
        return found

    monkeypatch.setattr(os, "fstat", grow)
    with pytest.raises(ModelFileError, match="was changed while it was being read"):
        read_regular(path, 100)


def test_a_folder_of_too_much_is_no_package(tmp_path: Path) -> None:
    for i in range(PACKAGE_FILES + 1):
        (tmp_path / str(i)).touch()
    with pytest.raises(ModelFileError, match="holds more than 1,000 files and folders"):
        sha256(tmp_path)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file" / "a.bin", tmp_path / "file" / "deeper" / "a.bin"):
        with pytest.raises(OutputError, match=r"cannot write in .*; choose a writable folder"):
            write_bytes(path, b"")
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_staging_folder_is_gone_at_the_end(tmp_path: Path) -> None:
    with staging(tmp_path) as scratch:
        (scratch / "a").write_text("a")
        assert scratch.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == digest


def test_sha256_of_a_directory_is_of_its_names_and_contents(tmp_path: Path) -> None:
    def package(name: str, files: dict[str, bytes]) -> str:
        for relative, content in files.items():
            write_bytes(tmp_path / name / relative, content)
        return sha256(tmp_path / name)

    first = package("one", {"b": b"2", "a/c": b"1"})
    listing = "".join(
        f"{path}\0{hashlib.sha256(content).hexdigest()}\n"
        for path, content in (("a/c", b"1"), ("b", b"2"))
    )
    assert first == hashlib.sha256(listing.encode()).hexdigest()
    assert package("two", {"a/c": b"1", "b": b"2"}) == first
    assert package("three", {"a/c": b"1", "d": b"2"}) != first
    assert package("four", {"a/c": b"1", "b": b"3"}) != first
    assert package("five", {"c": b"1", "b": b"2"}) != first


def test_sizes(tmp_path: Path) -> None:
    write_bytes(tmp_path / "p" / "a" / "b", b"12345")
    write_bytes(tmp_path / "p" / "c", b"67")
    assert size_bytes(tmp_path / "p" / "c") == 2
    assert size_bytes(tmp_path / "p") == 7

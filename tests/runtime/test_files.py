import hashlib
from pathlib import Path

import pytest

from hemline.errors import OutputError
from hemline.files import replacing, sha256, size_bytes, staging, write_bytes


def test_bytes_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"cannot write .*a\.bin: No such file"), replacing(path):
        pass
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_file_is_replaced_and_not_written_over(tmp_path: Path) -> None:
    path, link = tmp_path / "a.bin", tmp_path / "link"
    path.write_bytes(b"old")
    link.hardlink_to(path)
    write_bytes(path, b"new")
    assert (path.read_bytes(), link.read_bytes()) == (b"new", b"old")


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mlpackage"
    for name in ("old", "new"):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_stays_if_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.mlpackage"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:  # noqa: PT012
        temporary.mkdir()
        raise ZeroDivisionError
    assert (path / "old").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


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

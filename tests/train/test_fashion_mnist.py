import hashlib
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from hemline.errors import DataError
from hemline_train import fashion_mnist
from hemline_train.fashion_mnist import DatasetUnavailableError, download, find_folder, read

CONTENT = {name: f"the bytes of {name}".encode() for name in fashion_mnist.FILES}
FIRST = "train-images-idx3-ubyte.gz"
Serve = Callable[[str], str]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files instead of the published ones, and none of them anywhere."""
    for name, content in CONTENT.items():
        monkeypatch.setitem(fashion_mnist.FILES, name, hashlib.sha256(content).hexdigest())
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("HEMLINE_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache/hemline/fashion-mnist"


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says how to misbehave."""

    def do_GET(self) -> None:
        _, manner, name = self.path.split("/")
        body = CONTENT[name]
        if manner == "missing":
            self.send_error(404)
            return
        if manner == "slow":
            time.sleep(0.6)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if manner == "tampered":
            body = body[::-1]
        self.wfile.write(body[: len(body) // 2] if manner == "interrupted" else body)

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield lambda manner: f"http://127.0.0.1:{server.server_port}/{manner}/"
        server.shutdown()
        thread.join()


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_folders_are_looked_at_in_order(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras_cache = fill(tmp_path / "keras/datasets/fashion-mnist")
    assert find_folder() == keras_cache
    fill(cache)
    assert find_folder() == cache
    fill(tmp_path / "shared/fashion-mnist")
    assert find_folder() == Path("../shared/fashion-mnist")
    fill(tmp_path / "work/data")
    assert find_folder() == Path("data")
    monkeypatch.setenv("HEMLINE_DATA", str(fill(tmp_path / "named")))
    assert find_folder() == tmp_path / "named"
    assert find_folder(fill(tmp_path / "given")) == tmp_path / "given"


def test_a_given_folder_is_never_passed_over(tmp_path: Path, serve: Serve) -> None:
    fill(tmp_path / "work/data")
    with pytest.raises(DataError, match=r"none/train-images-idx3-ubyte\.gz is missing") as caught:
        find_folder(tmp_path / "none", [serve("good")])
    assert not isinstance(caught.value, DatasetUnavailableError)


def test_the_environments_folder_is_never_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "work/data")
    folder = fill(tmp_path / "named")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("HEMLINE_DATA", str(folder))
    with pytest.raises(DataError, match=r"named/t10k-labels-idx1-ubyte\.gz is missing"):
        find_folder()


@pytest.mark.parametrize("given", [True, False], ids=["given", "data/"])
def test_a_damaged_file_is_named_with_both_hashes(tmp_path: Path, given: bool) -> None:
    folder = fill(tmp_path / "work/data")
    (folder / FIRST).write_bytes(b"damaged")
    message = r"data/train-images.* SHA-256 begins b9b0c7b8a36a, expected [0-9a-f]{12};"
    message = message.replace("b9b0c7b8a36a", hashlib.sha256(b"damaged").hexdigest()[:12])
    with pytest.raises(DataError, match=message) as caught:
        find_folder(folder if given else None, [])
    assert not isinstance(caught.value, DatasetUnavailableError)


def test_reading_checks_the_hash(tmp_path: Path) -> None:
    folder = fill(tmp_path / "given")
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is damaged"):
        read(folder, "test")
    with pytest.raises(DataError, match=r"not a whole gzip file"):
        read(folder, "train")


def test_a_download_fills_the_cache_quietly(
    cache: Path, serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    assert find_folder(None, [serve("good")]) == cache
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == CONTENT
    assert find_folder(None, []) == cache
    assert capfd.readouterr() == ("", "")


def test_a_damaged_cache_is_fetched_again(cache: Path, serve: Serve) -> None:
    fill(cache)
    (cache / FIRST).write_bytes(b"damaged")
    assert find_folder(None, [serve("good")]) == cache
    assert (cache / FIRST).read_bytes() == CONTENT[FIRST]


@pytest.mark.parametrize("manner", ["missing", "tampered", "interrupted"])
def test_the_second_address_stands_in(cache: Path, serve: Serve, manner: str) -> None:
    assert find_folder(None, [serve(manner), serve("good")]) == cache
    assert listed(cache) == sorted(CONTENT)


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("missing", "HTTP status 404"),
        ("tampered", "what came has the wrong SHA-256"),
        ("interrupted", "ChunkedEncodingError"),
    ],
)
def test_a_failed_download_leaves_nothing(
    cache: Path, serve: Serve, manner: str, reason: str
) -> None:
    with pytest.raises(DataError, match=rf"{FIRST} could not be fetched from .*{reason}"):
        download(cache, [serve(manner)])
    assert listed(cache) == []


def test_a_silent_server_is_given_up(
    cache: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "TIMEOUT_S", 0.1)
    with pytest.raises(DataError, match="ReadTimeout"):
        download(cache, [serve("slow")])


def test_with_none_to_be_had_all_ways_are_told(cache: Path) -> None:
    with pytest.raises(DatasetUnavailableError) as caught:
        find_folder(None, ["http://127.0.0.1:9/"])
    for way in ("--data", "HEMLINE_DATA", "data/", "../shared/fashion-mnist", "synthetic"):
        assert way in str(caught.value)
    assert listed(cache) == []


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="could not be fetched"):
        download(tmp_path / "file/cache", [serve("good")])


@pytest.mark.data
def test_the_real_files_hold_what_is_published(
    real_data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    folder = find_folder(real_data_folder)
    train_images, train_labels = read(folder, "train")
    test_images, test_labels = read(folder, "test")
    assert train_images.shape == (60000, 28, 28, 1)
    assert test_images.shape == (10000, 28, 28, 1)
    assert np.bincount(train_labels).tolist() == [6000] * 10
    assert np.bincount(test_labels).tolist() == [1000] * 10
    assert train_labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert test_labels[:5].tolist() == [9, 2, 1, 1, 6]

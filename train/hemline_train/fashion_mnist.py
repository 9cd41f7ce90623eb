"""Fashion-MNIST: where its four files are, and what is in them.

Hashes, addresses and labels: Zalando Research, https://github.com/zalandoresearch/fashion-mnist.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hemline.errors import DataError, ModelFileError
from hemline.files import sha256
from hemline.terminal import show
from hemline_train.idx import read_labelled_images, require_sha256

LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_SHA256SUMS = """\
3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84  train-images-idx3-ubyte.gz
a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845  train-labels-idx1-ubyte.gz
346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073  t10k-images-idx3-ubyte.gz
67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5  t10k-labels-idx1-ubyte.gz
"""

FILES = {name: digest for digest, name in map(str.split, _SHA256SUMS.splitlines())}
"""Each file's name and SHA-256."""

ADDRESSES = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)

TIMEOUT_S = 10


class DatasetUnavailableError(DataError):
    """The data set is in none of the places looked at, and cannot be downloaded."""


def find_folder(folder: Path | None = None, addresses: Sequence[str] = ADDRESSES) -> Path:
    """Finds a folder that holds the four files, or downloads them into the user's cache.

    Looked at in this order: `folder`; the environment's HEMLINE_DATA; `data/`;
    `../shared/fashion-mnist`; the user's cache; Keras's own cache; then `addresses`.

    Args:
        folder: where the files must be, if given.
        addresses: base addresses to download from, tried in turn.

    Raises:
        DatasetUnavailableError: nothing names a folder, and there is no source to be had.
        DataError: a file in a folder that was named, in `data/` or in `../shared/fashion-mnist`
            is missing or is not the published one.
    """
    if folder is None and os.environ.get("HEMLINE_DATA"):
        folder = Path(os.environ["HEMLINE_DATA"])
    if folder is not None:
        _check_files(folder)
        return folder
    for local in (Path("data"), Path("../shared/fashion-mnist")):
        if all((local / name).is_file() for name in FILES):
            _check_files(local)
            return local
    cache = _find_cache()
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    for cached in (cache, keras_home / "datasets/fashion-mnist"):
        if cached is not None and all(_is_intact(cached / name) for name in FILES):
            return cached
    try:
        return download(cache, addresses)
    except DataError as error:
        raise DatasetUnavailableError(
            f"no Fashion-MNIST here, and the download failed ({error}). To supply it: give its "
            "folder as --data DIR or in HEMLINE_DATA, or put its four .gz files into data/ or "
            "../shared/fashion-mnist, or connect to the network, "
            "or take the built-in garments: --dataset synthetic"
        ) from error


def download(folder: Path | None, addresses: Sequence[str] = ADDRESSES) -> Path:
    """Downloads those of the four files that `folder` lacks; each is stored whole or not at all.

    Args:
        folder: where to; None for the user's cache.
        addresses: base addresses, tried in turn for each file.

    Raises:
        DataError: no address gave a file with the right SHA-256, or it cannot be stored.
    """
    pooch = _import_pooch()
    if pooch is None:
        raise DataError("downloading needs pooch: pip install 'hemline[train]'")
    pooch.get_logger().setLevel("WARNING")
    folder = folder or Path(pooch.os_cache("hemline")) / "fashion-mnist"
    if sys.stderr.isatty():
        show(f"downloading Fashion-MNIST (30 MB) to {folder}", file=sys.stderr)
    # Without the header, a server that calls the .gz an encoding would have it unpacked on the way.
    downloader = pooch.HTTPDownloader(
        timeout=TIMEOUT_S, chunk_size=1 << 16, headers={"Accept-Encoding": "identity"}
    )
    for name, digest in FILES.items():
        failures = []
        for address in addresses:
            try:
                pooch.retrieve(
                    url=address.rstrip("/") + "/" + name,
                    known_hash=f"sha256:{digest}",
                    fname=name,
                    path=folder,
                    downloader=downloader,
                )
                break
            except (OSError, ValueError) as error:  # requests raises the one, pooch the other
                failures.append(f"{address}: {_describe(error)}")
        else:
            raise DataError(f"{name} could not be fetched from {'; '.join(failures) or 'nowhere'}")
    return folder


def read(
    folder: Path, part: Literal["train", "test"]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Reads the 60,000 training or the 10,000 test images and their labels.

    Returns:
        images uint8 (n, 28, 28, 1), labels int64 (n,), in the files' order.

    Raises:
        DataError: a file is missing, or is not the published one.
    """
    prefix = "train" if part == "train" else "t10k"
    images, labels = (name for name in FILES if name.startswith(prefix))
    _check_file(folder / images)
    _check_file(folder / labels)
    digests = FILES[images], FILES[labels]
    return read_labelled_images(folder / images, folder / labels, digests)


def _check_files(folder: Path) -> None:
    for name in FILES:
        _check_file(folder / name)


def _check_file(path: Path) -> None:
    try:
        found = sha256(path) if path.is_file() else None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ModelFileError as error:
        raise DataError(str(error)) from error
    if found is None:
        raise DataError(
            f"{path} is missing; expected a folder with the four files {', '.join(FILES)}"
        )
    require_sha256(path, found, FILES[path.name])


def _is_intact(path: Path) -> bool:
    try:
        _check_file(path)
    except DataError:
        return False
    return True


def _find_cache() -> Path | None:
    pooch = _import_pooch()
    return Path(pooch.os_cache("hemline")) / "fashion-mnist" if pooch else None


def _import_pooch() -> Any:
    # A device that only runs models has NumPy and one engine, and may still verify with --data.
    try:
        import pooch
    except ImportError:
        return None
    return pooch


def _describe(error: Exception) -> str:
    if "does not match the known hash" in str(error):
        return "what came has the wrong SHA-256"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"HTTP status {status}"
    return getattr(error, "strerror", None) or type(error).__name__

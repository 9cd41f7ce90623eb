import hashlib
import zipfile
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemline import samples
from hemline.errors import DataError
from hemline.facts import DatasetRef
from hemline.samples import Samples, resolve_samples

IMAGES = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
LABELS = np.array([0, 1, 2])


def load_pets(**arguments: Any) -> Samples:
    CALLS.append(arguments)
    return make_samples()


CALLS: list[dict[str, Any]] = []


def make_samples(**changes: Any) -> Samples:
    fields = {
        "images": IMAGES,
        "labels": LABELS,
        "indices": np.array([4, 5, 6]),
        "source": "pets",
        "split": "test",
    }
    return Samples(**(fields | changes))


@pytest.fixture
def pets(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The only data set plugged in is `pets`; gives its calls."""

    class Point(EntryPoint):
        def load(self) -> Any:
            return load_pets

    points = EntryPoints([Point(name="pets", value="x:y", group=samples.ENTRY_POINTS)])
    monkeypatch.setattr(samples, "entry_points", lambda **wanted: points.select(**wanted))
    CALLS.clear()
    return CALLS


def test_an_npz_file_is_taken_whole(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=IMAGES, labels=LABELS.astype(np.uint8))
    found = resolve_samples(str(path), None, "test")
    assert (found.images == IMAGES).all()
    assert (found.labels.dtype, found.labels.tolist()) == (np.int64, [0, 1, 2])
    assert found.indices.tolist() == [0, 1, 2]
    assert (found.source, found.split, len(found)) == ("data.npz", "file", 3)


def test_positions_are_taken_in_their_order() -> None:
    taken = make_samples().take(np.array([2, 0]))
    assert taken.images.tolist() == [[[8, 9], [10, 11]], [[0, 1], [2, 3]]]
    assert (taken.labels.tolist(), taken.indices.tolist()) == ([2, 0], [6, 4])
    assert (taken.source, taken.split) == ("pets", "test")


def test_hashes() -> None:
    whole = make_samples()
    first = hashlib.sha256(bytes([0, 1, 2, 3])).hexdigest()[:16]
    assert whole.sample_sha256()[0] == first
    assert len(set(whole.sample_sha256())) == 3
    # The order in memory does not count.
    strided = IMAGES.transpose(0, 2, 1).copy().transpose(0, 2, 1)
    assert strided[0].flags.f_contiguous
    assert make_samples(images=strided).sha256() == whole.sha256()
    assert make_samples(images=strided).sample_sha256() == whole.sample_sha256()
    for other in (
        make_samples(labels=LABELS[::-1]),
        make_samples(images=IMAGES[::-1]),
        make_samples(images=IMAGES.reshape(3, 4)),
        make_samples(images=IMAGES.astype(np.float32)),
    ):
        assert other.sha256() != whole.sha256()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES.astype(np.float64)}, r"images are float64 of shape \(3, 2, 2\)"),
        ({"images": IMAGES.astype(np.int64)}, "images are int64 .*, expected uint8 or float32"),
        ({"images": np.uint8(3)}, r"images are uint8 of shape \(\), expected .* shape \(n, …\)"),
        ({"images": IMAGES[:2]}, "2 images and 3 labels; expected as many of each"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "no images; expected at least one"),
    ],
)
def test_wrong_arrays(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"pets: {message}"):
        make_samples(**changes)
    np.savez(tmp_path / "bad.npz", **({"images": IMAGES, "labels": LABELS} | changes))
    with pytest.raises(DataError, match=f"bad.npz: {message}"):
        resolve_samples(str(tmp_path / "bad.npz"), None, "test")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_nan_is_named(value: float) -> None:
    images = np.zeros((3, 2, 2), np.float32)
    images[1, 0, 1] = value
    with pytest.raises(DataError, match="pets: image 1 holds NaN or infinity"):
        make_samples(images=images)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.array([0.0, 1.0, 2.0]), r"float64 \(3,\)"),
        (np.array(["a", "b", "c"]), r"<U1 \(3,\)"),
        (np.eye(3, dtype=np.int64), r"int64 \(3, 3\)"),
        (np.array([True, False, True]), r"bool \(3,\)"),
        (np.int64(1), r"int64 \(\)"),
    ],
)
def test_wrong_labels(tmp_path: Path, labels: Any, found: str) -> None:
    np.savez(tmp_path / "bad.npz", images=IMAGES, labels=labels)
    with pytest.raises(
        DataError, match=rf"bad\.npz: labels are {found}, expected integers of shape \(n,\)"
    ):
        resolve_samples(str(tmp_path / "bad.npz"), None, "test")


def bad_files(folder: Path) -> dict[str, bytes]:
    path = folder / "good.npz"
    np.savez_compressed(path, images=np.zeros((9, 28, 28), np.uint8), labels=np.arange(9))
    good = path.read_bytes()
    start = good.index(b"images.npy") + 40
    wrong_deflate = good[:start] + b"\xff" * 20 + good[start + 20 :]
    np.savez(path, pictures=IMAGES, labels=LABELS)
    other_names = path.read_bytes()
    np.savez(path, images=np.array([{}], object), labels=np.array([0]))
    pickled = path.read_bytes()
    np.save(folder / "array.npy", IMAGES)
    with zipfile.ZipFile(path, "w") as archive, archive.open("images.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**50, 28, 28)}
        np.lib.format.write_array_header_1_0(member, header)
    huge = path.read_bytes()
    return {
        "empty": b"",
        "garbage": b"garbage",
        "truncated": good[: len(good) // 2],
        "deflate": wrong_deflate,
        "names": other_names,
        "pickled": pickled,
        "npy": (folder / "array.npy").read_bytes(),
        "huge": huge,
    }


@pytest.mark.parametrize(
    "kind", ["empty", "garbage", "truncated", "deflate", "names", "pickled", "npy", "huge"]
)
def test_a_bad_npz_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(bad_files(tmp_path)[kind])
    with pytest.raises(
        DataError,
        match=r"bad\.npz must be an \.npz file with `images`, and `labels` or `targets`: \S",
    ):
        resolve_samples(str(path), None, "test")


def test_a_missing_npz_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.npz: No such file or directory"):
        resolve_samples(str(tmp_path / "none.npz"), None, "test")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(DataError, match=r"folder\.npz is a folder, expected"):
        resolve_samples(str(tmp_path / "folder.npz"), None, "test")


def test_data_sets_plug_in(pets: list[dict[str, Any]], tmp_path: Path) -> None:
    known = DatasetRef(name="pets", split_seed=7)
    assert resolve_samples("pets", None, "train").source == "pets"
    assert resolve_samples(None, known, "test").source == "pets"
    assert resolve_samples(str(tmp_path), known, "validation").source == "pets"
    assert pets == [
        {"split": "train", "folder": None, "split_seed": 0},
        {"split": "test", "folder": None, "split_seed": 7},
        {"split": "validation", "folder": tmp_path, "split_seed": 7},
    ]


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize(
    ("data", "dataset", "wanted"),
    [
        ("cars", None, "'cars'"),
        ("cars", DatasetRef(name="pets", split_seed=0), "'cars'"),
        (None, DatasetRef(name="cars", split_seed=0), "'cars'"),
        (None, None, "'this model'"),
        (".", None, "'.'"),
    ],
)
def test_no_samples(data: str | None, dataset: DatasetRef | None, wanted: str) -> None:
    with pytest.raises(DataError) as caught:
        resolve_samples(data, dataset, "test")
    assert str(caught.value) == (
        f"no samples found for {wanted}: give --data an .npz file with `images` and `labels` "
        "(regression: `targets`), a data set's name (pets), or the folder of the model's own data "
        "set"
    )


def test_the_installed_data_sets() -> None:
    synthetic = resolve_samples("synthetic", None, "test")
    assert (synthetic.source, synthetic.split) == ("synthetic", "test")
    with pytest.raises(DataError, match=r"a data set's name \(fashion_mnist, synthetic\)"):
        resolve_samples("cars", None, "test")


def test_regression_comes_with_targets(tmp_path: Path) -> None:
    path, targets = tmp_path / "data.npz", np.array([[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]])
    np.savez(path, images=IMAGES, targets=targets)
    found = resolve_samples(str(path), None, "test")
    assert found.labels is None
    assert found.targets is not None
    assert (found.targets.dtype, found.targets.tolist()) == (np.float32, targets.tolist())
    taken = found.take(np.array([2, 0])).targets
    assert taken is not None
    assert taken.tolist() == [[4.0, 5.0], [0.5, 1.0]]
    np.savez(path, images=IMAGES, targets=targets[::-1])
    assert resolve_samples(str(path), None, "test").sha256() != found.sha256()


def test_images_alone_are_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=IMAGES)
    found = resolve_samples(str(tmp_path / "data.npz"), None, "test")
    assert (found.labels, found.targets) == (None, None)
    assert found.sha256() != make_samples().sha256()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.arange(3), r"targets are int64 \(3,\), expected float32 of shape \(n, …\)"),
        (np.float32(1), r"targets are float32 \(\)"),
        (np.zeros(2, np.float32), "3 images and 2 targets; expected as many of each"),
        (np.array([0, np.nan, 1]), "target 1 holds NaN or infinity"),
        (np.array([0, 1, 1e300]), "target 2 holds NaN or infinity"),
    ],
)
def test_wrong_targets(tmp_path: Path, targets: Any, message: str) -> None:
    np.savez(tmp_path / "bad.npz", images=IMAGES, targets=targets)
    with pytest.raises(DataError, match=rf"bad\.npz: {message}"):
        resolve_samples(str(tmp_path / "bad.npz"), None, "test")

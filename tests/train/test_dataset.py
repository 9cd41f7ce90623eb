from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemline.errors import DataError
from hemline.samples import Samples, Split
from hemline_train import fashion_mnist
from hemline_train.dataset import (
    load_dataset,
    load_fashion_mnist,
    load_synthetic,
    main,
    one_hot,
    preprocess,
    resolve_name,
    split_indices,
)


@pytest.fixture
def no_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Path:
        raise DataError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEMLINE_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path)
    monkeypatch.setattr(fashion_mnist, "download", fail)


def test_preprocessing_divides_by_255_to_the_last_bit() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    values = preprocess(pixels)
    assert values.dtype == np.float32
    assert values.tobytes() == (pixels.astype(np.float32) / 255).tobytes()
    assert values.ravel()[[0, 51, 255]].tolist() == [0.0, np.float32(0.2), 1.0]


def test_one_hot() -> None:
    assert one_hot(np.array([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(np.array([2, 0]), 3).dtype == np.float32


def test_a_split_is_as_the_search_of_hyperparameters_drew_it() -> None:
    train, validation = split_indices(np.arange(30) % 3, seed=0)
    assert validation.tolist() == [7, 12, 14, 17, 18, 28]
    assert np.array_equal(np.union1d(train, validation), np.arange(30))


@given(
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=200),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_split_is_stratified_disjoint_and_whole(labels: list[int], seed: int) -> None:
    array = np.array(labels)
    train, validation = split_indices(array, seed)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    for label in set(labels):
        assert (array[validation] == label).sum() == labels.count(label) // 5


def test_the_synthetic_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_dataset("synthetic")
    assert (len(loaded.train_images), len(loaded.test_images)) == (6000, 1000)
    assert loaded.name == "synthetic"
    assert len(loaded.labels) == 10
    assert loaded.sha256 == load_dataset("synthetic").sha256
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "SYNTHETIC DATA: drawn garments, NOT Fashion-MNIST" in captured.err


def test_synthetic_splits_are_apart() -> None:
    splits = [
        load_synthetic(split=split, folder=None, split_seed=0)
        for split in ("train", "validation", "test")
    ]
    assert [len(samples) for samples in splits] == [4800, 1200, 1000]
    train, validation, test = splits
    assert not set(train.indices) & set(validation.indices)
    assert not set(train.sample_sha256()) & set(test.sample_sha256())
    assert test.indices.tolist() == list(range(1000))
    assert np.bincount(validation.labels).tolist() == [120] * 10
    assert (train.source, train.split, train.images.dtype) == ("synthetic", "train", np.uint8)


@pytest.mark.usefixtures("no_fashion_mnist")
def test_auto_falls_back_under_a_banner(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_dataset("auto").name == "synthetic"
    banner = capsys.readouterr().err
    assert banner.count("SYNTHETIC DATA") == 1
    assert "no network" in banner


@pytest.mark.usefixtures("no_fashion_mnist")
def test_auto_does_not_hide_a_damaged_folder(tmp_path: Path) -> None:
    for name in fashion_mnist.FILES:
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        load_dataset("auto", tmp_path)


@pytest.mark.usefixtures("no_fashion_mnist")
def test_fashion_mnist_asked_for_by_name_never_falls_back() -> None:
    with pytest.raises(DataError, match="--data DIR"):
        load_dataset("fashion_mnist")
    with pytest.raises(DataError, match="--data DIR"):
        load_fashion_mnist(split="test", folder=None, split_seed=0)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(DataError, match="unknown data set 'mnist', expected one of fashion_mnist"):
        resolve_name("mnist")


@pytest.mark.usefixtures("no_fashion_mnist")
def test_main_prints_the_resolved_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["auto"]) == 0
    assert capsys.readouterr().out == "synthetic\n"
    assert main(["fashion_mnist"]) == 0
    assert capsys.readouterr().out == "fashion_mnist\n"


def test_main_says_an_error_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["auto", "--data", str(tmp_path / "none")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


@pytest.mark.data
def test_real_splits(real_data_folder: Path) -> None:
    def load(split: Split) -> Samples:
        return load_fashion_mnist(split=split, folder=real_data_folder, split_seed=0)

    train, validation, test = load("train"), load("validation"), load("test")
    assert np.bincount(train.labels).tolist() == [4800] * 10
    assert np.bincount(validation.labels).tolist() == [1200] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert validation.indices[:5].tolist() == [3, 18, 21, 24, 29]
    assert load_dataset("auto", real_data_folder).sha256 == (
        "145c7cc693ba9309a106bf85524ac71e85fcfb2e7d8183008ef3c512c60b6793"
    )

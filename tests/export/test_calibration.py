import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hemline.errors import DataError
from hemline.facts import DatasetRef, ModelFacts, Preprocessing
from hemline.manifest import read_manifest
from hemline.samples import Samples
from hemline_export import calibration
from hemline_export.calibration import draw_calibration, preprocess, require_untested


@pytest.fixture
def samples() -> Samples:
    return Samples(
        images=np.arange(40, dtype=np.uint8).reshape(20, 2),
        labels=np.zeros(20, np.int64),
        indices=np.arange(100, 120),
        source="tiny",
        split="train",
    )


def test_a_draw_is_on_record(samples: Samples) -> None:
    drawn, facts = draw_calibration(samples, count=12, seed=1)
    again, same = draw_calibration(samples, count=12, seed=1)
    np.testing.assert_array_equal(drawn.images, again.images)
    assert facts == same
    assert len(set(drawn.indices.tolist())) == 12
    assert (facts.source, facts.split, facts.seed, facts.count) == ("tiny", "train", 1, 12)
    expected = hashlib.sha256(drawn.indices.astype("<i8").tobytes()).hexdigest()
    assert facts.indices_sha256 == expected


def test_another_seed_draws_others(samples: Samples) -> None:
    one, two = (draw_calibration(samples, count=12, seed=seed)[1] for seed in (1, 2))
    assert one.indices_sha256 != two.indices_sha256


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (21, "calibration with 21 samples, but tiny has 20: give more samples"),
        (9, "calibration with 9 samples: 10 are the least that give a range"),
        (0, "calibration with 0 samples: 10 are the least"),
    ],
)
def test_too_few_samples_are_refused(samples: Samples, count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw_calibration(samples, count=count)


def test_pixels_need_a_preprocessing(samples: Samples) -> None:
    values = preprocess(samples, Preprocessing(mean=1.0, std=2.0))
    assert values[0].tolist() == [-0.5, 0.0]
    with pytest.raises(DataError, match="give --input-mean and --input-std"):
        preprocess(samples, None)


TEST_PIXELS = np.arange(100, 140, dtype=np.uint8).reshape(20, 2)


@pytest.fixture
def tested(exported: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFacts:
    """Facts of a model whose data set has the above test split."""

    def resolve(_: None, dataset: DatasetRef, split: str) -> Samples:
        if dataset.name == "elsewhere":
            raise DataError("no such data here")
        assert (dataset.name, split) == ("tiny", "test")
        zeros = np.zeros(20, np.int64)
        return Samples(images=TEST_PIXELS, labels=zeros, indices=zeros, source="tiny", split="test")

    monkeypatch.setattr(calibration, "resolve_samples", resolve)
    model = read_manifest(exported).model
    return replace(model, dataset=DatasetRef(name="tiny", split_seed=0))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_samples_of_the_test_split_are_refused(
    samples: Samples, tested: ModelFacts, dtype: type
) -> None:
    images = samples.images.copy()
    images[[3, 5]] = TEST_PIXELS[[7, 1]]
    assert tested.input.preprocessing is not None
    given = images if dtype is np.uint8 else tested.input.preprocessing.table()[images]
    leaked = replace(samples, images=given, split="file")
    with pytest.raises(DataError, match="2 of the 20 calibration samples, sample 103 for one"):
        require_untested(leaked, tested)


def test_other_samples_are_taken(samples: Samples, tested: ModelFacts) -> None:
    require_untested(replace(samples, split="file"), tested)
    leaked = replace(samples, images=TEST_PIXELS, split="file")
    # Nothing is known of a test split that is not at hand; `verify` compares hashes.
    elsewhere = replace(tested, dataset=DatasetRef(name="elsewhere", split_seed=0))
    require_untested(leaked, elsewhere)
    require_untested(leaked, replace(tested, dataset=None))


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_that_nothing_draws_from(samples: Samples, seed: int) -> None:
    with pytest.raises(DataError, match=r"a calibration seed is 0 to 2\*\*64 - 1"):
        draw_calibration(samples, count=10, seed=seed)

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemline.cli import main
from hemline.documents import read_document
from hemline.errors import ExportError
from hemline.facts import Preprocessing
from hemline.manifest import read_manifest
from hemline.parity.verify import verify
from hemline_export import ladder as ladder_module
from hemline_export.export import LADDER, Described, export
from hemline_export.ladder import SCHEMA, Ladder, export_within
from hemline_export.recipes import RECIPES, Choices, Recipe, select_recipes

DESCRIBED = Described(preprocessing=Preprocessing(mean=0.0, std=255.0))
CHOICES = Choices(calibration_count=50)
# In points: any int8 file that works clears it, and one that guesses does not.
WIDE = 30.0


def climb(keras_file: Path, garments: Path, out: Path, target: float, **more: Any) -> Any:
    calibration = str(garments / "train.npz")
    settings = {"described": DESCRIBED, "choices": CHOICES} | more
    return export_within(target, keras_file, calibration, out, **settings)


def test_the_first_rung_that_clears_is_exported(
    separable_keras: Path, garments: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifest, ladder = climb(separable_keras, garments, out, WIDE)
    assert (ladder.chosen, ladder.clears, len(ladder.rungs)) == ("int8", True, 1)
    assert ladder.rungs[0].paired.margin_pt == WIDE
    # A tenth of 2,000 samples is held out, and calibration is not among it.
    assert ladder.count == ladder.rungs[0].paired.n == 200
    assert [a.file for a in manifest.artifacts] == [
        "separable.float32.tflite",
        "separable.int8.tflite",
    ]
    assert read_manifest(out) == manifest
    assert read_document(out / LADDER, SCHEMA, Ladder) == ladder
    assert verify(out, str(garments / "test.npz")).artifacts[1].recipe == "int8"


def test_every_rung_is_tried_in_order_and_the_best_is_exported(
    separable_keras: Path,
    garments: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No 200 samples can show a drop below 0.01 points."""
    monkeypatch.setattr(ladder_module, "RECIPES", without_training())
    words = [
        *f"export {separable_keras} --calibration {garments / 'train.npz'}".split(),
        *f"--target-drop 0.01 --input-mean 0 --input-std 255 --out {tmp_path / 'out'}".split(),
        *["--calibration-count", "50"],
    ]
    assert main(words) == 1
    ladder = read_document(tmp_path / "out" / LADDER, SCHEMA, Ladder)
    assert [rung.name for rung in ladder.rungs] == [
        "int8",
        "int8, 1800 other calibration samples",
        "int8-qat",
        "int8-selective, 1 in float",
        "int8-selective, 4 in float",
        "int8-selective, 16 in float",
        "int16x8",
        "dynamic",
        "float16",
    ]
    refused = [rung.name for rung in ladder.rungs if rung.paired is None]
    assert refused == ["int8-qat", "int8-selective, 16 in float"]
    ends = {r.name: r.paired.one_sided_low_pt for r in ladder.rungs if r.paired}
    assert ends[ladder.chosen] == max(ends.values())
    assert not ladder.clears
    out = capsys.readouterr().out
    assert "int8-qat: not today" in out
    assert "the model has 6 operators: with 16 of them in floating point" in out
    assert f"chosen: {ladder.chosen}: none stays within the target, this is the best" in out
    assert re.search(r"\| int8 +\| +[\d,]+ \|", out)
    (_, chosen) = read_manifest(tmp_path / "out").artifacts
    assert chosen.facts.recipe == next(
        rung.recipe for rung in ladder.rungs if rung.name == ladder.chosen
    )


def without_training() -> tuple[Recipe, ...]:
    def refuse(*_: Any) -> dict[str, str]:
        raise ExportError("not today")

    return tuple(replace(r, write=refuse) if r.name == "int8-qat" else r for r in RECIPES)


def test_validation_samples_of_ones_own(
    separable_keras: Path, garments: Path, tmp_path: Path
) -> None:
    with np.load(garments / "test.npz") as data:
        np.savez(tmp_path / "v.npz", images=data["images"][:300], labels=data["labels"][:300])
    _, ladder = climb(
        separable_keras, garments, tmp_path / "o", WIDE, validation=str(tmp_path / "v.npz")
    )
    assert (ladder.count, ladder.validation) == (300, "v.npz")


def test_a_plain_export_takes_the_ladder_away(
    separable_keras: Path, garments: Path, tmp_path: Path
) -> None:
    climb(separable_keras, garments, tmp_path / "o", WIDE)
    export(
        separable_keras,
        str(garments / "train.npz"),
        tmp_path / "o",
        recipes=select_recipes("float32"),
        described=DESCRIBED,
        choices=CHOICES,
    )
    assert not (tmp_path / "o" / LADDER).exists()


def test_what_it_refuses(
    separable_keras: Path, garments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(separable_keras), "--calibration", str(garments / "train.npz")]
    words += ["--out", str(tmp_path / "out"), "--target-drop", "1", "--recipes", "int8"]
    assert main(words) == 2
    assert "--target-drop chooses the recipe itself: leave out --recipes" in capsys.readouterr().err
    with pytest.raises(ExportError, match="a target drop of accuracy is for classifiers"):
        climb(
            separable_keras,
            garments,
            tmp_path / "out",
            1.0,
            described=replace(DESCRIBED, task="tensors"),
        )
    assert list((tmp_path / "out").iterdir()) == []

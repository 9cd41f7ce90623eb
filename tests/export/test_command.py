from pathlib import Path
from typing import Any

import pytest

from hemline.cli import main
from hemline.manifest import read_manifest
from hemline_export.backend import keras
from hemline_export.recipes import RECIPES

layers = keras.layers


def test_a_model_is_exported_from_the_command_line(
    separable_keras: Path, garments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghij"))
    out = tmp_path / "out"
    options = (
        f"--calibration {garments / 'train.npz'} --recipes int8 --calibration-count 20 "
        "--calibration-seed 3 --calibration-method percentile --input-mean 0 --input-std 255 "
        f"--floor 0.5 --labels {tmp_path / 'labels.txt'} --out {out}"
    )
    status = main(["export", str(separable_keras), *options.split()])
    assert status == 0
    manifest = read_manifest(out)
    assert manifest.model.labels == tuple("abcdefghij")
    assert manifest.model.floor_accuracy == 0.5
    calibration = manifest.artifacts[0].facts.calibration
    assert calibration is not None
    assert (calibration.count, calibration.seed) == (20, 3)
    # TensorFlow's converter has one method only, and so none to record.
    assert [a.facts.settings.get("ranges") for a in manifest.artifacts] == [None, "percentile"]
    assert capsys.readouterr().out.splitlines() == [
        f"{out / artifact.file}: {artifact.size_bytes:,} bytes" for artifact in manifest.artifacts
    ]


def test_the_compressed_size_and_what_was_not_made_are_printed(
    save: Any, garments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(
        layers.Flatten(),
        layers.Dense(8, activation="relu6", name="bent"),
        layers.Dense(10, activation="softmax"),
        shape=(28, 28, 1),
    )
    recipes = (
        "all,-float32,-float16,-int8,-dynamic,-int16x8,-int8w,-pal4,int8-pruned,int8-clustered"
    )
    options = (
        f"--calibration {garments / 'train.npz'} --recipes {recipes} "
        f"--sparsity 0.8 --clusters 4 --input-mean 0 --input-std 255 --out {tmp_path / 'out'}"
    )
    assert main(["export", str(path), *options.split()]) == 0
    manifest = read_manifest(tmp_path / "out")
    pruned, clustered = (artifact.facts.settings for artifact in manifest.artifacts)
    assert (pruned["sparsity"], clustered["clusters"]) == ("0.8", "4")
    lines = capsys.readouterr().out.splitlines()
    for line, settings in zip(lines, (pruned, clustered), strict=False):
        own, plain = (
            f"{int(settings[key]):,}" for key in ("compressed_bytes", "int8_compressed_bytes")
        )
        assert line.endswith(f" bytes, {own} compressed (int8: {plain})")
    assert lines[2:] == [f"int8-qat.tflite: not made: {manifest.omitted['int8-qat.tflite']}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipes", "int3"], "unknown recipes ['int3']"),
        (["--input-mean", "0"], "--input-mean and --input-std go together"),
        (["--input-mean", "0", "--input-std", "0"], "a std above 0"),
        (["--labels", "gone.txt"], "cannot read labels from gone.txt"),
        (["--calibration", "gone.npz"], "cannot read gone.npz"),
        (["--calibration", "nothing"], "no samples found for 'nothing'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    separable_keras: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(["export", str(separable_keras), "--out", str(tmp_path / "out"), *arguments])
    output = capsys.readouterr()
    assert status == 2
    assert output.out == ""
    assert output.err.startswith("hemline: ")
    assert message in output.err
    assert output.err.count("\n") == 1


def test_the_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["export", "--list-recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(RECIPES)
    assert any(line.startswith("pal4.mlpackage       weight compression") for line in lines)

"""The pipeline from end to end on synthetic garments, as `make all DATASET=synthetic` runs it."""

import json
from pathlib import Path

import pytest

from hemline.cli import main
from hemline_export.recipes import select_recipes


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn", "gru"])
def test_train_export_verify_bench_report(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / model
    steps = [
        f"train {model} --dataset synthetic --epochs 2 --out {out}",
        f"export {out}/{model}.float.keras",
        f"selftest {out}",
        f"verify {out} --json {out}/parity.json",
        f"bench {out} --rounds 2 --json {out}/bench.json",
        f"report {out}",
    ]
    for step in steps:
        capsys.readouterr()
        status = main(step.split())
        # So little training may leave a model that int8 costs too much: 1 is a verdict, 2 an error.
        assert status in ((0, 1) if step.startswith(("verify", "report")) else (0,)), step
    table = capsys.readouterr().out
    parity = json.loads((out / "parity.json").read_text())
    assert parity["data"] | {"sha256": ""} == {
        "source": "synthetic",
        "split": "test",
        "count": 1000,
        "sha256": "",
    }
    # Guessing gives 0.1, and 0.14 at most: four deviations of 1,000 samples.
    assert parity["float_model"]["accuracy"] > 0.2
    for artifact in parity["artifacts"]:
        assert artifact["file"] in table
        if artifact["recipe"] == "float32":
            # Room for one sample between two classes, which another order of adding decides.
            assert artifact["agreement"] >= 0.999
    assert {path.name for path in out.iterdir()} == {
        "bench.json",
        f"{model}.float.keras",
        *(f"{model}.{recipe.name}{recipe.suffix}" for recipe in select_recipes()),
        "float_predictions.npz",
        "golden.json",
        "manifest.json",
        "parity.json",
        "training.json",
    }

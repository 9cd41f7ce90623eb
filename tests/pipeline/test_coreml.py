"""Core ML for real, on the Apple-silicon runner."""

import sys
from pathlib import Path

import numpy as np
import pytest

import hemline


@pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS only")
def test_core_ml_agrees_with_the_float_model(exported: Path, garments: Path) -> None:
    with np.load(garments / "test.npz") as data:
        images = data["images"][:500]
    found = hemline.load(exported / "separable.float16.mlpackage").predict(images)
    expected = hemline.load(exported / "separable.float.keras").predict(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-2)
    assert (found.indices == expected.indices).mean() > 0.98

import numpy as np
import pytest
from numpy.typing import NDArray

from hemline.parity.attribution import Step, explain_steps, measure_step

LABELS = np.array([0, 0, 1, 1])


def rows(*first: float) -> NDArray[np.float32]:
    return np.array([(p, 1 - p) for p in first], np.float32)


def test_a_step_is_measured() -> None:
    before, after = rows(0.9, 0.6, 0.2, 0.4), rows(0.9, 0.4, 0.2, 0.4)
    step = measure_step("int8", ("a", before), ("b", after), LABELS)
    assert (step.name, step.source, step.target) == ("int8", "a", "b")
    assert step.delta_pt == pytest.approx(-25)
    assert step.agreement == 0.75
    assert step.max_probability_change == pytest.approx(0.2)
    assert step.loss_change_percent is None
    assert step.sqnr_db == pytest.approx(10 * np.log10(np.square(before).sum() / 0.08), abs=1e-4)


def test_a_step_on_the_first_samples() -> None:
    before, after = rows(0.9, 0.6, 0.2, 0.4), rows(0.9, 0.4)
    found = measure_step("engine b", ("a", before), ("b", after), LABELS)
    assert (found.count, found.delta_pt, found.agreement) == (2, pytest.approx(-50), 0.5)
    assert found == measure_step("engine b", ("a", before[:2]), ("b", after), LABELS[:2])


def test_a_step_with_a_loss() -> None:
    before, after = rows(0.5, 0.5), rows(0.5, 1.0)
    step = measure_step("int8", ("a", before), ("b", after), mean_loss=lambda v: float(v.sum() - 1))
    assert step.loss_change_percent == pytest.approx(0)
    step = measure_step("int8", ("a", before), ("b", after), mean_loss=lambda v: float(v.max()))
    assert step.loss_change_percent == pytest.approx(100)
    assert (step.delta_pt, step.agreement, step.max_probability_change) == (None, None, None)
    assert explain_steps([step]) == "int8 +100.00 % loss (3 dB): the recipe int8 costs the most"
    # The loss was 0: its growth has no number.
    step = measure_step(
        "int8", ("a", before), ("b", after), mean_loss=lambda v: float(v.max() > 0.5)
    )
    assert step.loss_change_percent is None
    # Tensors have no loss.
    tensors = measure_step("int8", ("a", before), ("b", after))
    assert explain_steps([tensors]) == "int8 (3 dB): the recipe int8 costs the most"


def step(name: str, sqnr: float | None, delta: float = 0.0, count: int = 4) -> Step:
    return Step(
        name=name,
        source="",
        target="",
        count=count,
        delta_pt=delta,
        agreement=1.0,
        max_probability_change=0.0,
        loss_change_percent=None,
        sqnr_db=sqnr,
    )


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        (
            [step("float export", 130.0), step("int8", 20.0, -3.5), step("engine a", None)],
            "float export +0.00 pt (130 dB), int8 -3.50 pt (20 dB), engine a +0.00 pt (equal): "
            "the recipe int8 costs the most",
        ),
        (
            [step("float export", 3.0, -9.0), step("int8", 30.0)],
            "float export -9.00 pt (3 dB), int8 +0.00 pt (30 dB): the converter changed the model",
        ),
        (
            [step("float export", 130.0), step("engine a", -2.0), step("engine b", 9.0, 1.0, 2)],
            "float export +0.00 pt (130 dB), engine a +0.00 pt (-2 dB), "
            "engine b +1.00 pt on 2 samples (9 dB): "
            "the engines compute the file differently",
        ),
        ([step("float export", None)], "no step changes an output"),
    ],
)
def test_the_noisiest_step_is_named(steps: list[Step], sentence: str) -> None:
    assert explain_steps(steps) == sentence


def test_a_step_between_the_ends_of_float32() -> None:
    most = np.finfo(np.float32).max
    before, after = (np.full((2, 2), value, np.float32) for value in (most, -most))
    step = measure_step("int8", ("a", before), ("b", after), LABELS[:2])
    assert step.max_probability_change == 2 * float(most)

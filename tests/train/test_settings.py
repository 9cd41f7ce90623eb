import dataclasses

import pytest

from hemline_train.settings import PRESET_EPOCHS, TrainSettings

SETTINGS = TrainSettings(epochs=20, learning_rate=0.001, decay_rate=0.1, seed=0)


def test_learning_rate_is_constant_for_eight_epochs_and_then_decays() -> None:
    assert [SETTINGS.learning_rate_at(epoch) for epoch in range(8)] == [0.001] * 8
    decayed = [SETTINGS.learning_rate_at(epoch) for epoch in (8, 9, 10, 19)]
    assert decayed == pytest.approx([9.04837418e-4, 8.18730753e-4, 7.40818221e-4, 3.01194212e-4])


def test_presets() -> None:
    assert PRESET_EPOCHS == {"quick": 5, "full": 20}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("patience", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("decay_rate", -0.1),
        ("seed", -1),
        ("seed", 2**32),
        ("validation_fraction", 1.0),
    ],
)
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name.split("_")[0]):
        dataclasses.replace(SETTINGS, **{name: value})

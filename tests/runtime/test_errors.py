import hemline
from hemline import errors


def test_every_error_is_a_hemline_error_and_public() -> None:
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert all(issubclass(kind, errors.HemlineError) for kind in kinds.values())
    assert set(kinds) == {name for name in hemline.__all__ if name.endswith("Error")}
    assert all(getattr(hemline, name) is kind for name, kind in kinds.items())


def test_special_kinds_are_caught_as_the_general_ones() -> None:
    assert issubclass(errors.ChecksumError, errors.ModelFileError)
    assert issubclass(errors.InputError, ValueError)

"""The released models that come with Hemline, for a first prediction right after installing it."""

from pathlib import Path

from hemline.errors import ModelFileError
from hemline.listing import FILE_NAME


def bundled_models() -> dict[str, Path]:
    """Returns the folder of each model that comes with Hemline, by name, for `hemline.load`."""
    package = Path(__file__).parent
    # In a checkout they are the released artifacts themselves.
    found = [*package.glob(f"models/*/{FILE_NAME}")] or [
        *package.parents[1].glob(f"artifacts/*/*/{FILE_NAME}")
    ]
    return {path.parent.name: path.parent for path in sorted(found)}


def bundled_model(name: str | None = None) -> Path:
    """Returns the folder of one of them; of the first by name unless told which.

    Raises:
        ModelFileError: there is none of that name.
    """
    models = bundled_models()
    name = next(iter(models), "") if name is None else name
    if name not in models:
        raise ModelFileError(
            f"no model {name!r} comes with Hemline; known: {', '.join(models) or 'none'}"
        )
    return models[name]

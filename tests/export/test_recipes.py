import pytest

from hemline.errors import ExportError
from hemline_export.recipes import RECIPES, select_recipes


def test_every_recipe_makes_a_file_of_its_own() -> None:
    files = [(recipe.name, recipe.suffix) for recipe in RECIPES]
    assert files == [
        ("float32", ".tflite"),
        ("int8", ".tflite"),
        ("float32", ".onnx"),
        ("float16", ".mlpackage"),
        ("int8-qat", ".tflite"),
        ("int8-pruned", ".tflite"),
        ("int8-clustered", ".tflite"),
    ]


def test_margins() -> None:
    margins = {recipe.name: recipe.margin_pt for recipe in RECIPES}
    assert margins == {
        "float32": 0.05,
        "float16": 0.1,
        "int8": 0.3,
        "int8-qat": 0.3,
        "int8-pruned": 0.3,
        "int8-clustered": 0.3,
    }


def test_a_name_selects_it_for_every_engine() -> None:
    assert [recipe.suffix for recipe in select_recipes("float32")] == [".tflite", ".onnx"]
    assert [recipe.name for recipe in select_recipes("int8, float16")] == ["int8", "float16"]
    assert [recipe.name for recipe in select_recipes("int8-pruned")] == ["int8-pruned"]


def test_all_is_what_needs_no_choice() -> None:
    left_out = {recipe.name for recipe in RECIPES} - {r.name for r in select_recipes("all")}
    assert left_out == {"int8-pruned", "int8-clustered"}


def test_nothing_trains_unless_asked_for() -> None:
    left_out = {recipe.name for recipe in RECIPES} - {r.name for r in select_recipes(None)}
    assert left_out == {"int8-qat", "int8-pruned", "int8-clustered"}


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ExportError, match=r"unknown recipes \['int4'\]; known: all, float16"):
        select_recipes("int8,int4")

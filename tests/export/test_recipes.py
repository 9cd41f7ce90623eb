import math

import pytest

from hemline.errors import ExportError
from hemline.facts import Task
from hemline_export.recipes import RECIPES, TOLERANCES, describe_recipes, select_recipes


def test_every_recipe_makes_a_file_of_its_own() -> None:
    files = [(recipe.name, recipe.suffix) for recipe in RECIPES]
    assert files == [
        ("float32", ".tflite"),
        ("int8", ".tflite"),
        ("float32", ".onnx"),
        ("int8", ".onnx"),
        ("float16", ".mlpackage"),
        ("float16", ".tflite"),
        ("dynamic", ".tflite"),
        ("int16x8", ".tflite"),
        ("int8w", ".mlpackage"),
        ("pal4", ".mlpackage"),
        ("int8-qat", ".tflite"),
        ("int8-selective", ".tflite"),
        ("int8-pruned", ".tflite"),
        ("int8-clustered", ".tflite"),
        ("micro", ".csource"),
    ]


def test_margins() -> None:
    margins = {recipe.name: TOLERANCES[recipe.name].margin_pt for recipe in RECIPES}
    assert margins == {
        "float32": 0.05,
        "float16": 0.1,
        "int8": 0.3,
        "dynamic": 0.3,
        "int16x8": 0.3,
        "int8w": 0.3,
        "pal4": 0.5,
        "int8-qat": 0.3,
        "int8-selective": 0.3,
        "int8-pruned": 0.3,
        "int8-clustered": 0.3,
        "micro": 0.3,
    }


@pytest.mark.parametrize("name", TOLERANCES)
def test_a_bound_of_cosine_is_that_of_the_sqnr_beside_it(name: str) -> None:
    bounds = TOLERANCES[name]
    cosine = (1 + 10 ** (-bounds.least_sqnr_db / 10)) ** -0.5
    digits = len(f"{bounds.least_cosine:g}") - 2
    assert bounds.least_cosine == math.floor(cosine * 10**digits) / 10**digits


def test_each_task_has_its_own_bounds() -> None:
    bounds = {task: TOLERANCES["int8"].for_task(task) for task in Task}
    assert {task: {k: v for k, v in b.items() if v is not None} for task, b in bounds.items()} == {
        "classification": {"margin_pt": 0.3},
        "regression": {"margin_loss_percent": 10.0},
        "autoencoder": {"margin_loss_percent": 10.0},
        "tensors": {"least_sqnr_db": 15.0, "least_cosine": 0.98},
    }


def test_a_name_selects_it_for_every_engine() -> None:
    assert [recipe.suffix for recipe in select_recipes("float32")] == [".tflite", ".onnx"]
    assert [recipe.name + recipe.suffix for recipe in select_recipes("int8, float16")] == [
        "int8.tflite",
        "int8.onnx",
        "float16.mlpackage",
        "float16.tflite",
    ]
    assert [recipe.name for recipe in select_recipes("int8-pruned")] == ["int8-pruned"]


def test_all_is_what_needs_no_choice() -> None:
    left_out = {recipe.name for recipe in RECIPES} - {r.name for r in select_recipes("all")}
    assert left_out == {"int8-selective", "int8-pruned", "int8-clustered", "micro"}


def test_nothing_trains_unless_asked_for() -> None:
    left_out = {recipe.name for recipe in RECIPES} - {r.name for r in select_recipes()}
    assert left_out == {"int8-qat", "int8-selective", "int8-pruned", "int8-clustered", "micro"}
    trains = [line.split(".")[0] for line in describe_recipes().splitlines() if "(trains)" in line]
    assert trains == ["int8-qat", "int8-pruned", "int8-clustered"]


def test_each_recipe_has_one_line_of_meaning() -> None:
    assert len({recipe.meaning for recipe in RECIPES}) == len(RECIPES)
    lines = describe_recipes().splitlines()
    assert lines[0] == "float32.tflite       built-in operators, float weights and arithmetic"
    assert len(lines) == len(RECIPES)
    assert all(len(line) < 110 for line in lines)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ExportError, match=r"unknown recipes \['int4'\]; known: all, dynamic"):
        select_recipes("int8,int4")


def test_a_minus_leaves_out() -> None:
    left = {recipe.name for recipe in select_recipes("all,-pal4, -int8-qat")}
    assert {recipe.name for recipe in select_recipes("all")} - left == {"pal4", "int8-qat"}
    with pytest.raises(ExportError, match=r"unknown recipes \['pal5'\]"):
        select_recipes("all,-pal5")

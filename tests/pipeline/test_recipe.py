"""Recipes: the shipped files, writing and reading, and wrong settings."""

from pathlib import Path

import pytest

from hpa.config import read_toml
from hpa.errors import UserError
from pipeline.recipe import SECTIONS, load_recipe, write_recipe
from tests.pages import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_documents_its_command(path: Path) -> None:
    assert list(load_recipe(path)) == list(SECTIONS)
    header = path.read_text().split("\n[")[0]
    assert f"recipes/{path.name}" in header or "pipeline demo work/demo" in header


def test_cells_lists_every_key_with_its_default() -> None:
    cells = ROOT / "recipes" / "cells.toml"
    assert load_recipe(cells) == load_recipe(None)
    written = read_toml(cells)
    for name, model in SECTIONS.items():
        assert list(written[name]) == list(model.model_fields)


def test_cells_repeats_the_description_of_every_key() -> None:
    text = " ".join((ROOT / "recipes" / "cells.toml").read_text().replace("\n#", " ").split())
    for model in SECTIONS.values():
        for name, field in model.model_fields.items():
            assert field.description, name
            assert " ".join(field.description.split()) in text, name


def test_a_written_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = load_recipe(None, ["classify.epochs=3", "aggregate.empty=Nucleoli", 'data.channels=["green", "blue"]'])
    write_recipe(tmp_path / "recipe.toml", recipe)
    assert load_recipe(tmp_path / "recipe.toml") == recipe
    written = read_toml(tmp_path / "recipe.toml")
    assert written["classify"]["epochs"] == 3
    assert written["aggregate"]["empty"] == "Nucleoli"
    assert written["data"]["channels"] == ["green", "blue"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("classify.epoch=3", r"known keys in \[classify\] .*found 'epoch'"),
        ("clasify.epochs=3", "expected the sections .*found 'clasify'"),
        ("classify.epochs=many", "found 'many'"),
        ("classify.epochs", r"expected a setting section\.key=value"),
        ("aggregate.pooling=trained", "expected classify.objective bag or dual with .*, found cell"),
        (
            'crops.windows=["full_frame"] aggregate.submission=kaggle2021',
            "expected cells among crops.windows .*found full_frame",
        ),
        ("epochs=3", r"expected a setting section\.key=value"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_recipe(None, setting.split())

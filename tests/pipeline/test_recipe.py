"""Recipes: the shipped files, writing and reading, and wrong settings."""

import tomllib
from pathlib import Path

import pytest

from hpa.config import read_toml
from hpa.errors import UserError
from pipeline.recipe import Recipe, find_recipe, format_recipe, parse_recipe, read_recipe, shipped_recipes, write_recipe
from tests.support.pages import ROOT, blocks

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
SECTIONS = {name: type(section) for name, section in Recipe()}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_documents_its_command(path: Path) -> None:
    assert read_recipe(path) == read_recipe(path.stem)
    header = path.read_text().split("\n[")[0]
    assert f"recipes/{path.name}" in header or "pipeline demo work/demo" in header


def test_cells_lists_every_key_with_its_default_and_description() -> None:
    """Made by `format_recipe`, below a header of its own."""
    cells = ROOT / "recipes" / "cells.toml"
    header, body = cells.read_text().split("\n[data]\n")
    assert all(line.startswith("#") for line in header.strip().splitlines())
    assert "[data]\n" + body == format_recipe(Recipe())
    assert read_recipe(cells) == read_recipe(None)


def test_every_key_has_a_description() -> None:
    for model in SECTIONS.values():
        for name, field in model.model_fields.items():
            assert field.description, name


def test_a_written_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = read_recipe(None, ["classify.epochs=3", "aggregate.empty=Nucleoli", 'data.channels=["green", "blue"]'])
    write_recipe(tmp_path / "recipe.toml", recipe)
    assert read_recipe(tmp_path / "recipe.toml") == recipe
    written = read_toml(tmp_path / "recipe.toml")
    assert written["classify"]["epochs"] == 3
    assert written["aggregate"]["empty"] == "Nucleoli"
    assert written["data"]["channels"] == ["green", "blue"]


def test_the_sections_that_the_pages_show_are_recipes() -> None:
    shown = [block for page in sorted((ROOT / "docs").glob("*.md")) for block in blocks(page, "toml")]
    assert len(shown) >= 9
    for text in shown:
        parse_recipe(tomllib.loads(text))


def test_lists_and_tables_of_values_read_back_the_same(tmp_path: Path) -> None:
    loss = '[{name = "focal"}, {name = "soft-f1-macro", weight = 0.5}]'
    augment = '[{name = "Rotate", limit = [10, 20]}, {name = "DimProtein"}]'
    settings = [f"classify.loss={loss}", f"classify.class_weights={[1] * 27 + [2.5]}", f"classify.augment={augment}"]
    recipe = read_recipe(None, [*settings, "crops.window_px={cells = 1536}"])
    write_recipe(tmp_path / "recipe.toml", recipe)
    assert read_recipe(tmp_path / "recipe.toml") == recipe
    assert [(term.name, term.weight) for term in recipe.classify.loss_terms] == [("focal", 1), ("soft-f1-macro", 0.5)]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("classify.epoch=3", r"known keys in \[classify\], found 'epoch' \(did you mean 'epochs'\?\)"),
        ("classify.zzz=3", r"known keys in \[classify\], found 'zzz' \(seed, channels, outside_cell, .*, precision\)"),
        ("clasify.epochs=3", "expected the sections .*found 'clasify'"),
        ("classify.epochs=many", "found 'many'"),
        ("classify.epochs", r"expected a setting section\.key=value"),
        ("aggregate.pooling=trained", "expected classify.objective bag or dual with .*, found cell"),
        (
            'crops.windows=["full_frame"] aggregate.submission=kaggle2021',
            "expected cells among crops.windows .*found full_frame",
        ),
        ("crops.window_px={cells=7}", "window_px"),
        ("crops.window_px={cell=64}", "window_px"),
        ("crops.window_px={grid=64}", "window_px: expected windows that the recipe cuts, found grid"),
        ("classify.loss=dice", r"loss \(.*expected bce, .*, asymmetric or my_module:my_loss\), found 'dice'"),
        ('classify.loss=[{name="bce"},{weight=2}]', r"loss, entry 2, name \(Field required"),
        ('classify.loss=[{name="bce",weight=0}]', r"loss, entry 1, weight \(should be greater than 0\), found 0"),
        (
            'classify.loss=[{name="bce"},{name="bce",wieght=2}]',
            r"only known keys in \[classify\] loss, entry 2, found 'wieght' \(did you mean 'weight'\?\)",
        ),
        ('classify.loss=[{nam="bce"}]', r"in \[classify\] loss, entry 1, found 'nam' \(did you mean 'name'\?\)"),
        ('classify.augment=[{nmae="Rotate"}]', r"a name in step 1, .*, found 'nmae' \(did you mean 'name'\?\)"),
        ("classify.monitor=focl", r"\[classify\] monitor \(should be 'mean_ap', .*\), found 'focl'"),
        ("classify.layer_rates=[1,0]", r"layer_rates, entry 2 \(should be greater than 0\), found 0"),
        ("crops.window_px={cell=64}", r"\[crops\] window_px, cell \(should be 'cells', .*\), found 'cell'"),
        ("classify.loss=[]", r"loss \(.*expected a name or a list"),
        ("classify.loss=3", r"loss \(.*expected a name or a list"),
        ('classify.view_kinds=["flips","dihedral"]', "view_kinds .*flips are among the dihedral views"),
        ("classify.view_kinds=[]", "view_kinds"),
        ("classify.view_scales=[5]", "view_scales"),
        (
            'classify.trainable=heads classify.augment=[{name="D4"}]',
            r"expected no list of steps in augment with trainable = \"heads\"",
        ),
        ("classify.class_weights=even", "class_weights .*expected none, inverse, effective or a list .*found 'even'"),
        ("classify.class_weights=[1,-1]", "class_weights .*expected numbers of at least 0"),
        ("classify.class_weights=[0,0]", "class_weights .*expected at least one weight above 0"),
        ("epochs=3", r"expected a setting section\.key=value"),
    ],
)
def test_a_wrong_setting_is_reported_in_one_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_recipe(None, setting.split())


# For every number of the recipe: the extremes that mean something, and after a bar the nearest that do not.
EXTREMES = """
data.seed=0|-1 data.folds=2,100|1,101 data.held_out=0.001,0.999|0,1 data.duplicate_bits=0,20|-1,21
data.max_failures=0|-1
segment.diameter_px=0,4096|-1,4097 segment.cell_threshold=0.001,0.999|0,1 segment.nucleus_threshold=0.001,0.999|0,1
segment.min_nucleus_area=0,0.999|-0.001,1 segment.min_visible_nucleus=0,0.999|-0.001,1
segment.min_cell_area=0,0.999|-0.001,1 segment.flow_error=0,9|-0.001 segment.crowded=1|0
crops.size_px=8,4096|7,4097 crops.source_px=0.001,64|0,65 crops.margin=0,2|-0.001,2.001 crops.side=0.001,1|0,1.001
crops.count=1,1000|0,1001 crops.grid=1,100|0,101 crops.overlap=0,0.9|-0.001,0.901 crops.min_area=0,0.999|-0.001,1
crops.min_completeness=0,1|-0.001,1.001 crops.min_focus=0,9|-0.001 crops.low_percentile=0,49.999|-0.001,50
crops.high_percentile=50.001,100|50,100.001
classify.input_px=0|-1 classify.bag_size=1|0 classify.top_k=1|0 classify.sharpness=0.001|0
classify.cell_weight=0,9|-0.001 classify.completeness_power=0,9|-0.001 classify.focal_gamma=0,9|-0.001
classify.focal_alpha=1|1.001
classify.effective_beta=0,0.999|-0.001,1 classify.label_smoothing=0,0.999|-0.001,1
classify.asymmetric_margin=0,0.999|-0.001,1 classify.view_side=0.001,1|0,1.001
classify.embedding_dim=0|-1 classify.triplet_weight=0,9|-0.001 classify.triplet_margin=0.001|0
classify.triplet_jaccard=0.001,1|0,1.001 classify.epochs=1|0 classify.batch_size=2|1 classify.accumulate=1|0
classify.learning_rate=0.001|0 classify.momentum=0,0.999|-0.001,1 classify.weight_decay=0,9|-0.001
classify.clip_norm=0,9|-0.001 classify.rise=0.001,0.999|0,1 classify.plateau_patience=0|-1
classify.layer_rates=0.001|0 classify.random_crop_px=8|7 classify.validate_every=1|0
aggregate.top_k=1|0 aggregate.quantile=0,1|-0.001,1.001 aggregate.sharpness=0.001|0 aggregate.min_quality=0,9|-0.001
aggregate.fixed_threshold=0,1|-0.001,1.001 aggregate.shrinkage=0,9|-0.001 aggregate.repeats=1,1000|0,1001
aggregate.min_images=2|1 aggregate.cell_share=0,1|-0.001,1.001 aggregate.bootstrap=0,100000|-1,100001
"""


@pytest.mark.parametrize("extremes", EXTREMES.split(), ids=lambda text: text.split("=")[0])
def test_numbers_are_accepted_as_far_as_they_mean_something(extremes: str) -> None:
    key, values = extremes.split("=")
    accepted, refused = (part.split(",") for part in values.split("|"))
    for value in accepted:
        section, name = key.split(".")
        recipe = read_recipe(None, [f"{key}={value}"])
        assert getattr(getattr(recipe, section), name) == float(value)
    for value in refused:
        with pytest.raises(UserError, match=f"found .*{value.rstrip('0').rstrip('.')}"):
            read_recipe(None, [f"{key}={value}"])


@pytest.mark.parametrize(
    ("setting", "former", "present"),
    [
        ("segment.least_nucleus=0.1", "least_nucleus", "min_nucleus_area"),
        ("segment.least_cell=0.1", "least_cell", "min_cell_area"),
        ("segment.cut_nucleus=0.1", "cut_nucleus", "min_visible_nucleus"),
        ("classify.neighbours=keep", "neighbours", "outside_cell"),
        ("aggregate.least_images=3", "least_images", "min_images"),
        ("aggregate.least_quality=0.1", "least_quality", "min_quality"),
    ],
)
def test_former_key_is_refused_with_its_present_name(setting: str, former: str, present: str) -> None:
    section = setting.split(".")[0]
    message = rf"expected the key '{present}' in \[{section}\], found its former name '{former}'"
    with pytest.raises(UserError, match=message):
        read_recipe(None, [setting])


def test_shipped_recipes_are_found_by_name_and_files_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert {path.name for path in shipped_recipes().values()} == {path.name for path in RECIPES}
    assert find_recipe("cells") == shipped_recipes()["cells"]
    Path("cells").write_text("[classify]\nepochs = 3\n")
    assert read_recipe("cells").classify.epochs == 3
    with pytest.raises(
        UserError, match=r"expected a recipe file or a shipped recipe \(atlas, cells, .*found no nowhere"
    ):
        read_recipe("nowhere")

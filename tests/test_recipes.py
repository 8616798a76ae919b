"""Run the commands of the recipe headers on eight images with one step of training in each fold."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.support.pages import ROOT, SMALLEST_INIT, recipe_commands, run_command, shrink, small_atlas


@pytest.mark.slow
def test_the_commands_of_the_recipes_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data, new = small_atlas(tmp_path)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shown = recipe_commands()
    recipes = {Path(word).stem for command in shown for word in command if word.endswith(".toml")}
    assert recipes | {"demo"} == {path.stem for path in (ROOT / "recipes").glob("*.toml")}
    for command in shown:
        small = shrink(command, data, new)
        small += SMALLEST_INIT if command[1] == "init" else ()
        assert run_command(small) == 0, f"python -m {' '.join(small)}"
    for work in {command[2] for command in shown}:
        submission = pd.read_csv(tmp_path / work / "aggregate" / "submission.csv", dtype=str, keep_default_na=False)
        images = pd.read_parquet(tmp_path / work / "images.parquet")
        assert len(submission) == (images["split"] == "test").sum() > 0
        metrics = pd.read_json(tmp_path / work / "aggregate" / "metrics.json", typ="series")
        assert 0 <= metrics["macro_f1"] <= 1

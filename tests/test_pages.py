"""Every command that a page or a recipe tells a person to type is run here, in small, in the order of the page."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpa.vocabulary import HPA28
from tests.pages import ROOT, commands, recipe_commands

SMALL_INIT = ("--set", "classify.epochs=1", "--set", "crops.size_px=32", "--set", "data.folds=2")

SMALL_BENCH: dict[str, list[str]] = {
    "bench.aggregate": ["--tiny"],
    "bench.classify": ["triplets", "--tiny"],
    "bench.crops": ["--tiny"],
    "bench.data": ["--tiny"],
    "bench.reading": ["--tiny"],
    "bench.realism": [],
    "bench.segment": ["--tiny", "accuracy", "real", "speed", "memory", "gpu"],
    "bench.thresholds": ["1"],
}


def _in_small(command: list[str], data: Path, new: Path) -> list[str]:
    """Make a command cheap, and let it find its data."""
    places = {"/data/hpaic": str(data), "/data/new": str(new), "../shared/real/images512": str(new)}
    command = [places.get(word, word) for word in command]
    if command[:2] == ["pipeline", "init"]:
        command += SMALL_INIT
    if command[:2] == ["pipeline", "demo"]:
        command += ["--tiny"]
    if command[:2] == ["hpa", "synthesize"]:
        command += ["--images", "4", "--size-px", "128"]
    if command[:2] == ["aggregate", "submit"]:
        sample = data / "sample_submission.csv"
        np.save("scores.npy", np.random.default_rng(0).random((len(pd.read_csv(sample)), 28)))
        command[2:] = ["scores.npy", "--sample", str(sample), "--thresholds", "0.5", "--out", "submission.csv"]
    if command[:2] == ["aggregate", "evaluate"]:
        command[2:] = ["submission.csv", "submission.csv"]
    if command[:2] == ["segment", "score"]:  # real masks are not at hand everywhere: the atlas's against themselves
        command[2:] = [str(data / "truth" / "cells")] * 2
    return command


def _run(command: list[str]) -> int:
    if command[0].startswith("bench."):
        import_module(command[0]).main(SMALL_BENCH[command[0]])
        return 0
    module = import_module(f"{command[0]}.__main__")
    code = module.main(command[1:])
    assert isinstance(code, int)
    return code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the shipped recipes, as a clone has them, after the README's commands."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    new = folder / "new"
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        for command in commands(ROOT / "README.md"):
            if command[:2] == ["pipeline", "apply"] and not new.exists():
                new.mkdir()
                for path in (folder / "work" / "demo" / "atlas" / "test").iterdir():
                    shutil.copy(path, new / path.name)
            small = _in_small(command, folder / "work" / "demo" / "atlas", new)
            assert _run(small) == 0, f"python -m {' '.join(small)}"
    return folder


def _submission(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "aggregate" / "submission.csv", dtype=str, keep_default_na=False)


def test_the_readme_tells_the_whole_way() -> None:
    told = [" ".join(command[:2]) for command in commands(ROOT / "README.md")]
    way = ["pipeline demo", "pipeline init", "segment run", "crops run", "classify train", "classify predict"]
    crops = ["crops sheet", "crops export"]
    model = ["pipeline apply", "pipeline export", "pipeline apply"]
    assert told == [*way, "aggregate run", "pipeline run", *model, "aggregate submit", "aggregate evaluate", *crops]


def test_every_test_image_is_in_the_submission_in_order(folder: Path) -> None:
    sample = pd.read_csv(folder / "work" / "demo" / "atlas" / "sample_submission.csv", dtype=str)
    for work in ("demo", "my"):
        submission = _submission(folder / "work" / work)
        assert list(submission.columns) == ["Id", "Predicted"]
        assert list(submission["Id"]) == list(sample["Id"])
        assert all(HPA28.parse(text) for text in submission["Predicted"])


def test_the_stages_agree_on_the_number_of_cells(folder: Path) -> None:
    for work in ("demo", "my", "new"):
        root = folder / "work" / work
        images = pd.read_parquet(root / "images.parquet")
        masks = pd.read_parquet(root / "segment" / "masks.parquet")
        crops = pd.read_parquet(root / "crops" / "cells" / "crops.parquet")
        dropped = pd.read_parquet(root / "crops" / "cells" / "dropped.parquet")
        assert len(masks) == len(images)
        assert (~crops["fallback"]).sum() + len(dropped) == masks["n_cells"].sum()
        rows = pd.read_parquet(root / "classify" / "cells" / "probabilities.parquet")
        scored = rows.drop_duplicates(["image_id", "cell_label"])
        assert set(zip(scored["image_id"], scored["cell_label"], strict=True)) == set(
            zip(crops["image_id"], crops["cell_label"], strict=True)
        )
        labelled = pd.read_parquet(root / "aggregate" / "cells.parquet")
        assert len(labelled) == (~crops["fallback"]).sum()


def test_no_row_is_scored_by_the_model_that_saw_it(folder: Path) -> None:
    root = folder / "work" / "my"
    folds = pd.read_parquet(root / "folds.parquet").set_index("image_id")["fold"]
    rows = pd.read_parquet(root / "classify" / "cells" / "probabilities.parquet")
    oof = rows[rows["origin"] == "oof"]
    assert (oof["fold"] == folds.loc[oof["image_id"]].to_numpy()).all()
    assert set(rows.loc[rows["origin"] == "test", "fold"]) == {0, 1}


def test_antibodies_stay_in_one_fold(folder: Path) -> None:
    root = folder / "work" / "my"
    images = pd.read_parquet(root / "images.parquet")
    folds = pd.read_parquet(root / "folds.parquet").merge(images, on="image_id")
    assert folds["antibody"].notna().all()
    assert (folds.groupby("antibody")["fold"].nunique() == 1).all()


def test_apply_gives_what_the_run_itself_gives(folder: Path) -> None:
    """The test images of the run, applied to as new ones: the same cells, the same model, so the same labels."""
    ours, applied = _submission(folder / "work" / "my"), _submission(folder / "work" / "new")
    assert sorted(applied["Id"]) == sorted(ours["Id"])
    assert list(applied["Id"]) == sorted(applied["Id"])
    both = ours.merge(applied, on="Id")
    same = (both["Predicted_x"] == both["Predicted_y"]).mean()
    assert same > 0.5  # the diameter is found anew from fewer images, so cells differ a little
    assert not (folder / "work" / "new" / "aggregate" / "metrics.json").exists()


def test_a_bundle_gives_what_its_work_folder_gives(folder: Path) -> None:
    work, bundle = folder / "work" / "new", folder / "work" / "from-bundle"
    for name in ("aggregate/submission.csv", "aggregate/images.parquet", "aggregate/cells.parquet"):
        assert (bundle / name).read_bytes() == (work / name).read_bytes()
    packed = {
        str(path.relative_to(folder / "work" / "my.bundle")) for path in (folder / "work" / "my.bundle").rglob("*")
    }
    assert not [name for name in packed if name.endswith((".png", ".parquet", ".npy", ".csv"))]


def test_the_demo_tells_its_figures(folder: Path) -> None:
    figures = json.loads((folder / "work" / "demo" / "demo.json").read_text())
    assert figures["images"] == len(pd.read_parquet(folder / "work" / "demo" / "images.parquet"))
    assert 0.5 < figures["segmentation_ap50"] <= 1
    assert 0 < figures["cell_matched_share"] <= 1
    shares = [figures[key] for key in ("oof_macro_f1", "test_macro_f1", "cell_macro_f1", "baseline_every_class")]
    assert all(0 <= share <= 1 for share in shares)
    assert set(figures["seconds"]) >= {"segment", "crops", "train", "predict", "aggregate", "all"}


def test_every_class_baseline_in_closed_form(folder: Path) -> None:
    """Predicting every class for all gives each class 2 p / (1 + p), p its share of the images."""
    truth = pd.read_csv(folder / "work" / "demo" / "atlas" / "truth" / "images.csv", dtype=str, keep_default_na=False)
    targets = HPA28.multi_hot(HPA28.parse(text) for text in truth.loc[truth["split"] == "test", "target"])
    share = targets.mean(axis=0)
    figures = json.loads((folder / "work" / "demo" / "demo.json").read_text())
    assert figures["baseline_every_class"] == pytest.approx(np.mean(2 * share / (1 + share)))
    assert figures["baseline_most_frequent"] >= figures["baseline_every_class"] - 1e-12


@pytest.mark.slow
def test_the_commands_of_the_results(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CELLWISE_REAL_DATA", str(tmp_path / "none"))  # benches then say what they miss, and end
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "docs").mkdir()
    for command in commands(ROOT / "docs" / "results.md"):
        small = _in_small(command, folder / "work" / "demo" / "atlas", folder / "new")
        assert _run(small) == 0, f"python -m {' '.join(small)}"
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"atlas.png", "patterns.png"}


@pytest.mark.slow
def test_the_commands_of_the_recipes(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    told = recipe_commands()
    assert {Path(word).stem for command in told for word in command if word.endswith(".toml")} >= {"cells", "atlas"}
    for command in told:
        small = _in_small(command, folder / "work" / "demo" / "atlas", folder / "new")
        assert _run(small) == 0, f"python -m {' '.join(small)}"

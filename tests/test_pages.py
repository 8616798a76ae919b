"""Run every command of the README, the guide, docs/results.md and the recipe headers on small data, in order."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from classify.probabilities import class_columns
from hpa.channels import CHANNELS
from hpa.pixels import read_plane
from hpa.vocabulary import HPA28
from tests.support.pages import ROOT, commands, python_blocks, run_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the commands of the guide have been run."""
    folder = tmp_path_factory.mktemp("clone")
    run_page(ROOT / "docs" / "guide.md", folder)
    return folder


def _submission(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "aggregate" / "submission.csv", dtype=str, keep_default_na=False)


def test_the_readme_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [" ".join(command[:2]) for command in commands(ROOT / "README.md")]
    assert shown == ["pipeline demo", "cellwise demo", "cellwise init", "cellwise run", "cellwise apply"]
    run_page(ROOT / "README.md", tmp_path)
    assert len(_submission(tmp_path / "work" / "new")) == 8
    monkeypatch.chdir(tmp_path)
    image = next((tmp_path / "work" / "demo" / "atlas" / "test").glob("*_red.png")).name.removesuffix("_red.png")
    planes = [read_plane(Path(f"work/demo/atlas/test/{image}_{channel}.png")) for channel in CHANNELS]
    names: dict[str, Any] = {"image": np.stack(planes)}
    for block in python_blocks(ROOT / "README.md"):
        exec(block, names)
    assert list(names["labels"].columns) == ["image_id", "predicted", *class_columns(HPA28)]


def test_the_guide_shows_every_step() -> None:
    shown = [" ".join(command[:2]) for command in commands(ROOT / "docs" / "guide.md")]
    stages = ["pipeline demo", "pipeline init", "segment run", "crops run", "classify train", "classify predict"]
    crops = ["crops sheet", "crops export", "crops synthesize"]
    model = ["pipeline apply", "pipeline export", "pipeline apply"]
    assert shown == [
        *stages,
        "aggregate run",
        "pipeline run",
        "pipeline picture",
        "pipeline report",
        *model,
        "aggregate submit",
        "aggregate evaluate",
        "classify find-lr",
        *crops,
    ]


def test_the_submission_lists_every_test_image_in_sample_order(folder: Path) -> None:
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


def test_out_of_fold_rows_come_from_the_model_of_their_own_fold(folder: Path) -> None:
    root = folder / "work" / "my"
    folds = pd.read_parquet(root / "folds.parquet").set_index("image_id")["fold"]
    rows = pd.read_parquet(root / "classify" / "cells" / "probabilities.parquet")
    oof = rows[rows["origin"] == "oof"]
    assert (oof["fold"] == folds.loc[oof["image_id"]].to_numpy()).all()
    assert set(rows.loc[rows["origin"] == "test", "fold"]) == {0, 1}


def test_each_antibody_is_in_one_fold(folder: Path) -> None:
    root = folder / "work" / "my"
    images = pd.read_parquet(root / "images.parquet")
    folds = pd.read_parquet(root / "folds.parquet").merge(images, on="image_id")
    assert folds["antibody"].notna().all()
    assert (folds.groupby("antibody")["fold"].nunique() == 1).all()


def test_apply_agrees_with_the_run_on_its_test_images(folder: Path) -> None:
    """Applied to the test images of its own run as new images, the model gives most of them the same labels."""
    ours, applied = _submission(folder / "work" / "my"), _submission(folder / "work" / "new")
    assert sorted(applied["Id"]) == sorted(ours["Id"])
    assert list(applied["Id"]) == sorted(applied["Id"])
    both = ours.merge(applied, on="Id")
    agreement = (both["Predicted_x"] == both["Predicted_y"]).mean()
    assert agreement > 0.5  # the diameter is estimated from fewer images, so cells differ slightly
    assert not (folder / "work" / "new" / "aggregate" / "metrics.json").exists()


def test_a_bundle_gives_the_same_files_as_its_work_folder(folder: Path) -> None:
    work, bundle = folder / "work" / "new", folder / "work" / "from-bundle"
    for name in ("aggregate/submission.csv", "aggregate/images.parquet", "aggregate/cells.parquet"):
        assert (bundle / name).read_bytes() == (work / name).read_bytes()
    packed = {
        str(path.relative_to(folder / "work" / "my.bundle")) for path in (folder / "work" / "my.bundle").rglob("*")
    }
    assert not [name for name in packed if name.endswith((".png", ".parquet", ".npy", ".csv"))]


def test_the_demo_writes_its_figures(folder: Path) -> None:
    figures = json.loads((folder / "work" / "demo" / "demo.json").read_text())
    assert figures["images"] == len(pd.read_parquet(folder / "work" / "demo" / "images.parquet"))
    assert 0.5 < figures["segmentation_ap50"] <= 1
    assert 0 < figures["cell_matched_share"] <= 1
    shares = [figures[key] for key in ("oof_macro_f1", "test_macro_f1", "cell_macro_f1", "baseline_every_class")]
    assert all(0 <= share <= 1 for share in shares)
    assert set(figures["seconds"]) >= {"segment", "crops", "train", "predict", "aggregate", "all"}


def test_the_every_class_baseline_matches_its_closed_form(folder: Path) -> None:
    """Predicting every class for all images gives a class with share p of the images an F1 of 2 p / (1 + p)."""
    truth = pd.read_csv(folder / "work" / "demo" / "atlas" / "truth" / "images.csv", dtype=str, keep_default_na=False)
    targets = HPA28.multi_hot(HPA28.parse(text) for text in truth.loc[truth["split"] == "test", "target"])
    share = targets.mean(axis=0)
    figures = json.loads((folder / "work" / "demo" / "demo.json").read_text())
    assert figures["baseline_every_class"] == pytest.approx(np.mean(2 * share / (1 + share)))
    assert figures["baseline_most_frequent"] >= figures["baseline_every_class"] - 1e-12

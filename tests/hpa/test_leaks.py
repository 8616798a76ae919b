"""Leaks planted in a data set: the report finds these and no others."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from hpa.__main__ import main
from hpa.atlas import synthesize
from hpa.channels import CHANNELS
from hpa.config import DataSection
from hpa.images import read_images
from hpa.reports.adversarial import adversarial_validation
from hpa.reports.leaks import label_conflicts
from hpa.splitting.quality import measure_image_splits, measure_split
from pipeline.init import init
from pipeline.recipe import read_recipe

SETTINGS = ("data.folds=2", "data.near_duplicates=true")


def _plant(data: Path, original: str, name: str, split: str) -> None:
    """Write a copy of a train image, slightly cropped and brighter."""
    for channel in CHANNELS:
        plane = np.asarray(cv2.imread(str(data / "train" / f"{original}_{channel}.png"), cv2.IMREAD_UNCHANGED))
        side = plane.shape[0]
        copy = np.clip(cv2.resize(plane[2:-2, 2:-2], (side, side)) * 1.1, 0, 255).astype(np.uint8)
        cv2.imwrite(str(data / split / f"{name}_{channel}.png"), copy)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an atlas with three planted copies, one in the test set, one with other labels, and a black image."""
    data = tmp_path_factory.mktemp("leaks") / "atlas"
    synthesize(data, 24, 12, seed=8, size_px=128, workers=1)
    train = pd.read_csv(data / "train.csv", dtype=str)
    sample = pd.read_csv(data / "sample_submission.csv", dtype=str)
    first, second, third = train["Id"][:3]
    _plant(data, first, "same", "train")
    _plant(data, second, "other", "train")
    _plant(data, third, "tested", "test")
    for name in ("black1", "black2"):
        for channel in CHANNELS:
            cv2.imwrite(str(data / "train" / f"{name}_{channel}.png"), np.zeros((128, 128), np.uint8))
    other = "27" if train["Target"][1] != "27" else "26"
    more = [("same", train["Target"][0]), ("other", other), ("black1", "1"), ("black2", "2")]
    pd.concat([train, pd.DataFrame(more, columns=train.columns)]).to_csv(data / "train.csv", index=False)
    rows = pd.DataFrame([("tested", "0")], columns=sample.columns)
    pd.concat([sample, rows]).to_csv(data / "sample_submission.csv", index=False)
    return data


@pytest.fixture(scope="module")
def work(data: Path) -> Path:
    """Return a work folder of it after the report."""
    root = data.parent / "work"
    init(root, [data], read_recipe(None, SETTINGS), workers=1)
    listed = data.parent / "pairs.csv"
    listed.write_text("Train,Extra\nsame,other\nsame,elsewhere\n")
    known = data.parent / "known.csv"
    known.write_text("Id,Target\ntested,3\nelsewhere,1\n")
    assert main(["leaks", str(root), "--list", str(listed), "--list", str(known), "--workers", "1"]) == 0
    return root


def test_only_the_planted_pairs_are_reported(data: Path, work: Path) -> None:
    originals = list(pd.read_csv(data / "train.csv", dtype=str)["Id"][:3])
    pairs = pd.read_csv(work / "leaks" / "pairs.csv", dtype=str, keep_default_na=False)
    found = {frozenset(pair) for pair in zip(pairs["image_id_a"], pairs["image_id_b"], strict=True)}
    assert found == {frozenset(pair) for pair in zip(originals, ("same", "other", "tested"), strict=True)}
    crossing = pd.read_csv(work / "leaks" / "train_test.csv", dtype=str)
    assert set(crossing["image_id_a"]) | set(crossing["image_id_b"]) == {originals[2], "tested"}
    conflicts = pd.read_csv(work / "leaks" / "conflicts.csv", dtype=str)
    assert list(conflicts["group_of"]) == [originals[1]]
    assert conflicts["images"].tolist() == ["2"]
    bits = pairs.filter(like="bits_").astype(int)
    assert (bits <= 12).to_numpy().all()
    assert bits.sum(axis=1).is_monotonic_increasing


def test_pairs_for_a_paper(work: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(work, tmp_path / "copy")
    assert main(["leaks", str(copy), "--figure-format", "pdf"]) == 0
    assert (copy / "leaks" / "pairs.pdf").read_bytes().startswith(b"%PDF")


def test_figures_of_the_report(work: Path) -> None:
    figures = json.loads((work / "leaks" / "leaks.json").read_text())
    assert figures["images"] == 24 + 12 + 5
    assert figures["pairs that look alike"] == 3
    assert figures["largest set that looks alike"] == 2
    assert figures["train images that look like a test image"] == 1
    assert figures["images with a flat or unreadable plane"] == 2
    assert figures["pairs of pairs.csv in the data set"] == 1
    assert figures["pairs of pairs.csv in two groups"] == 1
    assert figures["test images with a label in known.csv"] == 1
    ours, *others = figures["splits"]
    assert ours["groups_split"] == 0
    assert [other["name"] for other in others] == ["KFold", "MultilabelStratifiedKFold"]
    picture = cv2.imread(str(work / "leaks" / "pairs.png"))
    assert picture is not None
    assert picture.shape[1] == 2 * 5 * 192


def test_unknown_classes_are_no_conflict() -> None:
    """2021 says actin or focal adhesion (12 or 13, unknown), 2018 says which; both contradict nucleoplasm (0)."""
    labels = [((12,), ()), ((), (12, 13)), ((0,), ()), ((), (12, 13)), ((12,), ()), ((12,), tuple(range(28)))]
    images = pd.DataFrame(
        {
            "image_id": list("abcdef"),
            "split": "train",
            "target": pd.Series([target for target, _ in labels], dtype=object),
            "unknown_classes": pd.Series([unknown for _, unknown in labels], dtype=object),
        }
    )
    conflicts = label_conflicts(images, np.array([0, 0, 1, 1, 2, 2], np.int32), DataSection())
    assert conflicts["group_of"].tolist() == ["c"]
    assert conflicts["images"].tolist() == [2]


def test_copies_share_a_group_and_can_be_deduplicated(
    data: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = pd.read_parquet(work / "folds.parquet").set_index("image_id")
    original = pd.read_csv(data / "train.csv", dtype=str)["Id"][0]
    assert folds.loc["same", "group"] == folds.loc[original, "group"]
    init(tmp_path / "w", [data], read_recipe(None, ("data.folds=2", "data.dedupe=keep-one")), workers=1)
    images = read_images(tmp_path / "w" / "images.parquet")
    dropped = pd.read_csv(tmp_path / "w" / "dropped.csv", dtype=str)
    assert set(dropped["image_id"]) == {"same", "other"}
    assert set(dropped["looks_like"]) <= set(images["image_id"])
    assert len(images) + len(dropped) == len(read_images(work / "images.parquet"))
    assert "tested" in set(images["image_id"])
    assert "images in the largest set" in capsys.readouterr().out
    assert main(["leaks", str(tmp_path / "w"), "--workers", "1"]) == 0
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert printed[-4:] == ["this", "KFold", "MultilabelStratifiedKFold", "report"]
    assert json.loads((tmp_path / "w" / "leaks" / "leaks.json").read_text())["pairs that look alike"] == 1


def test_report_without_copies_and_test_images(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "sample_submission.csv").unlink()
    settings = ("data.folds=2", "data.duplicate_bits=0", 'data.channels=["red", "blue"]')
    init(tmp_path / "w", [tmp_path / "data"], read_recipe(None, settings), workers=1)
    assert main(["leaks", str(tmp_path / "w"), "--workers", "1"]) == 0
    figures = json.loads((tmp_path / "w" / "leaks" / "leaks.json").read_text())
    assert figures["AUC of train against test images"] is None
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["AUC", "of", "train", "against", "test", "images", "-"] in printed
    assert f"images {figures['images']}".split() in printed
    assert not (tmp_path / "w" / "leaks" / "pairs.png").exists()


def test_adversarial_validation_detects_a_shift_only() -> None:
    draw = np.random.default_rng(0)
    features = pd.DataFrame(draw.normal(size=(400, 4)), columns=["a", "b", "c", "d"])
    is_test = np.arange(400) % 2 == 0
    groups = np.arange(400, dtype=np.int32)
    same = adversarial_validation(features, is_test, groups, seed=0)
    assert same is not None
    assert 0.4 < same.auc < 0.6
    shifted = adversarial_validation(features.assign(c=features["c"] + 2 * is_test), is_test, groups, seed=0)
    assert shifted is not None
    assert shifted.auc > 0.85
    assert shifted.top_features[0] == "c"
    assert adversarial_validation(features[:15], is_test[:15], groups[:15], seed=0) is None


def test_adversarial_validation_does_not_recognise_copies() -> None:
    """Every image occurs five times: a forest trained on some copies would recognise the others."""
    draw = np.random.default_rng(1)
    features = pd.DataFrame(np.repeat(draw.normal(size=(80, 6)), 5, axis=0)).add_prefix("f")
    is_test = np.repeat(draw.random(80) < 0.5, 5)
    grouped = adversarial_validation(features, is_test, np.repeat(np.arange(80), 5).astype(np.int32), seed=0)
    alone = adversarial_validation(features, is_test, np.arange(400, dtype=np.int32), seed=0)
    assert grouped is not None
    assert alone is not None
    assert grouped.auc < 0.75
    assert alone.auc > 0.95


def test_split_quality_by_hand() -> None:
    targets = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]], bool)
    measured = measure_split("x", np.array([0, 0, 1, 0]), targets, np.array([0, 1, 1, 2], np.int32))
    assert measured.groups_split == 1
    assert measured.size_spread == pytest.approx(1.0)  # 3 and 1 images, 2 on average
    assert measured.worst_share == pytest.approx(1.0)  # the second class is in one fold only
    assert measured.missing == 1
    names = [split.name for split in measure_image_splits(targets, np.arange(4, dtype=np.int32), 2, 0)]
    assert names == ["KFold", "MultilabelStratifiedKFold"]

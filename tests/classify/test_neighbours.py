"""The commands `neighbours` and `curves`, and feature spaces."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from classify.__main__ import main
from classify.inspect.curves import draw_curves
from classify.inspect.neighbours import FeatureSpace, nearest
from classify.inspect.retrieval import normalise_rows
from hpa.work.folder import WorkFolder
from tests.support.bright_crops import make_work

RNG = np.random.default_rng(5)
TARGETS = RNG.random((30, 5)) < 0.35
ALL_KNOWN = np.ones_like(TARGETS)
VECTORS = normalise_rows(RNG.normal(size=(30, 4)).astype(np.float32))


def test_neighbours_are_of_other_groups_and_images_are_means() -> None:
    ids = np.array([f"i{k // 3}" for k in range(30)], dtype=object)
    rows = np.arange(30)
    space = FeatureSpace(ids, rows % 3 + 1, VECTORS, TARGETS[rows // 3], ALL_KNOWN, rows // 6)
    table = nearest(space, np.arange(30))
    group = dict(zip(ids, space.groups, strict=True))
    assert all(group[q] != group[n] for q, n in zip(table["query_image_id"], table["image_id"], strict=True))
    assert (table.groupby(["query_image_id", "query_cell_label"])["similarity"].diff().dropna() <= 0).all()
    images = space.images()
    np.testing.assert_allclose(images.vectors[4], normalise_rows(VECTORS[12:15].mean(0, keepdims=True))[0], rtol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    recipe = {"classify": {"backbone": "cnn3", "epochs": 2, "batch_size": 4, "embedding_dim": 3}}
    work = make_work(tmp_path_factory.mktemp("trained") / "work", [0, 1] * 6, recipe=recipe)
    assert main(["train", str(work.root)]) == 0
    return work


def test_curves_are_drawn_and_summarised(trained: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curves", str(trained.root)]) == 0
    printed = capsys.readouterr().out
    assert "cells, fold 1: epoch 2, train loss" in printed
    # Other figures than those of `aggregate run`, so other names.
    assert "macro F1 at 0.5" in printed
    assert "mean AP over the fold's classes" in printed
    picture = cv2.imread(str(trained.root / "classify/cells/figures/curves.png"))
    assert picture is not None
    assert (picture != 255).mean() > 0.005


def test_the_curve_of_a_single_epoch_is_visible(tmp_path: Path) -> None:
    history = pd.DataFrame({"epoch": [1], "train_loss": [0.5], "learning_rate": [0.001]})
    draw_curves(tmp_path / "one.png", {0: history.iloc[:1]})
    draw_curves(tmp_path / "none.png", {0: history.iloc[:0]})
    blue_of_fold_0 = np.array([180, 119, 31])  # BGR
    pixels = {}
    for name in ("one", "none"):
        picture = cv2.imread(str(tmp_path / f"{name}.png"))
        assert picture is not None
        pixels[name] = int((picture == blue_of_fold_0).all(axis=2).sum())
    assert pixels["one"] > pixels["none"] + 20  # beyond the legend's


def test_neighbours_need_embeddings_and_are_reported(trained: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    root = trained.root
    assert main(["neighbours", str(root)]) == 2
    assert "--embeddings" in capsys.readouterr().err
    assert main(["predict", str(root)]) == 0
    plain = (root / "classify/cells/probabilities.parquet").read_bytes()
    assert main(["predict", str(root), "--embeddings"]) == 0
    assert (root / "classify/cells/probabilities.parquet").read_bytes() == plain
    folder = root / "classify/cells/predict/fold-0"
    keys = pd.read_parquet(folder / "keys.parquet")
    features, embedding = (np.load(folder / f"{name}.npy") for name in ("features", "embedding"))
    assert features.shape == (len(keys), 128)
    assert features.dtype == embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)
    assert main(["neighbours", str(root), "--shown", "3"]) == 0
    output = capsys.readouterr().out
    assert "embedding of crops: precision@1" in output
    assert "features of images: precision@1" in output
    table = pd.read_csv(root / "classify/cells/neighbours.csv")
    folds = pd.read_parquet(trained.folds).set_index("image_id")["fold"]
    for column in ("query_image_id", "image_id"):
        assert ("fold-" + folds.loc[table[column]].astype(str)).tolist() == table["fold"].tolist()
    drawn = cv2.imread(str(root / "classify/cells/figures/neighbours-fold-1-embedding.png"))
    assert drawn is not None
    drawn = drawn.astype(int)
    side = 160 + 2 * 18  # a picture below two lines of its classes, green above a neighbour that shares one, else red
    queries = table[(table["fold"] == "fold-1") & (table["space"] == "embedding")].groupby(
        ["query_image_id", "query_cell_label"], sort=False
    )
    for line, (_, near) in enumerate(queries):
        for place, shared in enumerate(near["shared_labels"] > 0, start=1):
            title = drawn[line * side : line * side + 36, place * 160 : (place + 1) * 160]
            assert ((title[..., 1] - title[..., 2]).max() > 60) == shared
    assert drawn.shape[0] == len(queries) * side
    assert main(["neighbours", str(root), "--shown", "3", "--figure-format", "svg"]) == 0
    figures = root / "classify/cells/figures"
    pictures = {suffix: {path.stem for path in figures.glob(f"neighbours-*{suffix}")} for suffix in (".png", ".svg")}
    assert pictures[".svg"] == pictures[".png"]


def test_untrained_work_folder_raises_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work(tmp_path / "work", [0, 1])
    for verb, sentence in (("curves", "expected a trained work folder"), ("neighbours", "expected features")):
        assert main([verb, str(work.root)]) == 2
        assert sentence in capsys.readouterr().err

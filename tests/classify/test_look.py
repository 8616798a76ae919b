"""Neighbours against a loop and the library; the commands that draw."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from classify.__main__ import main
from classify.inspect.neighbours import Space, nearest
from classify.inspect.retrieval import relevance, retrieve, unit
from hpa.work.folder import WorkFolder
from tests.classify.world import make_work

RNG = np.random.default_rng(5)
TARGETS = RNG.random((30, 5)) < 0.35
VECTORS = unit(RNG.normal(size=(30, 4)).astype(np.float32))


def _naive(groups: NDArray[np.int64], jaccard: float) -> tuple[float, float]:
    first, precision = [], []
    sets = [set(np.flatnonzero(row).tolist()) for row in TARGETS]
    for q in range(30):
        others = [i for i in range(30) if groups[i] != groups[q]]
        alike = {i for i in others if sets[q] & sets[i] and len(sets[q] & sets[i]) / len(sets[q] | sets[i]) >= jaccard}
        if not alike:
            continue
        ranked = sorted(others, key=lambda i: float(np.linalg.norm(VECTORS[q] - VECTORS[i])))
        total, hits = 0.0, 0
        for place, i in enumerate(ranked[: len(alike)], start=1):
            if i in alike:
                hits += 1
                total += hits / place
        first.append(ranked[0] in alike)
        precision.append(total / len(alike))
    return float(np.mean(first)), float(np.mean(precision))


@pytest.mark.parametrize("jaccard", [0.2, 0.5])
def test_retrieval_is_that_of_a_loop(jaccard: float) -> None:
    groups = np.arange(30) // 3
    found = retrieve(VECTORS, TARGETS, groups, np.arange(30), jaccard)
    assert (found.precision_at_1, found.map_at_r) == pytest.approx(_naive(groups, jaccard))


def test_with_one_label_each_it_is_the_library_s() -> None:
    labels = np.sort(RNG.integers(0, 4, 30))
    hot = np.eye(4, dtype=bool)[labels]
    found = retrieve(VECTORS, hot, np.arange(30), np.arange(30), 0.5)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count", knn_func=_knn
    )
    library = calculator.get_accuracy(torch.from_numpy(VECTORS), torch.from_numpy(labels))
    assert found.precision_at_1 == pytest.approx(library["precision_at_1"])
    assert found.map_at_r == pytest.approx(library["mean_average_precision_at_r"])


def _knn(query: torch.Tensor, k: int, reference: torch.Tensor, same_source: bool) -> tuple[torch.Tensor, torch.Tensor]:
    distances = torch.cdist(query, reference)
    if same_source:
        distances.fill_diagonal_(torch.inf)
    near = distances.topk(k, largest=False)
    return near.values, near.indices


def test_relevance_wants_a_common_label() -> None:
    targets = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=bool)
    assert relevance(targets, 0, 0.5)[0].tolist() == [True, True, False, False]
    assert relevance(targets, 3, 0.5)[0].tolist() == [False] * 4


def test_pairs_that_unknown_classes_leave_open_are_left_out() -> None:
    """By a loop over classes; a query's others are those of which it is decided whether they are relevant."""
    known = RNG.random(TARGETS.shape) < 0.8
    targets = TARGETS & known
    for query in range(30):
        relevant, undecided = relevance(targets, query, 0.5, known)
        for other in range(30):
            common = union = loose = 0
            for c in range(targets.shape[1]):
                a, b = bool(targets[query, c]), bool(targets[other, c])
                if known[query, c] and known[other, c]:
                    common, union = common + (a and b), union + (a or b)
                else:
                    loose += a or b
            alike = common > 0 and common / union >= 0.5
            assert (relevant[other], undecided[other]) == (alike, loose > 0 and not alike)
    found = retrieve(VECTORS, targets, np.arange(30), np.arange(30), 0.5, known)
    first = []
    for query in range(30):
        relevant, undecided = relevance(targets, query, 0.5, known)
        others = [i for i in range(30) if i != query and not undecided[i]]
        if relevant[others].any():
            first.append(relevant[min(others, key=lambda i: float(np.linalg.norm(VECTORS[query] - VECTORS[i])))])
    assert found.queries == len(first)
    assert found.precision_at_1 == pytest.approx(np.mean(first))


def test_nothing_to_find_is_zero() -> None:
    found = retrieve(VECTORS, np.eye(30, dtype=bool), np.arange(30), np.arange(30), 0.5)
    assert (found.queries, found.map_at_r) == (0, 0.0)


def test_neighbours_are_never_of_the_own_group_and_images_are_means() -> None:
    ids = np.array([f"i{k // 3}" for k in range(30)], dtype=object)
    space = Space(ids, np.arange(30) % 3 + 1, VECTORS, TARGETS[np.arange(30) // 3], np.arange(30) // 6)
    table = nearest(space, np.arange(30))
    group = dict(zip(ids, space.groups, strict=True))
    assert all(group[q] != group[n] for q, n in zip(table["query_image_id"], table["image_id"], strict=True))
    assert (table.groupby(["query_image_id", "query_cell_label"])["similarity"].diff().dropna() <= 0).all()
    images = space.images()
    np.testing.assert_allclose(images.vectors[4], unit(VECTORS[12:15].mean(0, keepdims=True))[0], rtol=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    recipe = {"classify": {"backbone": "cnn3", "epochs": 2, "batch_size": 4, "embedding_dim": 3}}
    work = make_work(tmp_path_factory.mktemp("trained") / "work", [0, 1] * 6, recipe=recipe)
    assert main(["train", str(work.root)]) == 0
    return work


def test_curves_are_drawn_and_told(trained: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curves", str(trained.root)]) == 0
    assert "cells, fold 1: epoch 2, train loss" in capsys.readouterr().out
    picture = cv2.imread(str(trained.root / "classify/cells/figures/curves.png"))
    assert picture is not None
    assert (picture != 255).mean() > 0.005


def test_neighbours_need_embeddings_and_then_are_told(trained: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
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
    told = capsys.readouterr().out
    assert "embedding of crops: precision@1" in told
    assert "features of images: precision@1" in told
    table = pd.read_csv(root / "classify/cells/neighbours.csv")
    folds = pd.read_parquet(trained.folds).set_index("image_id")["fold"]
    for column in ("query_image_id", "image_id"):
        assert ("fold-" + folds.loc[table[column]].astype(str)).tolist() == table["fold"].tolist()
    assert cv2.imread(str(root / "classify/cells/figures/neighbours-fold-1-embedding.png")) is not None


def test_nothing_trained_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work(tmp_path / "work", [0, 1])
    for verb, sentence in (("curves", "expected a trained work folder"), ("neighbours", "expected features")):
        assert main([verb, str(work.root)]) == 2
        assert sentence in capsys.readouterr().err

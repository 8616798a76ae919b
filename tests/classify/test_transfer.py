"""Labels of nearest crops against a naive loop, without leaks, and as scores that the last stage joins."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from classify.cell_targets import write_cell_targets
from classify.data.crops import CropSource
from classify.inference.evaluate import CropOutputs, predict_batches
from classify.inference.predict import ScoredCrops, predict_fold
from classify.inference.transfer import TEMPERATURE, References, transfer_fold, transfer_labels
from classify.models import read_labelled_crops, references_path
from classify.network.checkpoint import Checkpoint
from classify.network.model import Network
from classify.prediction import predict
from classify.probabilities import class_columns, read_probabilities
from classify.run import train
from hpa.images import read_images, write_images
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from tests.support.bright_crops import make_work

FOLDS = [0, 1, 0, 1, 0, 1, -1, 0, 1, 1]
RECIPE = {"classify": {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "embedding_dim": 4, "nearest_crops": 5}}
P = class_columns(HPA28)


def test_transfer_equals_a_naive_loop() -> None:
    rng = np.random.default_rng(0)
    queries, references = (rng.normal(size=(n, 6)).astype(np.float32) for n in (300, 40))
    queries, references = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, references))
    targets, known = rng.random((40, 5)) < 0.3, rng.random((40, 5)) < 0.8
    known[:, 4] = np.arange(40) == 0  # known for hardly any neighbour
    found = transfer_labels(queries, references, targets, known, 7)
    for query, row in zip(queries, found, strict=True):
        similarity = references @ query
        nearest = np.argsort(-similarity)[:7]
        weights = np.exp(similarity[nearest] / TEMPERATURE)
        for c in range(5):
            own = known[nearest, c]
            share = (targets & known)[:, c].sum() / known[:, c].sum()
            expected = np.average(targets[nearest[own], c], weights=weights[own]) if own.any() else share
            assert row[c] == pytest.approx(expected, abs=1e-5)


def test_few_references_are_all_neighbours() -> None:
    vectors = np.eye(3, dtype=np.float32)
    targets = np.array([[True], [False], [True]])
    found = transfer_labels(np.zeros((1, 3), np.float32), vectors, targets, np.ones_like(targets), 50)
    assert found.tolist() == [[pytest.approx(2 / 3)]]


def _transferred(work: WorkFolder) -> pd.DataFrame:
    return read_probabilities(work.root / "classify" / "cells" / "neighbours" / "probabilities.parquet", HPA28)


@pytest.mark.usefixtures("tiny_backbone")
def test_an_image_gets_no_label_of_its_own_fold(tmp_path: Path) -> None:
    """Relabel the images of fold 0 after training: only what is transferred from them may change."""
    work = make_work(tmp_path / "work", FOLDS, recipe=RECIPE)
    train(work)
    predict(work)
    before = _transferred(work)
    scored = read_probabilities(work.root / "classify" / "cells" / "probabilities.parquet", HPA28)
    pd.testing.assert_frame_equal(before.drop(columns=P), scored.drop(columns=P))
    images = read_images(work.images)
    fold_0 = {f"train{i}" for i, fold in enumerate(FOLDS) if fold == 0}
    images["target"] = [(9,) if i in fold_0 else t for i, t in zip(images["image_id"], images["target"], strict=True)]
    write_images(work.images, images, HPA28, work.data.channels)
    for fold in (0, 1):  # the models stay as they are
        record = work.root / "classify" / "cells" / f"fold-{fold}" / "run.json"
        record.unlink()
    predict(work, overwrite=True)
    after = _transferred(work)
    of_model_0 = (before["fold"] == 0).to_numpy()
    pd.testing.assert_frame_equal(before[of_model_0], after[of_model_0])
    assert (after.loc[of_model_0, P[9]] == 0).all()
    assert (after.loc[~of_model_0, P[9]] > 0).any()


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("dim", [4, 0])
def test_neighbours_are_those_of_vectors_computed_for_them_alone(
    tmp_path: Path, dim: int, embeddings: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors of scored crops come from the run that scores them, and stay only if they were asked for."""
    run_over: list[list[int]] = []

    def spied(network: Network, source: CropSource, rows: NDArray[np.int64], *others: Any) -> Iterator[CropOutputs]:
        run_over.append(rows.tolist())
        return predict_batches(network, source, rows, *others)

    monkeypatch.setattr("classify.inference.transfer.predict_batches", spied)
    recipe = {"classify": RECIPE["classify"] | {"embedding_dim": dim}}
    work = make_work(tmp_path / "work", FOLDS, recipe=recipe)
    train(work)
    predict(work, embeddings=embeddings)
    found = _transferred(work)
    store, labels = read_labelled_crops(work, "cells", work.data)
    assert run_over == [labels.fold_crops(store, fold).training.tolist() for fold in (0, 1)]  # not over scored crops
    for fold in (0, 1):
        own, place = work.root / "classify" / "cells" / "predict" / f"fold-{fold}", tmp_path / f"alone-{fold}"
        names = ("features.npy", "embedding.npy", "keys.parquet")
        expected = {n for n in names if embeddings and (dim or n != "embedding.npy")}
        assert {path.name for path in own.iterdir()} & set(names) == expected
        checkpoint = Checkpoint.load(own.parents[1] / f"fold-{fold}" / "checkpoint.pt")
        scored, device = ScoredCrops(store, labels, HPA28), torch.device("cpu")
        table = predict_fold(checkpoint, scored, place, device)
        references = References.load(references_path(work, "cells", fold))
        alone = transfer_fold(checkpoint, scored, references, table, place, device)
        of_fold = found[found["fold"] == fold].sort_values(["image_id", "cell_label"])
        alone = alone.sort_values(["image_id", "cell_label"])
        np.testing.assert_allclose(of_fold[P], alone[P], atol=1e-5)


@pytest.mark.usefixtures("tiny_backbone")
def test_the_labels_of_cells_are_transferred_where_models_are_trained_on_them(tmp_path: Path) -> None:
    """A cell that lost the labels of its image has none to give, to the model of that fold alone."""
    recipe = {"classify": RECIPE["classify"] | {"labels": "cells"}}
    work = make_work(tmp_path / "work", FOLDS, recipe=recipe)
    store, labels = read_labelled_crops(work, "cells", work.data)
    lost = labels.fold_crops(store, 0).training[:3]
    rows = {"image_id": labels.image_ids[lost], "cell_label": labels.cell_labels[lost], "fold": 0, "target": [()] * 3}
    write_cell_targets(work.root / "cell_labels.parquet", pd.DataFrame(rows))
    train(work)
    predict(work)
    for fold in (0, 1):
        training = labels.fold_crops(store, fold).training
        expected = labels.targets[training].copy()
        if fold == 0:
            assert expected[:3].any(axis=1).all()
            expected[:3] = False
        references = References.load(references_path(work, "cells", fold))
        np.testing.assert_array_equal(references.targets, expected)


@pytest.mark.usefixtures("tiny_backbone")
def test_without_the_key_there_are_no_such_scores(tmp_path: Path) -> None:
    recipe = {"classify": {**RECIPE["classify"], "nearest_crops": 0}}
    work = make_work(tmp_path / "work", FOLDS, recipe=recipe)
    train(work)
    predict(work)
    assert not (work.root / "classify" / "cells" / "neighbours" / "probabilities.parquet").exists()


@pytest.mark.usefixtures("tiny_backbone")
def test_arcface_trains_the_whole_network_to_tell_antibodies_apart(tmp_path: Path) -> None:
    """Images out of fold lie nearer to those of their antibody, and the backbone is not what it is without ArcFace."""
    gaps, stems = [], []
    for weight in (0.0, 1.0):
        keys = {"epochs": 8, "batch_size": 8, "learning_rate": 0.01, "phases": [], "trainable": "all"}
        keys |= {"embedding_dim": 8, "triplet_weight": 0.0, "arcface_weight": weight, "arcface_scale": 8.0}
        work = make_work(tmp_path / str(weight), [i // 3 % 2 for i in range(18)], recipe={"classify": keys})
        images = read_images(work.images)
        images["antibody"] = pd.Series([f"antibody {i % 3}" for i in range(len(images))], dtype=object)
        write_images(work.images, images, HPA28, work.data.channels)
        assert train(work) == 0
        assert predict(work, embeddings=True) == 0
        folder = work.root / "classify" / "cells" / "predict" / "fold-0"
        found = pd.read_parquet(folder / "keys.parquet").merge(images[["image_id", "antibody"]], on="image_id")
        vectors = np.load(folder / "embedding.npy")
        similar = vectors @ vectors.T
        same = found["antibody"].to_numpy()[:, None] == found["antibody"].to_numpy()
        gaps.append(float(similar[same].mean() - similar[~same].mean()))
        state = Checkpoint.load(work.root / "classify" / "cells" / "fold-0" / "checkpoint.pt").state_dict
        stems.append(state["backbone.conv1.weight"])
    assert gaps[1] > max(gaps[0], 0) + 0.2
    assert not torch.equal(*stems), "its gradient reaches the first convolution"

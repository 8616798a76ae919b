from pathlib import Path

import numpy as np
import pandas as pd
import pandera.errors
import pytest

from hpa.config import DataSection
from hpa.errors import UserError
from hpa.layouts.hpa_v18 import parse_id
from hpa.splitting.folds import assign_folds, read_folds, split_images, stratified_subset, write_folds
from hpa.splitting.groups import join_groups
from hpa.splitting.missing_classes import find_gaps
from hpa.vocabulary import HPA28


def test_groups_stay_together_and_classes_are_balanced() -> None:
    draw = np.random.default_rng(1)
    groups = np.repeat(np.arange(300), draw.integers(1, 9, 300)).astype(np.int32)
    of_group = draw.random((300, 10)) < np.linspace(0.05, 0.5, 10)
    targets = of_group[groups]
    folds = assign_folds(targets, groups, 5, seed=0)
    assert all(len(np.unique(folds[groups == group])) == 1 for group in range(300))
    shares = np.array([targets[folds == fold].sum(axis=0) for fold in range(5)])
    assert (np.abs(shares / shares.mean(axis=0) - 1) < 0.2).all()
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() < 0.05 * sizes.mean()
    np.testing.assert_array_equal(folds, assign_folds(targets, groups, 5, seed=0))


def test_too_few_groups_raise() -> None:
    with pytest.raises(UserError, match=r"folds \(5\), found 2"):
        assign_folds(np.ones((4, 2), bool), np.array([0, 0, 1, 1], np.int32), 5, seed=0)


def test_class_in_k_groups_is_in_every_fold() -> None:
    targets = np.zeros((40, 3), bool)
    targets[:, 0] = True
    targets[:4, 1] = True
    folds = assign_folds(targets, np.arange(40, dtype=np.int32), 4, seed=3)
    assert sorted(folds[:4]) == [0, 1, 2, 3]


def test_group_that_spans_folds_is_rejected(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "image_id": ["a", "b"],
            "group": np.array([0, 0], "int32"),
            "fold": np.array([0, 1], "int16"),
        }
    )
    with pytest.raises(pandera.errors.SchemaError, match="a group spans folds"):
        write_folds(tmp_path / "folds.parquet", table)
    good = table.assign(fold=np.array([1, 1], "int16"))
    write_folds(tmp_path / "folds.parquet", good)
    pd.testing.assert_frame_equal(read_folds(tmp_path / "folds.parquet"), good.assign(scored=True))
    with pytest.raises(pandera.errors.SchemaError, match="an image in no fold is scored"):
        write_folds(tmp_path / "folds.parquet", good.assign(fold=np.array([-1, -1], "int16"), scored=True))
    with pytest.raises(UserError, match="found no such file"):
        read_folds(tmp_path / "none.parquet")


@pytest.mark.real_data("kaggle2018", "hpa_v18")
def test_folds_of_the_real_label_tables(real_data: Path) -> None:
    kaggle = pd.read_csv(real_data / "kaggle2018" / "train.csv")
    external = pd.read_csv(real_data / "hpa_v18" / "HPAv18RBGY_wodpl.csv")
    parts = [parse_id(image_id) for image_id in external["Id"]]
    antibodies = [None] * len(kaggle) + [part.antibody for part in parts]
    wells = [None] * len(kaggle) + [part.well for part in parts]
    targets = HPA28.multi_hot(HPA28.parse(text) for text in [*kaggle["Target"], *external["Target"]])
    groups = join_groups(len(targets), [antibodies, wells])
    assert groups.max() + 1 == 31_072 + 12_815
    folds = assign_folds(targets, groups, 5, seed=0)
    assert (pd.Series(folds).groupby(groups).nunique() == 1).all()
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() < 0.001 * sizes.mean()
    shares = np.array([targets[folds == fold].sum(axis=0) for fold in range(5)])
    off = np.abs(shares / shares.mean(axis=0) - 1).max(axis=0)
    n_groups = np.array([len(np.unique(groups[targets[:, c]])) for c in range(28)])
    assert (off < np.where(n_groups < 60, 0.1, 0.03)).all()


def _world(seed: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw label sets with rare classes that occur together, in groups of uneven size."""
    draw = np.random.default_rng(seed)
    groups = np.repeat(np.arange(60), draw.integers(1, 12, 60)).astype(np.int32)
    of_group = draw.random((60, 12)) < np.geomspace(0.03, 0.4, 12)
    of_group[:k, :3] = np.eye(k, 3, dtype=bool) | (draw.random((k, 3)) < 0.7)
    return of_group[groups], groups


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("k", [3, 5])
def test_class_in_enough_groups_is_in_every_fold(seed: int, k: int) -> None:
    targets, groups = _world(seed, k)
    folds = assign_folds(targets, groups, k, seed)
    assert all(len(np.unique(folds[groups == group])) == 1 for group in range(60))
    for c in range(targets.shape[1]):
        if len(np.unique(groups[targets[:, c]])) >= k:
            assert set(folds[targets[:, c]]) == set(range(k))


def test_filling_stops_when_gaps_cannot_be_filled() -> None:
    """Three classes in two of three groups each: two folds cannot hold all; the rest of the images is still split."""
    of_group = np.zeros((20, 4), bool)
    of_group[[0, 1], 0] = of_group[[0, 2], 1] = of_group[[1, 2], 2] = True
    of_group[:, 3] = True
    folds = assign_folds(of_group, np.arange(20, dtype=np.int32), 2, seed=0)
    assert len(find_gaps(folds, of_group, np.arange(4), 2)) == 1
    assert set(np.bincount(folds)) == {10}


def _split(section: DataSection, train_only: np.ndarray) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    targets, groups = _world(1, 5)
    return split_images(targets, groups, train_only[groups], section), targets, groups


def test_train_only_groups_are_in_no_fold_and_never_scored() -> None:
    train_only = np.arange(60) % 3 == 0
    split, _, groups = _split(DataSection(), train_only)
    assert (split["fold"] == -1).tolist() == train_only[groups].tolist()
    assert (split["scored"] == ~train_only[groups]).all()


def test_train_only_image_joins_the_fold_of_its_scored_siblings() -> None:
    """If every model trained on it, each would be scored on siblings of a training image."""
    targets, groups = _world(2, 5)
    train_only = np.zeros(len(groups), bool)
    train_only[np.unique(groups, return_index=True)[1][:30]] = True  # the first image of thirty groups
    split = split_images(targets, groups, train_only, DataSection())
    alone = ~np.isin(groups, groups[~train_only])
    assert (split["fold"] == -1).tolist() == alone.tolist()
    assert (split["scored"] == ~train_only).all()
    assert (split.groupby("group")["fold"].nunique() == 1).all()


@pytest.mark.parametrize("how", [DataSection(folds=4), DataSection(split="hold-out", held_out=0.25)])
def test_only_scored_images_count_when_folds_are_balanced(how: DataSection) -> None:
    """Every fourth group has nine train-only siblings of its one scored image: folds are even without them."""
    groups = np.repeat(np.arange(80), np.where(np.arange(80) % 4 == 0, 10, 1)).astype(np.int32)
    first = np.unique(groups, return_index=True)[1]
    train_only = np.ones(len(groups), bool)
    train_only[first] = False
    targets = np.zeros((len(groups), 2), bool)
    targets[first, np.arange(80) // 4 % 2] = True
    targets[train_only, 0] = True
    split = split_images(targets, groups, train_only, how)
    scored = split[split["scored"]]
    sizes = scored["fold"].value_counts()
    assert sizes.to_dict() == dict.fromkeys(range(4), 20) if how.split == "folds" else sizes[0] == 20
    assert targets[scored.index[scored["fold"] == 0], 0].sum() == 10


def test_hold_out_has_its_share_of_every_class_and_keeps_groups_together() -> None:
    split, targets, groups = _split(DataSection(split="hold-out", held_out=0.3), np.zeros(60, bool))
    held = (split["fold"] == 0).to_numpy()
    assert set(split["fold"]) == {0, -1}
    assert held.mean() == pytest.approx(0.3, abs=0.02)
    frequent = targets.sum(axis=0) > 60
    assert np.allclose((targets[held].sum(axis=0) / targets.sum(axis=0))[frequent], 0.3, atol=0.1)
    assert all(len(np.unique(held[groups == group])) == 1 for group in range(60))


def test_random_split_separates_images_of_a_group() -> None:
    split, _, groups = _split(DataSection(split="random", held_out=0.5), np.zeros(60, bool))
    assert split["group"].is_unique
    assert (pd.Series(split["fold"]).groupby(groups).nunique() > 1).sum() > 20
    assert split["scored"].mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.75])
def test_subset_has_its_share_of_every_class(share: float) -> None:
    targets = np.random.default_rng(0).random((2000, 6)) < np.linspace(0.02, 0.5, 6)
    taken = stratified_subset(targets, np.arange(2000, dtype=np.int32), share, seed=0)
    assert abs(taken.sum() - 2000 * share) <= 2
    assert (np.abs(targets[taken].sum(axis=0) - targets.sum(axis=0) * share) <= 2).all()


def test_subset_of_few_groups() -> None:
    targets, groups = np.eye(3, dtype=bool), np.arange(3, dtype=np.int32)
    assert stratified_subset(targets, groups, 0.2, seed=0).sum() == 1
    assert stratified_subset(targets, groups, 0.9, seed=0).sum() == 2
    with pytest.raises(UserError, match=r"folds \(2\), found 1"):
        stratified_subset(targets, np.zeros(3, np.int32), 0.2, seed=0)

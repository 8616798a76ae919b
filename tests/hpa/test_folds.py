import os
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.errors
import pytest

from hpa.errors import UserError
from hpa.folds import antibody_groups, assign_folds, read_folds, write_folds
from hpa.vocabulary import HPA28


def test_groups_are_antibodies_or_single_images() -> None:
    groups = antibody_groups(["A", None, "B", "A", None])
    assert groups.tolist() == [0, 1, 2, 0, 3]


def test_groups_stay_together_and_classes_are_shared_out() -> None:
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


def test_too_few_groups() -> None:
    with pytest.raises(UserError, match=r"folds \(5\), found 2"):
        assign_folds(np.ones((4, 2), bool), np.array([0, 0, 1, 1], np.int32), 5, seed=0)


def test_a_class_in_as_many_groups_as_folds_is_in_every_fold() -> None:
    targets = np.zeros((40, 3), bool)
    targets[:, 0] = True
    targets[:4, 1] = True
    folds = assign_folds(targets, np.arange(40, dtype=np.int32), 4, seed=3)
    assert sorted(folds[:4]) == [0, 1, 2, 3]


def test_a_group_that_spans_folds_is_refused(tmp_path: Path) -> None:
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
    pd.testing.assert_frame_equal(read_folds(tmp_path / "folds.parquet"), good)
    with pytest.raises(UserError, match="found no such file"):
        read_folds(tmp_path / "none.parquet")


def test_on_the_real_label_tables() -> None:
    real = Path(os.environ.get("CELLWISE_REAL_DATA", "../shared/real"))
    if not real.exists():
        pytest.skip(f"no real data at {real}")
    kaggle = pd.read_csv(real / "kaggle2018" / "train.csv")
    external = pd.read_csv(real / "hpa_v18" / "HPAv18RBGY_wodpl.csv")
    antibodies = [None] * len(kaggle) + [image_id.split("_")[0] for image_id in external["Id"]]
    targets = HPA28.multi_hot(HPA28.parse(text) for text in [*kaggle["Target"], *external["Target"]])
    groups = antibody_groups(antibodies)
    folds = assign_folds(targets, groups, 5, seed=0)
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() < 0.001 * sizes.mean()
    shares = np.array([targets[folds == fold].sum(axis=0) for fold in range(5)])
    off = np.abs(shares / shares.mean(axis=0) - 1).max(axis=0)
    n_groups = np.array([len(np.unique(groups[targets[:, c]])) for c in range(28)])
    assert (off < np.where(n_groups < 60, 0.1, 0.03)).all()

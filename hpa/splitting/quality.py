"""Quality of a split into folds, compared with two common ones. The only module that uses iterative-stratification."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class SplitQuality(NamedTuple):
    """Measurements of a split."""

    name: str
    groups_split: int
    """Number of groups with images in several folds; their labels leak."""
    size_spread: float
    """Size of the largest fold minus that of the smallest, relative to the mean size."""
    worst_share: float
    """Largest relative deviation of a fold's number of positives of a class from the mean over the folds."""
    missing: int
    """Number of pairs of a fold and a class where the class has positives, but none in that fold."""


def measure_split(
    name: str, folds: NDArray[np.integer], targets: NDArray[np.bool_], groups: NDArray[np.int32]
) -> SplitQuality:
    """Measure the quality of a split.

    Parameters
    ----------
    name
        Name of the split, for the report.
    folds
        Fold of each image, numbered from 0, shape (N,).
    targets
        Multi-hot targets, shape (N, K).
    groups
        Group of each image, shape (N,).
    """
    sizes = np.bincount(folds)
    positives = np.array([targets[folds == fold].sum(axis=0) for fold in range(len(sizes))])
    occurring = positives[:, positives.sum(axis=0) > 0]
    off = np.abs(occurring / occurring.mean(axis=0) - 1)
    return SplitQuality(
        name,
        int((pd.Series(folds).groupby(groups).nunique() > 1).sum()),
        float((sizes.max() - sizes.min()) / sizes.mean()),
        float(off.max(initial=0)),
        int((occurring == 0).sum()),
    )


def measure_image_splits(
    targets: NDArray[np.bool_], groups: NDArray[np.int32], k: int, seed: int
) -> list[SplitQuality]:
    """Measure two splits by image: KFold (scikit-learn) and MultilabelStratifiedKFold (iterative-stratification).

    Parameters
    ----------
    targets, groups
        As for `measure_split`.
    k
        Number of folds.
    seed
        Seed of both shuffles.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
    from sklearn.model_selection import KFold

    measured = []
    for splitter in (KFold, MultilabelStratifiedKFold):
        folds = np.empty(len(targets), dtype=np.int16)
        for fold, (_, held) in enumerate(
            splitter(n_splits=k, shuffle=True, random_state=seed).split(targets, targets * 1)
        ):
            folds[held] = fold
        measured.append(measure_split(splitter.__name__, folds, targets, groups))
    return measured

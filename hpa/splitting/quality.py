"""How good a split into folds is, beside the two that people use. The one place for iterative-stratification."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class SplitQuality(NamedTuple):
    """What is measured of a split."""

    name: str
    torn: int
    """Groups with images in several folds: their labels leak."""
    size_spread: float
    """Largest fold less smallest, as a share of the mean."""
    worst_share: float
    """How far a fold's positives of a class are from the mean over the folds, as a share of it; the worst class."""
    missing: int
    """Pairs of a fold and a class that has a positive somewhere, and none in that fold."""


def quality(
    name: str, folds: NDArray[np.integer], targets: NDArray[np.bool_], groups: NDArray[np.int32]
) -> SplitQuality:
    """Measure a split.

    Parameters
    ----------
    name
        What it is called.
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


def other_splits(targets: NDArray[np.bool_], groups: NDArray[np.int32], k: int, seed: int) -> list[SplitQuality]:
    """Measure scikit-learn's KFold and iterative-stratification's MultilabelStratifiedKFold, both by image.

    Parameters
    ----------
    targets, groups
        As for `quality`.
    k
        Number of folds.
    seed
        Of both shufflings.
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
        measured.append(quality(splitter.__name__, folds, targets, groups))
    return measured

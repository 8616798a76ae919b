"""Groups of images that must not be torn apart, and folds that keep them together.

``folds.parquet`` has one row a train image with a known target: image_id, group (a number), fold (-1 = trained on,
never scored). A group never spans folds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

from hpa.errors import UserError
from hpa.files import write_parquet

_SCHEMA = pa.DataFrameSchema(
    {
        "image_id": pa.Column(str, unique=True),
        "group": pa.Column("int32", pa.Check.ge(0)),
        "fold": pa.Column("int16", pa.Check.ge(-1)),
    },
    checks=pa.Check(
        lambda table: bool((table.groupby("group")["fold"].nunique() <= 1).all()), error="a group spans folds"
    ),
    strict=True,
    ordered=True,
)


def antibody_groups(antibodies: Sequence[str | None]) -> NDArray[np.int32]:
    """Number the groups of images of one antibody; an image of unknown antibody is a group of its own.

    Parameters
    ----------
    antibodies
        The antibody of each of N images, None where unknown.

    Returns
    -------
    ndarray
        Shape (N,), int32, numbered by first appearance.
    """
    keys = [("antibody", name) if isinstance(name, str) else ("image", i) for i, name in enumerate(antibodies)]
    return pd.factorize(pd.Series(keys, dtype=object))[0].astype(np.int32)


def assign_folds(targets: NDArray[np.bool_], groups: NDArray[np.int32], k: int, seed: int) -> NDArray[np.int16]:
    """Split images into k folds that keep groups together and share out every class evenly.

    Greedy, after the iterative stratification of Sechidis et al. (2011), with groups in place of samples: the groups
    of the rarest class first, of those the largest first, each to the fold that then lies nearest to an even share of
    every class. Nearness is the chi-squared distance, so that rare classes count as much as frequent ones.

    Parameters
    ----------
    targets
        Multi-hot targets, shape (N, K).
    groups
        Group of each image, shape (N,), numbered from 0.
    k
        Number of folds.
    seed
        Decides between equals.

    Returns
    -------
    ndarray
        Fold of each image, shape (N,).

    Raises
    ------
    UserError
        If there are fewer groups than folds.
    """
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    if n_groups < k:
        raise UserError(f"expected at least as many groups of images as folds ({k}), found {n_groups}")
    # A last column counts the images themselves, so that images without any label are shared out too.
    counts = np.zeros((n_groups, targets.shape[1] + 1))
    np.add.at(counts, groups, np.column_stack([targets, np.ones(len(targets))]))
    tie = np.random.default_rng(seed).permutation(n_groups)
    rarity = np.argsort(np.argsort((counts > 0).sum(axis=0), kind="stable"))
    rarest = np.where(counts > 0, rarity, counts.shape[1]).min(axis=1)
    order = np.lexsort((tie, -counts.sum(axis=1), rarest))
    # Adding g to a fold that holds a, where t would be even, changes sum((a - t)^2 / t) by 2 g.a/t + what is the same
    # for every fold.
    weights = 1 / np.maximum(counts.sum(axis=0), 1)
    held = np.zeros((k, counts.shape[1]))
    fold_of = np.empty(n_groups, dtype=np.int16)
    for group in order:
        fold = int(np.argmin(held @ (counts[group] * weights)))
        fold_of[group] = fold
        held[fold] += counts[group]
    return fold_of[groups]


def write_folds(path: Path, folds: pd.DataFrame) -> None:
    """Check the table of folds and write it.

    Raises
    ------
    pandera.errors.SchemaError
        If it breaks the contract.
    """
    write_parquet(path, _SCHEMA.validate(folds))


def read_folds(path: Path) -> pd.DataFrame:
    """Read the table of folds.

    Raises
    ------
    UserError
        If there is none.
    """
    if not path.exists():
        raise UserError(f"expected {path} (made by `python -m pipeline init`), found no such file")
    return pd.read_parquet(path)

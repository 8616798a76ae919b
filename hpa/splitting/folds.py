"""Folds that distribute every class evenly and keep groups of images together (`hpa.splitting.groups`).

``folds.parquet`` has one row per train image with at least one known class: image_id, group (a number), fold (-1: every
model trains on it), scored (false for an image that is in a fold only because images of its group are: no model trains
on it while they are scored, and it is not scored itself). A group never spans folds.
"""

from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

from hpa.config import DataSection
from hpa.errors import UserError
from hpa.splitting.missing_classes import fill_missing_classes
from hpa.work.files import check_table, read_parquet, write_parquet

_MAX_PARTS: Final = 2000
"""Largest number of folds that `stratified_subset` divides the images into."""

TRAINED_ON: Final = -1
"""Fold number of images that every model trains on and none scores."""

_SCHEMA = pa.DataFrameSchema(
    {
        "image_id": pa.Column(str, unique=True),
        "group": pa.Column("int32", pa.Check.ge(0)),
        "fold": pa.Column("int16", pa.Check.ge(TRAINED_ON)),
        "scored": pa.Column(bool),
    },
    checks=[
        pa.Check(
            lambda table: bool((table.groupby("group")["fold"].nunique() <= 1).all()), error="a group spans folds"
        ),
        pa.Check(
            lambda table: bool((~table["scored"] | (table["fold"] >= 0)).all()), error="an image in no fold is scored"
        ),
    ],
    strict=True,
    ordered=True,
)


def split_images(
    targets: NDArray[np.bool_], groups: NDArray[np.int32], train_only: NDArray[np.bool_], section: DataSection
) -> pd.DataFrame:
    """Split train images as configured in the recipe.

    Parameters
    ----------
    targets
        Multi-hot targets, shape (N, K).
    groups
        Group of each image, shape (N,), numbered from 0.
    train_only
        Images that are never scored, shape (N,). If their group contains scored images they go into the same fold, so
        that no model is scored on a sibling of its training images.
    section
        The keys split, folds, held_out and seed are read.

    Returns
    -------
    DataFrame
        N rows with the columns group, fold and scored.

    Raises
    ------
    UserError
        If there are fewer groups than folds.
    """
    if section.split == "random":
        # Older systems drew images one by one, so each image is a group of its own here.
        groups = np.arange(len(targets), dtype=np.int32)
        drawn = np.random.default_rng(section.seed).random(len(targets)) < section.held_out
        folds = np.where(drawn & ~train_only, 0, TRAINED_ON).astype(np.int16)
    else:
        folds = np.full(len(targets), TRAINED_ON, dtype=np.int16)
        can_score = np.isin(groups, groups[~train_only])
        if can_score.any():
            # Train-only images follow their group; only scored images count when the folds are balanced.
            weights = np.where(train_only, 0, 1)[can_score]
            numbers = pd.factorize(groups[can_score])[0].astype(np.int32)
            split: tuple[NDArray[np.bool_], NDArray[np.int32]] = (targets[can_score], numbers)
            if section.split == "hold-out":
                held = stratified_subset(*split, section.held_out, section.seed, weights)
                folds[can_score] = np.where(held, 0, TRAINED_ON)
            else:
                folds[can_score] = assign_folds(*split, section.folds, section.seed, weights)
    scored = (folds >= 0) & ~train_only
    return pd.DataFrame({"group": groups, "fold": folds, "scored": scored})


def assign_folds(
    targets: NDArray[np.bool_],
    groups: NDArray[np.int32],
    k: int,
    seed: int,
    weights: NDArray[np.int64] | None = None,
) -> NDArray[np.int16]:
    """Split images into k folds that keep groups together and distribute every class evenly.

    A greedy pass after the iterative stratification of Sechidis et al. (2011), with groups in place of samples, assigns
    the groups of the rarest class first and among those the largest first, each to the fold that is then nearest to an
    even share of every class. The distance is chi-squared, so that rare classes count as much as frequent ones. A
    second pass (`hpa.splitting.missing_classes`) fills the remaining gaps, so that a class that occurs in at least as
    many groups as there are folds is in every fold.

    Parameters
    ----------
    targets
        Multi-hot targets, shape (N, K).
    groups
        Group of each image, shape (N,), numbered from 0.
    k
        Number of folds.
    seed
        Seed for breaking ties.
    weights
        Weight of each image, shape (N,); None weights all images equally.

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
    # The last column counts the images themselves, so that images without labels are distributed evenly too.
    counts = np.zeros((n_groups, targets.shape[1] + 1))
    ones = np.ones(len(targets)) if weights is None else weights
    np.add.at(counts, groups, np.column_stack([targets, np.ones(len(targets))]) * ones[:, None])
    tie = np.random.default_rng(seed).permutation(n_groups)
    rarity = np.argsort(np.argsort((counts > 0).sum(axis=0), kind="stable"))
    rarest = np.where(counts > 0, rarity, counts.shape[1]).min(axis=1)
    order = np.lexsort((tie, -counts.sum(axis=1), rarest))
    # Adding g to a fold with counts a and even share t changes sum((a - t)^2 / t) by 2 g.a/t plus a term that is the
    # same for every fold.
    even = np.maximum(counts.sum(axis=0) / k, 1e-9)
    held = np.zeros((k, counts.shape[1]))
    fold_of = np.empty(n_groups, dtype=np.int16)
    for group in order:
        added = counts[group]
        fold = int(np.argmin(held @ (added / even)))
        fold_of[group] = fold
        held[fold] += added
    fill_missing_classes(fold_of, counts, even, k, seed)
    return fold_of[groups]


def stratified_subset(
    targets: NDArray[np.bool_],
    groups: NDArray[np.int32],
    share: float,
    seed: int,
    weights: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """Select a share of the images, and about that share of every class, keeping groups together.

    The images are split into even folds (`assign_folds`), in a number of which some make up about that share, and those
    folds are selected.

    Parameters
    ----------
    targets, groups, seed, weights
        As for `assign_folds`.
    share
        Share to select, between 0 and 1.

    Returns
    -------
    ndarray
        Shape (N,), true for selected images.

    Raises
    ------
    UserError
        If there is only one group.
    """
    max_parts = max(2, min(_MAX_PARTS, int(groups.max()) + 1 if len(groups) else 0))
    ratio = Fraction(share).limit_denominator(max_parts)
    ratio = min(max(ratio, Fraction(1, max_parts)), 1 - Fraction(1, max_parts))  # neither nothing nor everything
    parts = assign_folds(targets, groups, ratio.denominator, seed, weights)
    selected: NDArray[np.bool_] = parts < ratio.numerator
    return selected


def write_folds(path: Path, folds: pd.DataFrame) -> None:
    """Validate the table of folds and write it; without a column scored, every image in a fold is scored.

    Raises
    ------
    pandera.errors.SchemaError
        If the table violates the schema.
    """
    if "scored" not in folds:
        folds = folds.assign(scored=folds["fold"] >= 0)
    write_parquet(path, _SCHEMA.validate(folds))


def read_folds(path: Path) -> pd.DataFrame:
    """Read the table of folds.

    Raises
    ------
    UserError
        If there is none, or it violates the schema.
    """
    return check_table(read_parquet(path, "python -m pipeline init"), _SCHEMA, path)

"""Pool the probabilities of the crops of an image, by a formula or as the classifier was trained to be pooled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.config import AggregateSection, Formula
from classify.trained_pooling import TrainedPooling, read_pooling
from crops.store import crop_weights
from hpa.errors import UserError
from hpa.work.files import read_parquet

Pool = Callable[[NDArray[np.float32], AggregateSection], NDArray[np.float32]]


def pool_bags(
    probabilities: NDArray[np.float32],
    first_rows: NDArray[np.intp],
    kind: Formula,
    section: AggregateSection,
    weights: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Pool each bag, the crops of one image, by a formula.

    Parameters
    ----------
    probabilities
        Shape (n, K): the crops, those of one bag in consecutive rows.
    first_rows
        Shape (m,): the first row of each bag, ascending from 0; no bag is empty.
    kind
        The formula.
    section
        Settings of the formulas: `top_k`, `quantile`, `sharpness`.
    weights
        Shape (n,), above 0, the weight of each crop; None weighs all alike. Means become weighted means; for the other
        formulas, the probability of a crop is multiplied by its weight.

    Returns
    -------
    ndarray
        Shape (m, K), float32.

    Examples
    --------
    >>> p = np.array([[0.25], [0.75], [0.5]], dtype=np.float32)
    >>> pool_bags(p, np.array([0, 2]), "mean", AggregateSection())
    array([[0.5],
           [0.5]], dtype=float32)
    """
    if not len(first_rows):
        return np.empty((0, probabilities.shape[1]), dtype=np.float32)
    weighted = probabilities if weights is None else weights[:, None] * probabilities
    if kind == "max":
        return np.maximum.reduceat(weighted, first_rows, axis=0)
    sizes = np.diff(np.append(first_rows, len(probabilities)))
    if kind == "mean":
        total_weight = sizes if weights is None else np.add.reduceat(weights, first_rows)
        return np.divide(np.add.reduceat(weighted, first_rows, axis=0), total_weight[:, None], dtype=np.float32)
    if kind == "linear-softmax":
        total = np.add.reduceat(weighted, first_rows, axis=0)
        squares = np.add.reduceat(weighted * probabilities, first_rows, axis=0)
        return np.divide(squares, total, out=np.zeros_like(total), where=total > 0)
    if kind == "log-sum-exp" and weights is not None:
        # A weight is a shift: w exp(r p) = exp(r (p + log(w) / r)), with weights normalised to a mean of 1.
        shares = weights * np.repeat(sizes / np.add.reduceat(weights, first_rows), sizes)
        weighted = probabilities + np.log(shares, dtype=np.float32)[:, None] / np.float32(section.sharpness)
    pooled = np.empty((len(first_rows), probabilities.shape[1]), dtype=np.float32)
    for size in np.unique(sizes):  # bags of equal size form one dense array
        bags = np.flatnonzero(sizes == size)
        rows = first_rows[bags, None] + np.arange(size)
        pooled[bags] = _DENSE[kind](weighted[rows], section)
    return pooled


def _top_k(bags: NDArray[np.float32], section: AggregateSection) -> NDArray[np.float32]:
    k = min(section.top_k, bags.shape[1])
    top: NDArray[np.float32] = np.partition(bags, bags.shape[1] - k, axis=1)[:, -k:].mean(axis=1)
    return top


def _quantile(bags: NDArray[np.float32], section: AggregateSection) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.quantile(bags, section.quantile, axis=1)
    return values


def _log_sum_exp(bags: NDArray[np.float32], section: AggregateSection) -> NDArray[np.float32]:
    # Relative to the highest value, so that nothing overflows: log-mean-exp lies between the mean and the maximum.
    highest = bags.max(axis=1)
    mean = np.exp(section.sharpness * (bags - highest[:, None])).mean(axis=1)
    smooth: NDArray[np.float32] = highest + np.log(mean) / np.float32(section.sharpness)
    return np.clip(smooth, 0, 1)


def _noisy_or(bags: NDArray[np.float32], section: AggregateSection) -> NDArray[np.float32]:
    missed: NDArray[np.float32] = np.prod(1 - bags, axis=1)
    return 1 - missed


_DENSE: Final[Mapping[Formula, Pool]] = {
    "top-k": _top_k,
    "quantile": _quantile,
    "log-sum-exp": _log_sum_exp,
    "noisy-or": _noisy_or,
}
"""Functions that pool bags of equal size: shape (m, n, K) to (m, K)."""


@dataclass(frozen=True)
class LearnedPooling:
    """What is needed to pool a run as its models were trained to be pooled.

    Parameters
    ----------
    trained
        Content of ``pooling.json``, written by the classify stage.
    completeness
        Completeness of the crops by image_id and cell_label; None if all crops have the same weight.
    """

    trained: TrainedPooling
    completeness: pd.Series | None

    def weights(self, image_ids: NDArray[np.object_], cell_labels: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """Return the weights of crops, shape (n,); a crop missing from the crop table counts as complete."""
        if self.completeness is None:
            return None
        found = self.completeness.reindex(pd.MultiIndex.from_arrays([image_ids, cell_labels])).fillna(1.0)
        return crop_weights(found.to_numpy(np.float32), self.trained.completeness_power)


def read_learned_pooling(pooling: Path, crops: Path) -> LearnedPooling:
    """Read how the models of a run were trained to be pooled.

    Parameters
    ----------
    pooling
        ``classify/<window>/pooling.json``.
    crops
        ``crops/<window>/crops.parquet``, read only if crops are weighted by their completeness.

    Raises
    ------
    UserError
        If the models were not trained to be pooled.
    """
    trained = read_pooling(pooling)
    if trained.pooling not in (*get_args(Formula), "auto", "attention"):
        raise UserError(f"expected a known pooling in {pooling}, found {trained.pooling!r}")
    if not trained.completeness_power:
        return LearnedPooling(trained, None)
    table = read_parquet(crops, "python -m crops run", ["image_id", "cell_label", "completeness"])
    return LearnedPooling(trained, table.set_index(["image_id", "cell_label"])["completeness"])


def pool_as_trained(
    probabilities: NDArray[np.float32],
    first_rows: NDArray[np.intp],
    trained: TrainedPooling,
    folds: Sequence[int] | NDArray[np.integer],
    weights: NDArray[np.float32] | None = None,
    attention: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Pool each bag with the formula, sharpness or attention that its model was trained with.

    Parameters
    ----------
    probabilities, first_rows, weights
        As for `pool_bags`.
    trained
        Content of ``pooling.json``.
    folds
        Shape (m,): the fold whose model scored each bag.
    attention
        Shape (n,): the attention score of each crop.

    Returns
    -------
    ndarray
        Shape (m, K), float32.

    Raises
    ------
    UserError
        If the learned sharpness or attention is missing.
    """
    sizes = np.diff(np.append(first_rows, len(probabilities)))
    if trained.pooling == "auto":
        if unknown := set(map(int, folds)) - trained.alpha.keys():
            raise UserError(f"expected the sharpness that the model of fold {min(unknown)} learned, found none")
        sharpness = np.array([trained.alpha[int(fold)] for fold in folds], dtype=np.float32)
        scores = np.repeat(sharpness, sizes, axis=0) * probabilities
    elif trained.pooling == "attention":
        if attention is None:
            raise UserError("expected probabilities with a column attention, as the models were trained, found none")
        scores = attention[:, None]
    else:
        section = AggregateSection(top_k=trained.top_k, sharpness=trained.sharpness)
        return pool_bags(probabilities, first_rows, cast(Formula, trained.pooling), section, weights)
    highest = np.repeat(np.maximum.reduceat(scores, first_rows, axis=0), sizes, axis=0)
    shares = np.exp(scores - highest) if weights is None else weights[:, None] * np.exp(scores - highest)
    total = np.add.reduceat(shares * probabilities, first_rows, axis=0)
    pooled = total / np.add.reduceat(shares, first_rows, axis=0)
    return pooled.clip(0, 1).astype(np.float32)

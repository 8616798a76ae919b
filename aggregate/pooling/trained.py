"""Pooling as a classifier was trained to be pooled: by a formula, or by sharpness and attention that it learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.config import AggregateSection, Formula
from aggregate.pooling.formulas import pool_bags
from classify.trained_pooling import TrainedPooling, crop_weights, read_pooling
from hpa.errors import UserError


@dataclass(frozen=True)
class Trained:
    """What pooling a run as trained needs.

    Parameters
    ----------
    how
        What the classifier left.
    completeness
        By image_id and cell_label; None where crops count alike.
    """

    how: TrainedPooling
    completeness: pd.Series | None

    def weights(self, image_ids: NDArray[np.object_], cell_labels: NDArray[np.int32]) -> NDArray[np.float32] | None:
        """Return how much crops count; one that is not in the crop table counts as whole."""
        if self.completeness is None:
            return None
        found = self.completeness.reindex(pd.MultiIndex.from_arrays([image_ids, cell_labels])).fillna(1.0)
        return crop_weights(found.to_numpy(np.float32), self.how.completeness_power)


def read_trained(pooling: Path, crops: Path) -> Trained:
    """Read how a run was trained to be pooled.

    Parameters
    ----------
    pooling
        ``classify/<window>/pooling.json``.
    crops
        ``crops/<window>/crops.parquet``, which is read where crops count by their completeness.

    Raises
    ------
    UserError
        If the run was not trained to be pooled.
    """
    how = read_pooling(pooling)
    if how.pooling not in (*get_args(Formula), "auto", "attention"):
        raise UserError(f"expected a pooling that is known in {pooling}, found {how.pooling!r}")
    if not how.completeness_power:
        return Trained(how, None)
    table = pd.read_parquet(crops, columns=["image_id", "cell_label", "completeness"])
    return Trained(how, table.set_index(["image_id", "cell_label"])["completeness"])


def pool_as_trained(
    probabilities: NDArray[np.float32],
    first_rows: NDArray[np.intp],
    how: TrainedPooling,
    folds: Sequence[int] | NDArray[np.integer],
    weights: NDArray[np.float32] | None = None,
    attention: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Pool each bag.

    Parameters
    ----------
    probabilities, first_rows, weights
        As `aggregate.pooling.formulas.pool_bags` has them.
    how
        What the classifier left.
    folds
        Shape (m,): whose model has scored each bag.
    attention
        Shape (n,): the score of each crop.

    Returns
    -------
    ndarray
        Shape (m, K), float32.

    Raises
    ------
    UserError
        If what the models learned is missing.
    """
    sizes = np.diff(np.append(first_rows, len(probabilities)))
    if how.pooling == "auto":
        if unknown := set(map(int, folds)) - how.alpha.keys():
            raise UserError(f"expected the sharpness that the model of fold {min(unknown)} learned, found none")
        sharpness = np.array([how.alpha[int(fold)] for fold in folds], dtype=np.float32)
        scores = np.repeat(sharpness, sizes, axis=0) * probabilities
    elif how.pooling == "attention":
        if attention is None:
            raise UserError("expected probabilities with a column attention, as the models were trained, found none")
        scores = attention[:, None]
    else:
        section = AggregateSection(top_k=how.top_k, sharpness=how.sharpness)
        return pool_bags(probabilities, first_rows, cast(Formula, how.pooling), section, weights)
    highest = np.repeat(np.maximum.reduceat(scores, first_rows, axis=0), sizes, axis=0)
    shares = np.exp(scores - highest) if weights is None else weights[:, None] * np.exp(scores - highest)
    total = np.add.reduceat(shares * probabilities, first_rows, axis=0)
    pooled = total / np.add.reduceat(shares, first_rows, axis=0)
    return pooled.clip(0, 1).astype(np.float32)

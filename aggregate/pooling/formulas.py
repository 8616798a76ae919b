"""From the probabilities of a bag of crops to those of its image."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aggregate.config import AggregateSection, Formula

Pool = Callable[[NDArray[np.float32], AggregateSection], NDArray[np.float32]]


def pool_bags(
    probabilities: NDArray[np.float32],
    first_rows: NDArray[np.intp],
    kind: Formula,
    section: AggregateSection,
    weights: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Pool each bag.

    Parameters
    ----------
    probabilities
        Shape (n, K): the crops, those of one bag next to each other.
    first_rows
        Shape (m,): where each bag begins, rising from 0; no bag is empty.
    kind
        How.
    section
        The settings of the kinds: `top_k`, `quantile`, `sharpness`.
    weights
        Shape (n,), above 0, how much each crop counts; all alike if None. Means are weighted ones, of other kinds a
        crop's probability is multiplied by its weight.

    Returns
    -------
    ndarray
        Shape (m, K), float32.
    """
    if not len(first_rows):
        return np.empty((0, probabilities.shape[1]), dtype=np.float32)
    weighed = probabilities if weights is None else weights[:, None] * probabilities
    if kind == "max":
        return np.maximum.reduceat(weighed, first_rows, axis=0)
    sizes = np.diff(np.append(first_rows, len(probabilities)))
    if kind == "mean":
        counted = sizes if weights is None else np.add.reduceat(weights, first_rows)
        return np.divide(np.add.reduceat(weighed, first_rows, axis=0), counted[:, None], dtype=np.float32)
    if kind == "linear-softmax":
        total = np.add.reduceat(weighed, first_rows, axis=0)
        squares = np.add.reduceat(weighed * probabilities, first_rows, axis=0)
        return np.divide(squares, total, out=np.zeros_like(total), where=total > 0)
    if kind == "log-sum-exp" and weights is not None:
        # A weight is a shift: w exp(r p) = exp(r (p + log(w) / r)), with weights whose mean is 1.
        shares = weights * np.repeat(sizes / np.add.reduceat(weights, first_rows), sizes)
        weighed = probabilities + np.log(shares, dtype=np.float32)[:, None] / np.float32(section.sharpness)
    pooled = np.empty((len(first_rows), probabilities.shape[1]), dtype=np.float32)
    for size in np.unique(sizes):  # bags of one size make one dense array
        bags = np.flatnonzero(sizes == size)
        rows = first_rows[bags, None] + np.arange(size)
        pooled[bags] = _DENSE[kind](weighed[rows], section)
    return pooled


def _top_k(bags: NDArray[np.float32], section: AggregateSection) -> NDArray[np.float32]:
    k = min(section.top_k, bags.shape[1])
    top: NDArray[np.float32] = np.partition(bags, bags.shape[1] - k, axis=1)[:, -k:].mean(axis=1)
    return top


def _quantile(bags: NDArray[np.float32], section: AggregateSection) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.quantile(bags, section.quantile, axis=1)
    return found


def _log_sum_exp(bags: NDArray[np.float32], section: AggregateSection) -> NDArray[np.float32]:
    # Around the highest, so that nothing overflows: log-mean-exp lies between the mean and the maximum.
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
"""What turns bags of one size, shape (m, n, K), into (m, K)."""

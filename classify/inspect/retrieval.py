"""How well neighbours in a space of features share labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Retrieval:
    """How good a space is at finding what is relevant.

    Parameters
    ----------
    precision_at_1
        Share of queries whose nearest neighbour is relevant.
    map_at_r
        Mean average precision at R (Musgrave et al. 2020, https://arxiv.org/abs/2003.08505): with R the number of
        relevant others, ``1/R sum P(i)`` over the ranks i up to R that hold a relevant one.
    chance
        Share of others that are relevant, averaged over queries: what precision at 1 is in a space of noise.
    queries
        Queries that have something relevant to find; only they count.
    """

    precision_at_1: float
    map_at_r: float
    chance: float
    queries: int


def relevance(
    targets: NDArray[np.bool_], query: int, jaccard: float, known: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell which rows share labels with a query: a Jaccard index of at least `jaccard` and a label in common.

    Only classes that are known of both rows count. Where one carries a class of which nothing is known in the other,
    and they are not relevant all the same, it is undecided whether they are.

    Parameters
    ----------
    targets
        Shape (N, K).
    query
        A row.
    jaccard
        Least overlap, in (0, 1].
    known
        Shape (N, K), of which classes it is known whether a row has them; None of all.

    Returns
    -------
    relevant, undecided
        Shape (N,) each.
    """
    of_both = np.ones_like(targets) if known is None else known & known[query]
    common = (targets & targets[query]).sum(axis=1)
    either = targets | targets[query]
    relevant: NDArray[np.bool_] = (common > 0) & (common >= jaccard * (either & of_both).sum(axis=1))
    undecided: NDArray[np.bool_] = (either & ~of_both).any(axis=1) & ~relevant
    return relevant, undecided


def rank(vectors: NDArray[np.float32], query: int, others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `others` by their cosine similarity to a query, the nearest first; rows of `vectors` have unit length."""
    order: NDArray[np.int64] = others[np.argsort(-(vectors[others] @ vectors[query]), kind="stable")]
    return order


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring rows to unit length; a row of zeros stays."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return scaled


def retrieve(
    vectors: NDArray[np.float32],
    targets: NDArray[np.bool_],
    groups: NDArray[np.int64],
    queries: NDArray[np.int64],
    jaccard: float,
    known: NDArray[np.bool_] | None = None,
) -> Retrieval:
    """Score the neighbours of some rows among all rows of other groups.

    Parameters
    ----------
    vectors
        Shape (N, D), rows of unit length.
    targets
        Shape (N, K).
    groups
        Rows of one group, such as crops of one image, are not neighbours of each other; shape (N,).
    queries
        Rows.
    jaccard
        Least overlap of labels of what is relevant.
    known
        As for `relevance`; rows of which it is undecided whether they are relevant are left out of a query's others.
    """
    first, precision, share = [], [], []
    for query in queries:
        relevant, undecided = relevance(targets, int(query), jaccard, known)
        others = np.flatnonzero((groups != groups[query]) & ~undecided)
        r = int(relevant[others].sum())
        if r == 0:
            continue
        hits = relevant[rank(vectors, int(query), others)[:r]]
        first.append(hits[0])
        precision.append((hits * np.cumsum(hits) / np.arange(1, r + 1)).sum() / r)
        share.append(r / len(others))
    if not first:
        return Retrieval(0.0, 0.0, 0.0, 0)
    return Retrieval(float(np.mean(first)), float(np.mean(precision)), float(np.mean(share)), len(first))

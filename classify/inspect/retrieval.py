"""Retrieval scores: how well the neighbours of crops and images in a feature space share their labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of retrieving relevant rows by their similarity to queries.

    Parameters
    ----------
    precision_at_1
        Fraction of queries whose nearest neighbour is relevant.
    map_at_r
        Mean average precision at R (Musgrave et al. 2020, https://arxiv.org/abs/2003.08505): with R the number of
        relevant candidates, ``1/R sum P(i)`` over the ranks i up to R that hold a relevant one.
    chance
        Fraction of candidates that are relevant, averaged over queries: the expected precision at 1 in a space of
        noise.
    queries
        Number of queries with a relevant candidate; the others do not count.
    """

    precision_at_1: float
    map_at_r: float
    chance: float
    queries: int


def relevance(
    targets: NDArray[np.bool_], known: NDArray[np.bool_], query: int, jaccard: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows share labels with a query: at least one, and a Jaccard index of at least `jaccard`.

    Only classes that are known for both rows count. A pair that is not relevant by those is undecided if one row has
    a class that is unknown for the other.

    Parameters
    ----------
    targets
        Multi-hot targets, shape (N, K).
    known
        Whether it is known if a row has the class, shape (N, K).
    query
        Row of the query.
    jaccard
        Minimum Jaccard index, in (0, 1].

    Returns
    -------
    relevant, undecided
        Boolean, shape (N,) each.

    Examples
    --------
    >>> import numpy as np
    >>> targets = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=bool)
    >>> relevant, undecided = relevance(targets, np.ones_like(targets), 0, 0.5)
    >>> relevant
    array([ True,  True, False])
    """
    known_of_both = known & known[query]
    common = (targets & targets[query]).sum(axis=1)
    either = targets | targets[query]
    relevant: NDArray[np.bool_] = (common > 0) & (common >= jaccard * (either & known_of_both).sum(axis=1))
    undecided: NDArray[np.bool_] = (either & ~known_of_both).any(axis=1) & ~relevant
    return relevant, undecided


def rank_by_similarity(vectors: NDArray[np.float32], query: int, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort candidate rows by falling cosine similarity to a query; rows of `vectors` have unit length."""
    order: NDArray[np.int64] = candidates[np.argsort(-(vectors[candidates] @ vectors[query]), kind="stable")]
    return order


def normalise_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to unit length; a row of zeros stays.

    Examples
    --------
    >>> import numpy as np
    >>> normalise_rows(np.array([[3, 4], [0, 0]], dtype=np.float32))
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return scaled


def score_retrieval(
    vectors: NDArray[np.float32],
    targets: NDArray[np.bool_],
    known: NDArray[np.bool_],
    groups: NDArray[np.int64],
    queries: NDArray[np.int64],
    jaccard: float,
) -> RetrievalScores:
    """Score the neighbours of queries among all rows of other groups.

    Parameters
    ----------
    vectors
        Shape (N, D), rows of unit length.
    targets
        Multi-hot targets, shape (N, K).
    known
        Whether it is known if a row has the class, shape (N, K). Rows whose relevance to a query is undecided are no
        candidates.
    groups
        Shape (N,); rows of one group, such as crops of one image, are no candidates for each other.
    queries
        Rows of the queries.
    jaccard
        Minimum Jaccard index of relevant rows.
    """
    first, precision, fraction = [], [], []
    for query in queries:
        relevant, undecided = relevance(targets, known, int(query), jaccard)
        candidates = np.flatnonzero((groups != groups[query]) & ~undecided)
        r = int(relevant[candidates].sum())
        if r == 0:
            continue
        hits = relevant[rank_by_similarity(vectors, int(query), candidates)[:r]]
        first.append(hits[0])
        precision.append((hits * np.cumsum(hits) / np.arange(1, r + 1)).sum() / r)
        fraction.append(r / len(candidates))
    if not first:
        return RetrievalScores(0.0, 0.0, 0.0, 0)
    return RetrievalScores(float(np.mean(first)), float(np.mean(precision)), float(np.mean(fraction)), len(first))

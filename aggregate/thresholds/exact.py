"""Thresholds that are exactly best on given rows: of one class, of every class, one for all classes."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NEVER: Final = 1.0
"""The threshold of a class without a positive to tune on: no probability is above it."""


def best_threshold(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Return the threshold with the highest F1 when everything strictly above it is predicted.

    F1 rises only where a positive is taken in, so the optimum lies right below the score of a positive: scores are
    sorted once, and the counts at every positive follow from its place among them. The threshold is put half way to
    the next lower score; of equals the highest is taken.

    Parameters
    ----------
    positive
        Shape (N,), bool.
    scores
        Shape (N,), at least 0.

    Returns
    -------
    float
        The threshold, `NEVER` without a positive above 0.
    """
    ranked = np.sort(scores)
    ends = np.sort(scores[positive])
    ends = ends[np.searchsorted(ends, 0, side="right") :]
    if not len(ends):
        return NEVER
    hits = len(ends) - np.searchsorted(ends, ends)
    below = np.searchsorted(ranked, ends)
    f1 = 2 * hits / (len(ranked) - below + np.count_nonzero(positive))
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return _between(ranked, int(below[best]))


def best_thresholds(targets: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return `best_threshold` of every class; arrays of shape (N, K) give shape (K,)."""
    columns = np.ascontiguousarray(scores.T)
    return np.array([best_threshold(targets[:, c], columns[c]) for c in range(len(columns))])


def best_common_threshold(targets: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Return the one threshold for all classes with the highest macro F1.

    Exact, as `best_threshold` is: the optimum lies right below a positive of one of the classes.

    Parameters
    ----------
    targets, scores
        Shape (N, K).
    """
    ends = np.unique(scores[targets])
    ends = ends[ends > 0]
    if not len(ends):
        return NEVER
    total = np.zeros(len(ends))
    for c in range(targets.shape[1]):
        support = np.count_nonzero(targets[:, c])
        predicted = len(scores) - np.searchsorted(np.sort(scores[:, c]), ends)
        hits = support - np.searchsorted(np.sort(scores[targets[:, c], c]), ends)
        total += 2 * hits / np.maximum(predicted + support, 1)
    best = len(total) - 1 - int(np.argmax(total[::-1]))
    ranked = np.sort(scores, axis=None)
    return _between(ranked, int(np.searchsorted(ranked, ends[best])))


def matching_threshold(scores: NDArray[np.floating[Any]], share: float) -> float:
    """Return the threshold above which lies as near a share of the scores as their ties allow.

    Parameters
    ----------
    scores
        Shape (N,), at least 0.
    share
        Within 0..1; N times it is rounded to the nearest number of rows.
    """
    ranked = np.sort(scores)
    wanted = round(float(share) * len(ranked))
    if wanted == 0:
        return _above(ranked)
    place = len(ranked) - wanted
    lower, upper = np.searchsorted(ranked, ranked[place]), np.searchsorted(ranked, ranked[place], side="right")
    place = int(lower if place - lower <= upper - place else upper)
    return _above(ranked) if place == len(ranked) else _between(ranked, place)


def matching_thresholds(scores: NDArray[np.floating[Any]], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `matching_threshold` of every class; shapes (N, K) and (K,) give (K,)."""
    return np.array([matching_threshold(scores[:, c], share) for c, share in enumerate(shares)])


def _between(ranked: NDArray[np.floating[Any]], place: int) -> float:
    """Return what parts rising scores before `place` from those from there on: the middle, if there is one."""
    upper, lower = float(ranked[place]), float(ranked[place - 1]) if place else 0.0
    middle = (upper + lower) / 2
    return middle if middle < upper else lower


def _above(ranked: NDArray[np.floating[Any]]) -> float:
    return (float(ranked[-1]) + NEVER) / 2 if len(ranked) else NEVER

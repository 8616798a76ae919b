"""Find thresholds that are exactly optimal on the given rows: per class, common to all classes, or in cycles."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NEVER: Final = 1.0
"""The threshold of a class without a positive to tune on: no probability exceeds it."""
_MAX_CYCLES: Final = 10
_TOLERANCE: Final = 1e-12


def best_threshold(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Return the threshold with the highest F1 when every score strictly above it is predicted.

    F1 rises only where a positive is added, so the optimum lies right below the score of a positive: the scores are
    sorted once, and the counts at every positive follow from its rank. The threshold is placed halfway to the next
    lower score. Of several optimal thresholds, the highest is returned.

    Parameters
    ----------
    positive
        Shape (N,), bool.
    scores
        Shape (N,), at least 0.

    Returns
    -------
    float
        The threshold; `NEVER` if no positive has a score above 0.

    Examples
    --------
    >>> best_threshold(np.array([True, True, False]), np.array([0.75, 0.5, 0.25]))
    0.375
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
    """Return `best_threshold` of every class, shape (K,), for arrays of shape (N, K)."""
    columns = np.ascontiguousarray(scores.T)
    return np.array([best_threshold(targets[:, c], columns[c]) for c in range(len(columns))])


def best_common_threshold(targets: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Return the single threshold for all classes with the highest macro F1.

    Exact like `best_threshold`: the optimum lies right below the score of a positive of one of the classes, and of
    several optimal thresholds, the highest is returned.

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
    """Return the threshold that a given share of the scores exceeds, as closely as ties allow.

    Parameters
    ----------
    scores
        Shape (N,), at least 0.
    share
        Within 0..1; N times the share is rounded to the nearest number of rows.

    Examples
    --------
    >>> matching_threshold(np.array([0.0, 0.25, 0.5, 0.75]), 0.5)
    0.375
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
    """Return `matching_threshold` of every class, shape (K,), for scores (N, K) and shares (K,)."""
    return np.array([matching_threshold(scores[:, c], share) for c, share in enumerate(shares)])


def cyclic_thresholds(targets: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Optimise the threshold of one class after another, the others held fixed, until none changes.

    This is the scheme of Fan and Lin ("A study on threshold selection for multi-label classification", 2007) for
    metrics that do not decompose over classes. Theirs is the micro-averaged F-measure; here it is the macro F1 of the
    submitted labels, where thresholds depend on each other because a row without a class gets its highest score:
    raising one threshold moves rows to other classes. Every step is exact, so the macro F1 never falls. The search
    starts from `best_thresholds` and stops after ten cycles at the latest.

    Parameters
    ----------
    targets, scores
        Shape (N, K).

    Returns
    -------
    ndarray
        Shape (K,).
    """
    values = best_thresholds(targets, scores)
    over = scores > values
    for _ in range(_MAX_CYCLES):
        before = values.copy()
        for c in range(len(values)):
            values[c] = _best_given_others(c, float(values[c]), targets, scores, over)
            over[:, c] = scores[:, c] > values[c]
        if np.array_equal(before, values):
            break
    return values


def _best_given_others(
    c: int,
    current: float,
    targets: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]],
    over: NDArray[np.bool_],
) -> float:
    """Return the threshold of class c with the highest macro F1, empty rows getting their highest score."""
    order = np.argsort(-scores[:, c], kind="stable")
    ranked = scores[order, c].astype(np.float64)
    empty = np.count_nonzero(np.delete(over, c, axis=1), axis=1) == 0
    highest = scores.argmax(axis=1)
    # Start with nothing above the threshold of c: an empty row gets its highest class, and becomes c once the
    # threshold falls below its score.
    predictions = over.copy()
    predictions[:, c] = False
    predictions[empty, highest[empty]] = True
    hits, predicted = (predictions & targets).sum(axis=0), predictions.sum(axis=0)
    support = targets.sum(axis=0)
    gained = ~predictions[order, c]
    total = _f1(hits[c] + np.cumsum(gained & targets[order, c]), predicted[c] + np.cumsum(gained), support[c])
    lost = empty[order] & gained
    for j in np.unique(highest[order][lost]):
        leaves = lost & (highest[order] == j)
        total += _f1(
            hits[j] - np.cumsum(leaves & targets[order, j]), predicted[j] - np.cumsum(leaves), support[j]
        ) - _f1(hits[j], predicted[j], support[j])
    # Candidate thresholds lie above all rows, or after the last row of every distinct score.
    ends = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], ranked[-1] > 0))
    n_above = np.append(0, ends + 1)
    reached = np.append(_f1(hits[c], predicted[c], support[c]), total[ends])
    now = reached[np.searchsorted(n_above, np.count_nonzero(ranked > current))]
    best = int(np.argmax(reached))
    if now >= reached[best] - _TOLERANCE:
        return current
    if best == 0:
        return NEVER
    lower = float(ranked[n_above[best]]) if n_above[best] < len(ranked) else 0.0
    middle = (float(ranked[n_above[best] - 1]) + lower) / 2
    return middle if middle < ranked[n_above[best] - 1] else lower


def _f1(hits: Any, predicted: Any, support: Any) -> Any:
    return 2 * hits / np.maximum(predicted + support, 1)


def _between(ranked: NDArray[np.floating[Any]], place: int) -> float:
    """Return a value that separates ascending scores before `place` from the rest, their midpoint if there is one."""
    upper, lower = float(ranked[place]), float(ranked[place - 1]) if place else 0.0
    middle = (upper + lower) / 2
    return middle if middle < upper else lower


def _above(ranked: NDArray[np.floating[Any]]) -> float:
    return (float(ranked[-1]) + NEVER) / 2 if len(ranked) else NEVER

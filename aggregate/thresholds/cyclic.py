"""Cyclic optimisation of thresholds, for a score in which they depend on each other."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aggregate.thresholds.exact import NEVER, best_thresholds

_CYCLES: Final = 10
_EQUAL: Final = 1e-12


def cyclic_thresholds(targets: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Improve one class's threshold after the other, the others held, until none changes.

    The scheme of Fan and Lin ("A study on threshold selection for multi-label classification", 2007) for scores that
    do not fall apart into classes. Theirs is the micro-averaged F-measure; here it is the macro F1 of what is handed
    in, where thresholds depend on each other because a row without a class gets its highest score: raising one
    threshold gives rows to other classes. Each step is exact, so the macro F1 never falls. It starts from
    `best_thresholds`.

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
    for _ in range(_CYCLES):
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
    """Return the threshold of class c with the highest macro F1 after the rule of the highest score."""
    order = np.argsort(-scores[:, c], kind="stable")
    ranked = scores[order, c].astype(np.float64)
    bare = np.count_nonzero(np.delete(over, c, axis=1), axis=1) == 0
    fallen_to = scores.argmax(axis=1)
    # With nothing above c's threshold, a bare row is its highest class; as the threshold passes it, it becomes c.
    predictions = over.copy()
    predictions[:, c] = False
    predictions[bare, fallen_to[bare]] = True
    hits, predicted = (predictions & targets).sum(axis=0), predictions.sum(axis=0)
    support = targets.sum(axis=0)
    gained = ~predictions[order, c]
    total = _f1(hits[c] + np.cumsum(gained & targets[order, c]), predicted[c] + np.cumsum(gained), support[c])
    lost = bare[order] & gained
    for j in np.unique(fallen_to[order][lost]):
        leaves = lost & (fallen_to[order] == j)
        total += _f1(
            hits[j] - np.cumsum(leaves & targets[order, j]), predicted[j] - np.cumsum(leaves), support[j]
        ) - _f1(hits[j], predicted[j], support[j])
    # Ways to cut: above all rows, or after the last row of every distinct score.
    ends = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], ranked[-1] > 0))
    taken = np.append(0, ends + 1)
    reached = np.append(_f1(hits[c], predicted[c], support[c]), total[ends])
    now = reached[np.searchsorted(taken, np.count_nonzero(ranked > current))]
    best = int(np.argmax(reached))
    if now >= reached[best] - _EQUAL:
        return current
    if best == 0:
        return NEVER
    lower = float(ranked[taken[best]]) if taken[best] < len(ranked) else 0.0
    middle = (float(ranked[taken[best] - 1]) + lower) / 2
    return middle if middle < ranked[taken[best] - 1] else lower


def _f1(hits: Any, predicted: Any, support: Any) -> Any:
    return 2 * hits / np.maximum(predicted + support, 1)

"""How thresholds are found from rows with known targets: the methods of the field, side by side."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import leastsq
from scipy.special import expit, logit

from aggregate.config import AggregateSection
from aggregate.thresholds.cyclic import cyclic_thresholds
from aggregate.thresholds.exact import best_common_threshold, best_thresholds, matching_thresholds
from hpa.errors import UserError

Fit = Callable[
    [NDArray[np.bool_], NDArray[np.floating[Any]], NDArray[np.integer[Any]], AggregateSection, NDArray[np.bool_]],
    NDArray[np.float64],
]

_STEEPNESS: Final = 50.0
_PULL: Final = 1e-5
_TINY: Final = 1e-6


def fit_thresholds(
    targets: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]],
    groups: NDArray[np.integer[Any]],
    section: AggregateSection,
    known: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Find one threshold a class by the recipe's method.

    Parameters
    ----------
    targets
        Shape (N, K), bool.
    scores
        Shape (N, K), within 0..1.
    groups
        Shape (N,); rows of a group are never torn apart where rows are split.
    section
        The recipe's: the method and its settings.
    known
        Shape (N, K), of which classes it is known whether a row has them; None of all. The others do not count.

    Returns
    -------
    ndarray
        Shape (K,), float64; `fixed_threshold` where there is no row to learn from.
    """
    if not len(targets):
        return np.full(targets.shape[1], section.fixed_threshold)
    known = np.ones_like(targets) if known is None else known
    # No threshold is below 0, so that a score of 0 is never predicted: neither a hit, nor wrong, nor missed.
    return _METHODS[section.thresholds](targets & known, np.where(known, scores, 0), groups, section, known)


def shrunk_thresholds(
    targets: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]],
    towards: NDArray[np.float64] | float,
    strength: float,
) -> NDArray[np.float64]:
    """Draw the best threshold of every class towards a steadier one, the more the fewer positives it has.

    A class with n positives keeps n / (n + strength) of its own, on the logit scale, on which scores of rare and of
    frequent classes are spread alike.

    Parameters
    ----------
    targets, scores
        Shape (N, K).
    towards
        Shape (K,), or one for all.
    strength
        At least 0.
    """
    support = targets.sum(axis=0)
    weight = support / np.maximum(support + strength, _TINY)
    values: NDArray[np.float64] = expit(
        weight * clipped_logit(best_thresholds(targets, scores)) + (1 - weight) * clipped_logit(towards)
    )
    return values


def _shrunk(
    targets: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]],
    groups: NDArray[np.integer[Any]],
    section: AggregateSection,
    known: NDArray[np.bool_],
) -> NDArray[np.float64]:
    if section.shrink_to == "global":
        towards: NDArray[np.float64] | float = best_common_threshold(targets, scores)
    else:
        towards = matching_thresholds(scores, targets.mean(axis=0))
    return shrunk_thresholds(targets, scores, towards, section.shrinkage)


def repeated_thresholds(
    targets: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]],
    groups: NDArray[np.integer[Any]],
    repeats: int,
    k: int = 5,
) -> NDArray[np.float64]:
    """Average the best thresholds of many parts of the rows: `repeats` times k folds, each left out once."""
    numbers = np.unique(groups, return_inverse=True)[1]
    values = []
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(int(numbers.max()) + 1)
        for fold in range(k):
            kept = order[numbers] % k != fold
            values.append(best_thresholds(targets[kept], scores[kept]))
    mean: NDArray[np.float64] = np.mean(values, axis=0)
    return mean


def soft_thresholds(
    targets: NDArray[np.bool_], scores: NDArray[np.floating[Any]], known: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Fit thresholds to a smooth F1 by least squares, as published by a participant of Kaggle 2018 (iafoss).

    A prediction is sigmoid(50 (p - t)); Levenberg-Marquardt brings 1 - F1 and 1e-5 (t - 0.5) of every class towards 0,
    from t = 0.5. Classes do not enter each other's residuals, so each is solved by itself, on the rows of which it is
    `known`, shape (N, K); None of all.
    """
    known = np.ones_like(targets) if known is None else known

    def residuals(t: NDArray[np.float64], positive: NDArray[np.bool_], p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what is brought towards 0 for one class: 1 - F1, and the pull to 0.5."""
        soft = expit(_STEEPNESS * (p - t))
        f1 = 2 * soft[positive].sum() / (soft.sum() + positive.sum() + _TINY)
        return np.array([f1 - 1, _PULL * (t.item() - 0.5)])

    columns = [(t[k], p[k]) for t, p, k in zip(targets.T, scores.T.astype(np.float64), known.T, strict=True)]
    return np.clip([leastsq(residuals, [0.5], args=column)[0].item() for column in columns], 0, 1)


def clipped_logit(p: NDArray[np.floating[Any]] | float) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) in float64, of p within 1e-6..1 - 1e-6."""
    clipped: NDArray[np.float64] = logit(np.clip(np.asarray(p, dtype=np.float64), _TINY, 1 - _TINY))
    return clipped


def class_fractions(prior: NDArray[np.float64], section: AggregateSection) -> NDArray[np.float64]:
    """Return the shares that `prevalence` aims at: the recipe's, else the prior, both of shape (K,).

    Raises
    ------
    UserError
        If the recipe has another number of them.
    """
    if section.class_fractions and len(section.class_fractions) != len(prior):
        raise UserError(
            f"expected one of aggregate.class_fractions for each of {len(prior)} classes, "
            f"found {len(section.class_fractions)}"
        )
    return np.array(section.class_fractions) if section.class_fractions else prior


_METHODS: Final[Mapping[str, Fit]] = {
    "fixed": lambda targets, scores, groups, s, known: np.full(targets.shape[1], s.fixed_threshold),
    "global": lambda targets, scores, groups, s, known: np.full(
        targets.shape[1], best_common_threshold(targets, scores)
    ),
    "per-class": lambda targets, scores, groups, s, known: best_thresholds(targets, scores),
    "prevalence": lambda targets, scores, groups, s, known: matching_thresholds(
        # Of all rows, of which those of which nothing is known have a score of 0.
        scores,
        class_fractions(targets.sum(axis=0) / np.maximum(known.sum(axis=0), 1), s) * known.mean(axis=0),
    ),
    "shrunk": _shrunk,
    "repeated": lambda targets, scores, groups, s, known: repeated_thresholds(targets, scores, groups, s.repeats),
    "soft-f1": lambda targets, scores, groups, s, known: soft_thresholds(targets, scores, known),
    # Only the rule of the highest score makes thresholds depend on each other.
    "cyclic": lambda targets, scores, groups, s, known: (cyclic_thresholds if s.empty == "argmax" else best_thresholds)(
        targets, scores
    ),
}

"""Tune thresholds on rows with known labels, by one of eight methods used in the field."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import expit, logit

from aggregate.config import AggregateSection
from aggregate.labels import Labels
from aggregate.thresholds.exact import best_common_threshold, best_thresholds, cyclic_thresholds, matching_thresholds
from hpa.errors import UserError
from hpa.vocabulary import Vocabulary

Fit = Callable[[Labels, NDArray[np.floating[Any]], AggregateSection], NDArray[np.float64]]

_STEEPNESS: Final = 50.0
_PULL: Final = 1e-5
_TINY: Final = 1e-6


def fit_thresholds(labels: Labels, scores: NDArray[np.floating[Any]], section: AggregateSection) -> NDArray[np.float64]:
    """Find one threshold per class by the method of the recipe.

    Parameters
    ----------
    labels
        Of N rows; unknown pairs of row and class do not count. Groups are never divided where a method splits rows.
    scores
        Shape (N, K), within 0..1.
    section
        The method and its settings.

    Returns
    -------
    ndarray
        Shape (K,), float64; `fixed_threshold` everywhere if there are no rows.
    """
    if not len(labels):
        return np.full(labels.targets.shape[1], section.fixed_threshold)
    # No threshold is below 0, so a score of 0 is never predicted: an unknown pair is no hit, no error and no miss.
    return _METHODS[section.thresholds](labels, np.where(labels.known, scores, 0), section)


def shrunk_thresholds(
    targets: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]],
    towards: NDArray[np.float64] | float,
    strength: float,
) -> NDArray[np.float64]:
    """Shrink the best threshold of every class towards a steadier one, more strongly the fewer positives it has.

    A class with n positives keeps n / (n + strength) of its own threshold, on the logit scale, on which the scores of
    rare and frequent classes are spread alike.

    Parameters
    ----------
    targets, scores
        Shape (N, K).
    towards
        Shape (K,), or one value for all classes.
    strength
        At least 0.

    Returns
    -------
    ndarray
        Shape (K,).
    """
    support = targets.sum(axis=0)
    weight = support / np.maximum(support + strength, _TINY)
    values: NDArray[np.float64] = expit(
        weight * clipped_logit(best_thresholds(targets, scores)) + (1 - weight) * clipped_logit(towards)
    )
    return values


def repeated_thresholds(
    targets: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]],
    groups: NDArray[np.integer[Any]],
    repeats: int,
    k: int = 5,
) -> NDArray[np.float64]:
    """Average the best thresholds over repeated k-fold splits, each fold held out once.

    Parameters
    ----------
    targets, scores
        Shape (N, K).
    groups
        Shape (N,); a group is never divided between folds.
    repeats
        Number of random splits.
    k
        Number of folds per split.

    Returns
    -------
    ndarray
        Shape (K,).
    """
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
    targets: NDArray[np.bool_], scores: NDArray[np.floating[Any]], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Fit thresholds to a smooth F1 by least squares, as published by iafoss, a participant of Kaggle 2018.

    A prediction is sigmoid(50 (p - t)); the Levenberg-Marquardt algorithm minimises 1 - F1 and 1e-5 (t - 0.5) of every
    class, starting at t = 0.5. The residuals of a class depend on no other class, so each class is solved separately.

    Parameters
    ----------
    targets, scores
        Shape (N, K).
    known
        Shape (N, K), bool: the rows that a class is fitted on.

    Returns
    -------
    ndarray
        Shape (K,), within 0..1.
    """

    def residuals(t: NDArray[np.float64], positive: NDArray[np.bool_], p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the residuals of one class: F1 - 1, and the pull towards 0.5."""
        soft = expit(_STEEPNESS * (p - t))
        f1 = 2 * soft[positive].sum() / (soft.sum() + positive.sum() + _TINY)
        return np.array([f1 - 1, _PULL * (t.item() - 0.5)])

    columns = [(t[k], p[k]) for t, p, k in zip(targets.T, scores.T.astype(np.float64), known.T, strict=True)]
    return np.clip([least_squares(residuals, [0.5], args=column, method="lm").x.item() for column in columns], 0, 1)


def clipped_logit(p: NDArray[np.floating[Any]] | float) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) as float64, with p clipped to 1e-6..1 - 1e-6."""
    clipped: NDArray[np.float64] = logit(np.clip(np.asarray(p, dtype=np.float64), _TINY, 1 - _TINY))
    return clipped


def check_classes(section: AggregateSection, vocabulary: Vocabulary) -> None:
    """Check that the classes a recipe names exist, and that it gives one share per class if it gives any.

    Raises
    ------
    UserError
        If `empty` is no class, or `class_fractions` has another length than the vocabulary.
    """
    if section.empty not in ("argmax", "blank") and section.empty not in vocabulary.classes:
        raise UserError(
            f'expected aggregate.empty "argmax", "blank" or a class of {vocabulary.name}, found {section.empty!r}'
        )
    class_fractions(np.zeros(len(vocabulary)), section)


def class_fractions(prior: NDArray[np.float64], section: AggregateSection) -> NDArray[np.float64]:
    """Return the shares that `prevalence` aims at: those of the recipe, or else the prior; both have shape (K,).

    Raises
    ------
    UserError
        If the recipe does not give one share per class.
    """
    if section.class_fractions and len(section.class_fractions) != len(prior):
        raise UserError(
            f"expected one of aggregate.class_fractions for each of {len(prior)} classes, "
            f"found {len(section.class_fractions)}"
        )
    return np.array(section.class_fractions) if section.class_fractions else prior


def _fixed(labels: Labels, scores: NDArray[np.floating[Any]], section: AggregateSection) -> NDArray[np.float64]:
    return np.full(scores.shape[1], section.fixed_threshold)


def _global(labels: Labels, scores: NDArray[np.floating[Any]], section: AggregateSection) -> NDArray[np.float64]:
    return np.full(scores.shape[1], best_common_threshold(labels.targets, scores))


def _per_class(labels: Labels, scores: NDArray[np.floating[Any]], section: AggregateSection) -> NDArray[np.float64]:
    return best_thresholds(labels.targets, scores)


def _prevalence(labels: Labels, scores: NDArray[np.floating[Any]], section: AggregateSection) -> NDArray[np.float64]:
    # The share is one of known rows, but thresholds are matched on all rows, where unknown ones have a score of 0.
    return matching_thresholds(scores, class_fractions(labels.frequencies, section) * labels.known.mean(axis=0))


def _shrunk(labels: Labels, scores: NDArray[np.floating[Any]], section: AggregateSection) -> NDArray[np.float64]:
    if section.shrink_to == "global":
        towards: NDArray[np.float64] | float = best_common_threshold(labels.targets, scores)
    else:
        towards = matching_thresholds(scores, labels.targets.mean(axis=0))
    return shrunk_thresholds(labels.targets, scores, towards, section.shrinkage)


def _repeated(labels: Labels, scores: NDArray[np.floating[Any]], section: AggregateSection) -> NDArray[np.float64]:
    return repeated_thresholds(labels.targets, scores, labels.groups, section.repeats)


def _soft(labels: Labels, scores: NDArray[np.floating[Any]], section: AggregateSection) -> NDArray[np.float64]:
    return soft_thresholds(labels.targets, scores, labels.known)


def _cyclic(labels: Labels, scores: NDArray[np.floating[Any]], section: AggregateSection) -> NDArray[np.float64]:
    # Thresholds depend on each other only where an empty row gets its highest score.
    fit = cyclic_thresholds if section.empty == "argmax" else best_thresholds
    return fit(labels.targets, scores)


_METHODS: Final[Mapping[str, Fit]] = {
    "fixed": _fixed,
    "global": _global,
    "per-class": _per_class,
    "prevalence": _prevalence,
    "shrunk": _shrunk,
    "repeated": _repeated,
    "soft-f1": _soft,
    "cyclic": _cyclic,
}

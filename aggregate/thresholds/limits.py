"""Limit how often a class is predicted whose scores out of fold do not support it.

The F1 of a class that nobody learned is highest where it is predicted for nearly every image, because no order of the
images is better than another: the exact optimum then floods the labels, and shrinking only halves the flood. So a class
that ranks the images no better than chance is predicted as often as it was labelled in training, and any other class at
most twice as often, or as often as it still finds twice as many positives as chance does.

For a class at chance this has a price. Predicted for every image, a class with the share p of positives has an F1 of
2p / (1 + p); predicted at random for the share p, it has p.

Images of one antibody share their labels and look alike, so all tests count groups, not images.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom, mannwhitneyu

from aggregate.labels import Labels
from aggregate.thresholds.exact import matching_threshold

MAX_RATIO: Final = 2.0
"""How many times as often as in training any class may be predicted."""
_LEVEL: Final = 0.05
_STEPS: Final = 50


@dataclass(frozen=True)
class ShareLimits:
    """How often each class may be predicted; K classes.

    Parameters
    ----------
    shares
        Shape (K,): the highest share of the images, 1 for no limit.
    at_chance
        Shape (K,), bool: whether the class ranks images no better than chance, and is predicted at exactly that share.
    """

    shares: NDArray[np.float64]
    at_chance: NDArray[np.bool_]

    @classmethod
    def none(cls, k: int) -> "ShareLimits":
        """Return no limits for k classes."""
        return cls(np.ones(k), np.zeros(k, dtype=bool))

    def apply(
        self, values: NDArray[np.float64], scores: NDArray[np.floating[Any]], known: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Return thresholds that predict no class more often than its limit on the given images.

        Parameters
        ----------
        values
            Shape (K,), thresholds.
        scores
            Shape (N, K), at least 0, of the images to decide on.
        known
            Shape (N, K), bool: pairs of image and class that count; all by default.

        Returns
        -------
        ndarray
            Shape (K,). A class at chance is predicted for at least one image, because a class without a prediction has
            an F1 of 0.
        """
        limited = values.copy()
        for c in np.flatnonzero(self.at_chance | (self.shares < 1)):
            own = scores[:, c] if known is None else scores[known[:, c], c]
            if not len(own):
                continue
            limit = max(self.shares[c], 1 / len(own))
            if self.at_chance[c] or np.count_nonzero(own > values[c]) > limit * len(own):
                limited[c] = matching_threshold(own, limit)
        return limited


def fit_limits(labels: Labels, scores: NDArray[np.floating[Any]]) -> ShareLimits:
    """Find how often each class may be predicted, from scores of images that the models have not seen.

    Parameters
    ----------
    labels
        Of N images; unknown pairs of image and class do not count.
    scores
        Shape (N, K).

    Returns
    -------
    ShareLimits
        No limit for a class without a positive, which is not predicted anyway.
    """
    limits = ShareLimits.none(scores.shape[1])
    for c in np.flatnonzero(labels.support):
        own = labels.known[:, c]
        positive, ranked = _by_group(labels.targets[own, c], scores[own, c], labels.groups[own])
        prior = float(labels.frequencies[c])
        limits.at_chance[c] = not _ranks_better_than_chance(positive, ranked)
        limits.shares[c] = prior if limits.at_chance[c] else max(MAX_RATIO * prior, _supported_share(positive, ranked))
    np.minimum(limits.shares, 1, out=limits.shares)
    return limits


def _by_group(
    positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]], groups: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return one row per group: whether it has a positive, and the mean score of its positives, or of all its rows."""
    number = np.unique(groups, return_inverse=True)[1]
    has_positive = np.bincount(number, positive) > 0
    counted = positive | ~has_positive[number]
    total = np.bincount(number, np.where(counted, scores, 0.0))
    mean: NDArray[np.float64] = total / np.bincount(number, counted)
    return has_positive, mean


def _ranks_better_than_chance(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> bool:
    """Return whether positives score higher, by the one-sided test of Mann and Whitney."""
    if positive.all():
        return True  # there is nothing to tell apart
    return bool(mannwhitneyu(scores[positive], scores[~positive], alternative="greater").pvalue <= _LEVEL)


def _supported_share(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return the largest share of the highest scores with at least `MAX_RATIO` times as many positives as by chance.

    So many by chance has to be unlikely, too, by the hypergeometric distribution. 0 if no share has.
    """
    n, hits = len(scores), np.cumsum(positive[np.argsort(-scores, kind="stable")])
    predicted = np.unique(np.ceil(np.arange(1, _STEPS + 1) / _STEPS * n).astype(np.int64))
    expected = predicted * hits[-1] / n
    chance = hypergeom.sf(hits[predicted - 1] - 1, n, hits[-1], predicted)
    supported = np.flatnonzero((chance <= _LEVEL) & (hits[predicted - 1] >= MAX_RATIO * expected))
    return float(predicted[supported[-1]] / n) if len(supported) else 0.0

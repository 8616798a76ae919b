"""Limit how often a class is predicted whose scores out of fold do not support it.

The F1 of a class that nobody learned is highest where it is predicted for nearly every image, because no order of the
images is better than another: the exact optimum then floods the labels, and shrinking only halves the flood. So a class
that is not shown to rank images better than chance gets the threshold that predicts it as often as it was labelled in
training, and no class is predicted more than twice as often, unless it still finds twice as many positives there as by
chance.

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
        Shape (K,), bool: whether the class is not shown to rank images better than chance.
    """

    shares: NDArray[np.float64]
    at_chance: NDArray[np.bool_]

    @classmethod
    def none(cls, k: int) -> "ShareLimits":
        """Return no limits for k classes."""
        return cls(np.ones(k), np.zeros(k, dtype=bool))

    def apply(self, values: NDArray[np.float64], scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return thresholds that predict no class more often than its limit on the given images.

        A class at chance is predicted for at least one image, because a class without a prediction has an F1 of 0.

        Parameters
        ----------
        values
            Shape (K,), thresholds.
        scores
            Shape (N, K), at least 0, of the images to decide on.

        Returns
        -------
        ndarray
            Shape (K,).
        """
        limited = values.copy()
        for c in np.flatnonzero(self.at_chance | (self.shares < 1)):
            predicted, one = np.mean(scores[:, c] > values[c]), 1 / len(scores)
            if predicted > max(self.shares[c], one):
                limited[c] = matching_threshold(scores[:, c], max(self.shares[c], one))
            elif self.at_chance[c] and not predicted:
                limited[c] = matching_threshold(scores[:, c], one)
        return limited


def fit_limits(
    values: NDArray[np.float64], labels: Labels, scores: NDArray[np.floating[Any]]
) -> tuple[ShareLimits, NDArray[np.float64]]:
    """Find how often each class may be predicted, from scores of images that the models have not seen.

    Parameters
    ----------
    values
        Shape (K,), thresholds tuned on these images.
    labels
        Of N images; unknown pairs of image and class do not count.
    scores
        Shape (N, K), at least 0.

    Returns
    -------
    limits
        No limit for a class without a positive, which is not predicted anyway.
    values
        The thresholds of a class at chance predict its share of positives on these images, the others at most its
        limit.
    """
    limits, limited = ShareLimits.none(len(values)), values.copy()
    for c in np.flatnonzero(labels.support):
        own = labels.known[:, c]
        positive, ranked = _by_group(labels.targets[own, c], scores[own, c], labels.groups[own])
        prior, predicted = float(labels.frequencies[c]), np.mean(scores[own, c] > values[c])
        limits.at_chance[c] = not _ranks_better_than_chance(positive, ranked)
        supported = 0.0 if limits.at_chance[c] else _supported_share(positive, ranked)
        limits.shares[c] = min(1.0, max(MAX_RATIO * prior, supported))
        if limits.at_chance[c] or predicted > limits.shares[c]:
            limited[c] = matching_threshold(scores[own, c], prior if limits.at_chance[c] else limits.shares[c])
    return limits, limited


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

"""The numbers behind the figures: curves over all thresholds, bins of scores, and the confusion of classes.

Functions of one class take its targets and scores over the images for which the class is known.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aggregate.labels import Labels

Floats = NDArray[np.float64]

_POINTS: Final = 200
_MAX_BINS: Final = 10


def precision_recall_curve(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> tuple[Floats, Floats]:
    """Return recall and precision at every distinct score, from the highest down; scores that are equal stay together.

    Parameters
    ----------
    positive, scores
        Shape (N,).

    Examples
    --------
    >>> recall, precision = precision_recall_curve(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]))
    >>> recall.tolist(), precision.round(2).tolist()
    ([0.5, 0.5, 1.0], [1.0, 0.5, 0.67])
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)) if len(scores) else np.array([], dtype=int)
    return hits[ends] / max(int(positive.sum()), 1), hits[ends] / (ends + 1)


def f1_by_threshold(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> tuple[Floats, Floats]:
    """Return thresholds and the F1 of predicting the images strictly above each.

    Parameters
    ----------
    positive, scores
        Shape (N,).
    """
    # Quantiles of the scores too: the scores of rare classes lie in a narrow range.
    top = float(scores.max()) if len(scores) else 1.0
    quantiles = np.quantile(scores, np.linspace(0, 1, _POINTS)) if len(scores) else np.array([])
    tried = np.unique(np.append(quantiles, np.linspace(0, top, _POINTS)))
    predicted = len(scores) - np.searchsorted(np.sort(scores), tried, side="right")
    hits = positive.sum() - np.searchsorted(np.sort(scores[positive]), tried, side="right")
    return tried, 2 * hits / np.maximum(predicted + positive.sum(), 1)


@dataclass(frozen=True)
class CalibrationBins:
    """Images in bins of their scores.

    Parameters
    ----------
    mean
        Mean score of each bin, shape (B,).
    observed
        Share of its images with the class, shape (B,).
    low, high
        95% Wilson interval of that share, shape (B,).
    images, positives
        Numbers of images in each bin, and of those with the class, shape (B,).
    """

    mean: Floats
    observed: Floats
    low: Floats
    high: Floats
    images: NDArray[np.int64]
    positives: NDArray[np.int64]


def calibration_bins(
    positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]], min_expected: float = 5.0
) -> CalibrationBins:
    """Sort images by score into at most ten bins with equal sums of scores, each large enough to judge.

    A bin is made only as narrow as leaves it with `min_expected` positives expected by the scores, so a rare class has
    few bins, or one.

    Parameters
    ----------
    positive, scores
        Shape (N,), N at least 1.
    min_expected
        Smallest sum of scores of a bin, where there is more than one.
    """
    order = np.argsort(scores, kind="stable")
    expected = np.cumsum(scores[order], dtype=np.float64)
    n_bins = int(np.clip(expected[-1] // min_expected, 1, _MAX_BINS))
    ends = np.searchsorted(expected, np.linspace(0, expected[-1], n_bins + 1)[1:-1])
    bins = [rows for rows in np.split(order, ends) if len(rows)]
    images = np.array([len(rows) for rows in bins], dtype=np.int64)
    positives = np.array([positive[rows].sum() for rows in bins], dtype=np.int64)
    observed = positives / images
    low, high = wilson_interval(positives, images)
    return CalibrationBins(
        np.array([scores[rows].mean() for rows in bins], dtype=np.float64), observed, low, high, images, positives
    )


def wilson_interval(positives: NDArray[np.int64], n: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the 95% score interval of shares (Wilson 1927), for n of at least 1."""
    z = 1.959963984540054
    share, z2 = positives / n, z * z / n
    centre = (share + z2 / 2) / (1 + z2)
    half = z * np.sqrt(share * (1 - share) / n + z2 / (4 * n)) / (1 + z2)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def confusion(labels: Labels, predictions: NDArray[np.bool_]) -> Floats:
    """Count what was predicted for the images of each class.

    Each image of a class counts once in the row of that class: in its own column if the class was predicted; otherwise
    in equal parts in the columns of the classes that were wrongly predicted, or in the last column if there were none.
    A row therefore sums to the number of images of its class.

    Parameters
    ----------
    labels
        Of N images.
    predictions
        Shape (N, K), bool.

    Returns
    -------
    ndarray
        Shape (K, K + 1), counts; parts of images where several classes were wrongly predicted.
    """
    targets, predictions = labels.targets, predictions & labels.known
    missed, wrong = targets & ~predictions, predictions & ~targets
    n_wrong = wrong.sum(axis=1)
    parts = wrong / np.maximum(n_wrong, 1)[:, None]
    k = targets.shape[1]
    table = np.zeros((k, k + 1))
    table[:, :k] = missed.T.astype(np.float64) @ parts
    table[np.arange(k), np.arange(k)] = (targets & predictions).sum(axis=0)
    table[:, k] = (missed & (n_wrong == 0)[:, None]).sum(axis=0)
    return table

"""Scores of multi-label predictions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def f1_per_class(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the F1 of every class, 0 where it has no true positive, false positive or false negative.

    Parameters
    ----------
    targets, predictions
        Boolean arrays of shape (N, K).

    Returns
    -------
    ndarray
        Shape (K,).

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if targets.shape != predictions.shape:
        raise ValueError(f"expected equal shapes, found {targets.shape} and {predictions.shape}")
    both = (targets & predictions).sum(axis=0)
    either = targets.sum(axis=0) + predictions.sum(axis=0)
    f1: NDArray[np.float64] = np.divide(2.0 * both, either, out=np.zeros(len(both)), where=either > 0)
    return f1


def macro_f1(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> float:
    """Return the mean over all classes of `f1_per_class`, the metric of the Kaggle 2018 competition."""
    return float(f1_per_class(targets, predictions).mean())


def micro_f1(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> float:
    """Return the F1 of all (row, class) pairs taken together; 0 where nothing is labelled or predicted."""
    both, either = (targets & predictions).sum(), targets.sum() + predictions.sum()
    return float(2 * both / either) if either else 0.0


def samples_f1(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> float:
    """Return the mean over rows of each row's F1, the metric of the Jovian course; 0 where a row has neither."""
    return float(f1_per_class(targets.T, predictions.T).mean())


def exact_match(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> float:
    """Return the share of rows with exactly the right classes."""
    return float((targets == predictions).all(axis=1).mean())


def hamming_loss(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> float:
    """Return the share of (row, class) pairs that are wrong; 1 minus it is the thresholded accuracy (fastai)."""
    return float((targets != predictions).mean())


def average_precision(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Return the average precision of one class: precision summed over the steps of recall, ties taken together.

    Parameters
    ----------
    positive, scores
        Shape (N,).

    Returns
    -------
    float
        NaN without a positive.
    """
    support = int(np.count_nonzero(positive))
    if not support:
        return float("nan")
    ranked, own = np.sort(scores), np.sort(scores[positive])
    at, counts = np.unique(own, return_counts=True)
    hits = support - np.searchsorted(own, at)
    return float((counts * hits / (len(ranked) - np.searchsorted(ranked, at))).sum() / support)


def roc_auc(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Return the area under the ROC curve: how often a positive is above a negative, a tie counted as half.

    Parameters
    ----------
    positive, scores
        Shape (N,).

    Returns
    -------
    float
        NaN without a positive or without a negative.
    """
    own, others = scores[positive], np.sort(scores[~positive])
    if not len(own) or not len(others):
        return float("nan")
    below = np.searchsorted(others, own) + np.searchsorted(others, own, side="right")
    return float(below.sum() / (2 * len(own) * len(others)))

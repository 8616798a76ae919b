"""Scores of multi-label predictions."""

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

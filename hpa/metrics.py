"""Metrics of multi-label predictions, of which the whole project has one definition.

Average precision and AUC are those of scikit-learn, to the last bit or two, but 15 to 200 times as fast on a class of a
few hundred to 30,000 images: choosing a pooling and fitting run weights compute thousands of them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def f1_per_class(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the F1 of every class; it is 0 for a class without true positives, false positives and false negatives.

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

    Examples
    --------
    >>> import numpy as np
    >>> from hpa.metrics import f1_per_class
    >>> targets = np.array([[True, False], [True, True]])
    >>> predictions = np.array([[True, False], [False, True]])
    >>> f1_per_class(targets, predictions)
    array([0.66666667, 1.        ])
    """
    if targets.shape != predictions.shape:
        raise ValueError(f"expected equal shapes, found {targets.shape} and {predictions.shape}")
    both = (targets & predictions).sum(axis=0)
    either = targets.sum(axis=0) + predictions.sum(axis=0)
    f1: NDArray[np.float64] = np.divide(2.0 * both, either, out=np.zeros(len(both)), where=either > 0)
    return f1


def macro_f1(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> float:
    """Compute the mean of `f1_per_class` over all classes, the metric of the Kaggle 2018 competition."""
    return float(f1_per_class(targets, predictions).mean())


def micro_f1(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> float:
    """Compute the F1 over all (row, class) pairs pooled; 0 if nothing is labelled or predicted."""
    both, either = (targets & predictions).sum(), targets.sum() + predictions.sum()
    return float(2 * both / either) if either else 0.0


def samples_f1(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> float:
    """Compute the mean F1 of the rows (0 for a row without positives), the metric of the Jovian course."""
    return float(f1_per_class(targets.T, predictions.T).mean())


def exact_match(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> float:
    """Compute the share of rows whose predicted classes are exactly right."""
    return float((targets == predictions).all(axis=1).mean())


def hamming_loss(targets: NDArray[np.bool_], predictions: NDArray[np.bool_]) -> float:
    """Compute the share of (row, class) pairs that are wrong; 1 minus it is the thresholded accuracy of fastai."""
    return float((targets != predictions).mean())


def average_precision(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Compute the average precision of one class: precision summed over the steps of recall, with ties as one step.

    Parameters
    ----------
    positive, scores
        Whether each row is a positive, and its score, shape (N,) each.

    Returns
    -------
    float
        NaN if there is no positive.

    Examples
    --------
    >>> import numpy as np
    >>> from hpa.metrics import average_precision
    >>> average_precision(np.array([True, False, False, True]), np.array([0.9, 0.8, 0.7, 0.7]))
    0.75
    """
    support = int(np.count_nonzero(positive))
    if not support:
        return float("nan")
    ranked, own = np.sort(scores), np.sort(scores[positive])
    at, counts = np.unique(own, return_counts=True)
    hits = support - np.searchsorted(own, at)
    return float((counts * hits / (len(ranked) - np.searchsorted(ranked, at))).sum() / support)


def mean_average_precision(targets: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Compute the mean of `average_precision` over the classes with a positive, 0 if there are none.

    Parameters
    ----------
    targets, scores
        Shape (N, K) each.

    Examples
    --------
    >>> import numpy as np
    >>> from hpa.metrics import mean_average_precision
    >>> targets = np.array([[True, False], [False, False], [True, False]])
    >>> mean_average_precision(targets, np.array([[0.9, 0.1], [0.5, 0.2], [0.4, 0.3]]))
    0.8333333333333333
    """
    present = np.flatnonzero(targets.any(axis=0))
    if not len(present):
        return 0.0
    return float(np.mean([average_precision(targets[:, c], scores[:, c]) for c in present]))


def roc_auc(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Compute the area under the ROC curve: how often a positive scores above a negative, a tie counting half.

    Parameters
    ----------
    positive, scores
        Whether each row is a positive, and its score, shape (N,) each.

    Returns
    -------
    float
        NaN if there is no positive or no negative.

    Examples
    --------
    >>> import numpy as np
    >>> from hpa.metrics import roc_auc
    >>> roc_auc(np.array([True, False, True]), np.array([0.9, 0.8, 0.8]))
    0.75
    """
    own, negatives = scores[positive], np.sort(scores[~positive])
    if not len(own) or not len(negatives):
        return float("nan")
    below = np.searchsorted(negatives, own) + np.searchsorted(negatives, own, side="right")
    return float(below.sum() / (2 * len(own) * len(negatives)))

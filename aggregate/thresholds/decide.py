"""From scores and thresholds to labels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpa.vocabulary import Vocabulary


def decide(
    scores: NDArray[np.floating[Any]], thresholds: NDArray[np.float64], empty: str, vocabulary: Vocabulary
) -> NDArray[np.bool_]:
    """Predict every class whose score is strictly above its threshold.

    Parameters
    ----------
    scores
        Shape (N, K), of any precision; they are compared as they come.
    thresholds
        Shape (K,), or (N, K) for thresholds of each row.
    empty
        What a row without a class gets: ``"argmax"`` its highest score, ``"blank"`` nothing, or the class named.
    vocabulary
        Of the run.

    Returns
    -------
    ndarray
        Shape (N, K), bool.

    Raises
    ------
    UserError
        If `empty` is neither a rule nor a class.
    """
    predicted = scores > thresholds
    bare = np.flatnonzero(~predicted.any(axis=1))
    if empty == "argmax":
        predicted[bare, scores[bare].argmax(axis=1)] = True
    elif empty != "blank":
        predicted[bare, vocabulary.index(empty)] = True
    return predicted

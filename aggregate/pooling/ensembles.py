"""Join the image scores of several runs: other models, windows or test-time views."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from aggregate.config import AggregateSection
from hpa.metrics import mean_average_precision

_N_PICKS: Final = 10


def join_scores(
    scores: NDArray[np.float32], weights: NDArray[np.float64], section: AggregateSection
) -> NDArray[np.float32]:
    """Join the scores of runs by the rule of the recipe.

    Parameters
    ----------
    scores
        Shape (R, N, K).
    weights
        Shape (R,), summing to 1; the maximum only distinguishes zero weights, which exclude a run.
    section
        The recipe section.

    Returns
    -------
    ndarray
        Shape (N, K).
    """
    if section.join_by == "max":
        highest: NDArray[np.float32] = scores[weights > 0].max(axis=0)
        return highest
    if len(scores) == 1:
        only: NDArray[np.float32] = scores[0]
        return only
    joined: NDArray[np.float32] = np.tensordot(weights.astype(np.float32), scores, axes=1)
    return joined


def ranks(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rank of each row within its class, scaled to 0..1, ties sharing their mean rank; shape (..., N, K).

    Examples
    --------
    >>> ranks(np.array([[0.125], [0.5], [0.25], [0.75]], dtype=np.float32)).ravel()
    array([0.125, 0.625, 0.375, 0.875], dtype=float32)
    """
    n = scores.shape[-2]
    scaled: NDArray[np.float32] = ((rankdata(scores, axis=-2) - 0.5) / max(n, 1)).astype(np.float32)
    return scaled


def fit_weights(
    targets: NDArray[np.bool_], scores: NDArray[np.float32], section: AggregateSection
) -> NDArray[np.float64]:
    """Return the run weights of the recipe, or those with the highest mean average precision on these rows.

    Weights are fitted by greedy selection with replacement (Caruana et al., "Ensemble selection from libraries of
    models", 2004): ten times, the run that improves the sum most is added, so that weights are tenths and none is
    negative.

    Parameters
    ----------
    targets
        Shape (N, K).
    scores
        Shape (R, N, K).
    section
        The recipe section.

    Returns
    -------
    ndarray
        Shape (R,), summing to 1.
    """
    given: NDArray[np.float64] = np.ones(len(scores))
    if section.join_weights:  # the weight of this run is divided among its windows
        own = len(scores) - len(section.join)
        given = np.array([section.join_weights[0] / own] * own + list(section.join_weights[1:]))
    if not section.fit_join_weights or len(scores) == 1:
        weights: NDArray[np.float64] = given / given.sum()
        return weights
    picked = np.zeros(len(scores))
    for _ in range(_N_PICKS):
        tried = [picked + one for one in np.eye(len(scores))]
        values = [mean_average_precision(targets, join_scores(scores, w / w.sum(), section)) for w in tried]
        picked = tried[int(np.argmax(values))]
    picked /= picked.sum()
    return picked

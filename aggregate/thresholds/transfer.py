"""Carrying thresholds from the scores they were tuned on to the scores they decide.

Out of fold an image has one model's scores; a new image has the mean of all models', which are less spread out, so that
rare high scores get rarer and the same thresholds predict too little. What that does is seen on the new images
themselves, without any label: they have the scores of every single model too.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from aggregate.config import Transfer
from aggregate.thresholds.exact import matching_thresholds
from aggregate.thresholds.methods import clipped_logit


def transfer_thresholds(
    values: NDArray[np.float64], shares: NDArray[np.float64], by_model: NDArray[np.floating[Any]], transfer: Transfer
) -> NDArray[np.float64]:
    """Return thresholds for the mean of several models' scores.

    Parameters
    ----------
    values
        Shape (K,), tuned on scores of single models.
    shares
        Shape (K,), of the rows that these predict out of fold.
    by_model
        Shape (F, N, K), the scores of F models for the N images to decide.
    transfer
        ``none`` leaves the values; ``shares`` predicts the same shares on these images; ``spread`` puts each as many
        standard deviations from the mean as it was, with mean and deviation of the logits over these images, of the
        single models and of their mean.

    Returns
    -------
    ndarray
        Shape (K,).
    """
    if transfer == "shares":
        return matching_thresholds(by_model.mean(axis=0), shares)
    if transfer == "spread" and len(by_model) > 1:
        return _by_spread(values, by_model)
    return values


def _by_spread(values: NDArray[np.float64], by_model: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    single = clipped_logit(by_model).reshape(-1, by_model.shape[2])
    joint = clipped_logit(by_model.mean(axis=0))
    spread = single.std(axis=0)
    factor = np.divide(joint.std(axis=0), spread, out=np.ones(len(values)), where=spread > 0)
    carried: NDArray[np.float64] = expit(joint.mean(axis=0) + (clipped_logit(values) - single.mean(axis=0)) * factor)
    return carried

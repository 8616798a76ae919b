"""Calibrate pooled scores into probabilities, class by class."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from scipy.special import expit

from aggregate.config import AggregateSection
from aggregate.thresholds.methods import clipped_logit
from hpa.work.records import STRICT

_MIN_POSITIVES: Final = 2
"""A class with fewer positives or fewer negatives keeps its scores."""


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """A map from the scores of one class to probabilities.

    Parameters
    ----------
    slope, intercept, per_log_crop
        On the logit scale: slope * logit(score) + per_log_crop * log(crops) + intercept.
    knots
        Isotonic: probabilities after the step above and the values they map to, linear in between. Empty for Platt.
    """

    slope: float = 1.0
    intercept: float = 0.0
    per_log_crop: float = 0.0
    knots: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    def apply(self, scores: NDArray[np.floating[Any]], n_crops: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return calibrated probabilities, shape (N,), for scores (N,) of images with `n_crops` (N,) crops each."""
        if self == Calibration():
            return np.asarray(scores, dtype=np.float64)
        logits = self.slope * clipped_logit(scores) + self.per_log_crop * _log_crops(n_crops) + self.intercept
        probabilities: NDArray[np.float64] = expit(logits)
        return np.interp(probabilities, *self.knots) if self.knots[0] else probabilities


def fit_calibration(
    positive: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]],
    n_crops: NDArray[np.integer[Any]],
    section: AggregateSection,
) -> Calibration:
    """Fit Platt's sigmoid or an isotonic function to the scores of one class.

    If the recipe sets `calibrate_bag_size`, the number of crops is a second input. An isotonic function takes only one
    input, so it is then fitted on top of Platt's sigmoid.

    Parameters
    ----------
    positive, scores, n_crops
        Shape (N,), of one class.
    section
        The recipe section.

    Returns
    -------
    Calibration
        The identity for a class with fewer than two positives or negatives.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    if section.calibration == "none" or min(positive.sum(), (~positive).sum()) < _MIN_POSITIVES:
        return Calibration()
    sigmoid = Calibration()
    if section.calibration == "platt" or section.calibrate_bag_size:
        inputs = np.column_stack([clipped_logit(scores), _log_crops(n_crops)])
        if not section.calibrate_bag_size:
            inputs[:, 1] = 0
        fitted = LogisticRegression(C=1e4).fit(inputs, positive)
        slope, per_log_crop = fitted.coef_[0]
        sigmoid = Calibration(float(slope), float(fitted.intercept_[0]), float(per_log_crop))
        if section.calibration == "platt":
            return sigmoid
    isotonic = IsotonicRegression(y_min=0, y_max=1).fit(sigmoid.apply(scores, n_crops), positive)
    knots = tuple(map(float, isotonic.X_thresholds_)), tuple(map(float, isotonic.y_thresholds_))
    return Calibration(sigmoid.slope, sigmoid.intercept, sigmoid.per_log_crop, knots)


def _log_crops(n_crops: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    logs: NDArray[np.float64] = np.log(np.maximum(n_crops, 1))
    return logs

"""Making pooled scores probabilities again, class by class."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from aggregate.config import AggregateSection
from aggregate.thresholds.methods import clipped_logit

_MIN_POSITIVES: Final = 2
"""With fewer positives (or negatives) than this a class keeps its scores."""


@dataclass(frozen=True)
class Calibration:
    """How the scores of one class become probabilities.

    Parameters
    ----------
    slope, intercept, per_log_crop
        On the logit scale: slope * logit(score) + per_log_crop * log(crops) + intercept.
    knots
        Isotonic: probabilities after the step above, and what they become; linear between. Empty for Platt.
    """

    slope: float = 1.0
    intercept: float = 0.0
    per_log_crop: float = 0.0
    knots: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    def apply(self, scores: NDArray[np.floating[Any]], n_crops: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Return probabilities, shape (N,), of the scores (N,) of images with so many crops (N,)."""
        if self == Calibration():
            return np.asarray(scores, dtype=np.float64)
        bent = self.slope * clipped_logit(scores) + self.per_log_crop * _log_crops(n_crops) + self.intercept
        probabilities: NDArray[np.float64] = expit(bent)
        return np.interp(probabilities, *self.knots) if self.knots[0] else probabilities


def fit_calibration(
    positive: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]],
    n_crops: NDArray[np.integer[Any]],
    section: AggregateSection,
) -> Calibration:
    """Fit Platt's sigmoid or an isotonic function of the score and, if the recipe says so, of the number of crops.

    The isotonic function follows Platt's fit where the number of crops is used, as it has one input.

    Parameters
    ----------
    positive, scores, n_crops
        Shape (N,), of one class.
    section
        The recipe's.

    Returns
    -------
    Calibration
        The identity for a class with fewer than two positives or negatives.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    if section.calibration == "none" or min(positive.sum(), (~positive).sum()) < _MIN_POSITIVES:
        return Calibration()
    bent = Calibration()
    if section.calibration == "platt" or section.calibrate_bag_size:
        inputs = np.column_stack([clipped_logit(scores), _log_crops(n_crops)])
        if not section.calibrate_bag_size:
            inputs[:, 1] = 0
        fitted = LogisticRegression(C=1e4).fit(inputs, positive)
        slope, per_log_crop = fitted.coef_[0]
        bent = Calibration(float(slope), float(fitted.intercept_[0]), float(per_log_crop))
        if section.calibration == "platt":
            return bent
    isotonic = IsotonicRegression(y_min=0, y_max=1).fit(bent.apply(scores, n_crops), positive)
    knots = tuple(map(float, isotonic.X_thresholds_)), tuple(map(float, isotonic.y_thresholds_))
    return Calibration(bent.slope, bent.intercept, bent.per_log_crop, knots)


def _log_crops(n_crops: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    logs: NDArray[np.float64] = np.log(np.maximum(n_crops, 1))
    return logs

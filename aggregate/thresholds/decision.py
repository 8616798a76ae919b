"""All that is fitted on out-of-fold rows, as one thing that is fitted and applied as a whole.

Choosing a pooling, weighing runs, calibrating and tuning thresholds each flatter themselves on the rows they were
fitted on. So they are fitted together on some rows and scored on others: `cross_fit` leaves each fold out once.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aggregate.config import AggregateSection
from aggregate.pooling.ensembles import fit_weights, join_scores
from aggregate.pooling.sources import Rows
from aggregate.thresholds.calibration import Calibration, fit_calibration
from aggregate.thresholds.decide import decide
from aggregate.thresholds.exact import matching_thresholds
from aggregate.thresholds.methods import class_fractions, fit_thresholds
from aggregate.thresholds.transfer import transfer_thresholds
from hpa.metrics import average_precision
from hpa.vocabulary import Vocabulary

_PARTS: Final = 5


@dataclass(frozen=True)
class Decision:
    """What was fitted.

    Parameters
    ----------
    weights
        Shape (R,), of the joined runs.
    pooling
        Shape (K,), which of the poolings each class takes.
    calibrations
        One a class.
    values
        Shape (K,), thresholds for scores of single models.
    shares
        Shape (K,), of the rows that these predict (or are meant to).
    support
        Shape (K,), positives among the rows.
    prior
        Shape (K,), frequencies of the classes among the rows.
    """

    weights: NDArray[np.float64]
    pooling: NDArray[np.intp]
    calibrations: tuple[Calibration, ...]
    values: NDArray[np.float64]
    shares: NDArray[np.float64]
    support: NDArray[np.int64]
    prior: NDArray[np.float64]

    def score(self, rows: Rows, section: AggregateSection) -> NDArray[np.float32]:
        """Return the scores that thresholds are held against: shape (N, K), float32."""
        joined = join_scores(_pick(rows.scores, self.pooling), self.weights, section)
        return _calibrated(joined, rows.n_crops, self.calibrations, self.prior)


def fit_decision(
    rows: Rows,
    targets: NDArray[np.bool_],
    groups: NDArray[np.integer[Any]],
    section: AggregateSection,
    labelled: NDArray[np.bool_] | None = None,
) -> Decision:
    """Fit everything on rows with known targets.

    Parameters
    ----------
    rows
        N images, each scored by a model that has not seen it.
    targets
        Shape (N, K).
    groups
        Shape (N,).
    section
        The recipe's.
    labelled
        Shape (N, K), of which classes it is known whether the image has them; None of all.
    """
    n_classes = targets.shape[1]
    known = np.ones_like(targets) if labelled is None else labelled
    # Average precision takes no notice of what has no label and the lowest score.
    ranked = np.where(known, rows.scores, 0)
    weights = fit_weights(targets, ranked[:, 0], section)
    pooling = _choose_pooling(ranked, targets, weights, section)
    joined = join_scores(_pick(rows.scores, pooling), weights, section)
    some = (rows.n_crops > 0)[:, None] & known
    calibrations = tuple(
        fit_calibration(targets[own, c], joined[own, c], rows.n_crops[own], section)
        for c, own in zip(range(n_classes), some.T, strict=True)
    )
    prior = targets.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    scores = _calibrated(joined, rows.n_crops, calibrations, prior)
    values = fit_thresholds(targets, scores, groups, section, known)
    shares = prior
    if section.thresholds == "prevalence":
        shares = class_fractions(prior, section)
    elif len(targets):
        shares = ((scores > values) & known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return Decision(weights, pooling, calibrations, values, shares, targets.sum(axis=0), prior)


@dataclass(frozen=True)
class CrossFitted:
    """Rows scored and decided by what was fitted on the other folds.

    Parameters
    ----------
    scores
        Shape (N, K), float32.
    predictions
        Shape (N, K), bool.
    """

    scores: NDArray[np.float32]
    predictions: NDArray[np.bool_]


def cross_fit(
    rows: Rows,
    targets: NDArray[np.bool_],
    groups: NDArray[np.integer[Any]],
    folds: NDArray[np.integer[Any]],
    section: AggregateSection,
    vocabulary: Vocabulary,
    labelled: NDArray[np.bool_] | None = None,
) -> CrossFitted:
    """Decide every row with what was fitted on the rows of the other folds only.

    Where only one fold was scored, its groups are shared out over five parts that take the place of folds. A class of
    which nothing is known in a row (`labelled`, shape (N, K)) is not tuned on, and not among the row's predictions.
    """
    if len(np.unique(folds)) < 2:
        numbers = np.unique(groups, return_inverse=True)[1]
        folds = np.random.default_rng(0).permutation(int(numbers.max()) + 1)[numbers] % _PARTS
    known = np.ones_like(targets) if labelled is None else labelled
    scores, predictions = np.empty(targets.shape, dtype=np.float32), np.empty(targets.shape, dtype=bool)
    for fold in np.unique(folds):
        left_out = folds == fold
        fitted = fit_decision(rows.take(~left_out), targets[~left_out], groups[~left_out], section, known[~left_out])
        scores[left_out] = fitted.score(rows.take(left_out), section)
        values = fitted.values
        if section.transfer == "shares" and np.count_nonzero(left_out) >= section.min_images:
            values = matching_thresholds(scores[left_out], fitted.shares)
        predictions[left_out] = decide(scores[left_out], values, section.empty, vocabulary) & known[left_out]
    return CrossFitted(scores, predictions)


def carried(decision: Decision, by_model: NDArray[np.float32], section: AggregateSection) -> NDArray[np.float64] | None:
    """Return thresholds for the mean of the models' scores (F, N, K), None where N is under `min_images`."""
    if by_model.shape[1] < section.min_images:
        return None
    return transfer_thresholds(decision.values, decision.shares, by_model, section.transfer)


def _choose_pooling(
    scores: NDArray[np.float32], targets: NDArray[np.bool_], weights: NDArray[np.float64], section: AggregateSection
) -> NDArray[np.intp]:
    """Return for every class the pooling with the highest average precision; the first where there is no positive."""
    if scores.shape[1] == 1:
        return np.zeros(targets.shape[1], dtype=np.intp)
    precision = np.zeros((scores.shape[1], targets.shape[1]))
    for v in range(scores.shape[1]):
        joined = join_scores(scores[:, v], weights, section)
        for c in np.flatnonzero(targets.any(axis=0)):
            precision[v, c] = average_precision(targets[:, c], joined[:, c])
    best: NDArray[np.intp] = precision.argmax(axis=0)
    return best


def _pick(scores: NDArray[np.float32], pooling: NDArray[np.intp]) -> NDArray[np.float32]:
    """Take of every class its own pooling: (R, V, N, K) to (R, N, K)."""
    if scores.shape[1] == 1:
        return scores[:, 0]
    return np.stack([scores[:, v, :, c] for c, v in enumerate(pooling)], axis=-1)


def _calibrated(
    scores: NDArray[np.float32],
    n_crops: NDArray[np.int64],
    calibrations: tuple[Calibration, ...],
    prior: NDArray[np.float64],
) -> NDArray[np.float32]:
    if any(calibration != Calibration() for calibration in calibrations):
        columns = [calibration.apply(scores[:, c], n_crops) for c, calibration in enumerate(calibrations)]
        scores = np.column_stack(columns).astype(np.float32)
    return np.where((n_crops > 0)[:, None], scores, prior.astype(np.float32))

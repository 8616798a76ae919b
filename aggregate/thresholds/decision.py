"""Fit pooling, run weights, calibration and thresholds together, and decide on labels with them.

Each of these is optimistic on the rows it was fitted on. They are therefore fitted together on some rows and scored on
others: `cross_fit` holds out each fold once.

Thresholds are tuned out of fold, where an image has the score of a single model, but a new image gets the mean over all
models. Means are less spread out: rare high scores become rarer, and the same thresholds predict too little.
`transfer_thresholds` measures this effect on the new images themselves, without any label, because they have the scores
of every single model too.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from aggregate.config import AggregateSection, Transfer
from aggregate.labels import Labels
from aggregate.pooling.ensembles import fit_weights, join_scores
from aggregate.pooling.sources import ImageScores
from aggregate.thresholds.calibration import Calibration, fit_calibration
from aggregate.thresholds.exact import matching_thresholds
from aggregate.thresholds.limits import ShareLimits, fit_limits
from aggregate.thresholds.methods import class_fractions, clipped_logit, fit_thresholds
from hpa.metrics import average_precision
from hpa.vocabulary import Vocabulary

_N_PARTS: Final = 5


def decide(
    scores: NDArray[np.floating[Any]], thresholds: NDArray[np.float64], empty: str, vocabulary: Vocabulary
) -> NDArray[np.bool_]:
    """Predict every class whose score is strictly above its threshold.

    Parameters
    ----------
    scores
        Shape (N, K), of any precision; they are compared without conversion.
    thresholds
        Shape (K,), or (N, K) for separate thresholds of each row.
    empty
        What a row without a class gets: ``"argmax"`` the class with its highest score, ``"blank"`` nothing, or the
        class of that name.
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


def transfer_thresholds(
    values: NDArray[np.float64], shares: NDArray[np.float64], by_model: NDArray[np.floating[Any]], transfer: Transfer
) -> NDArray[np.float64]:
    """Transfer thresholds from the scores of single models to the mean of several models.

    Parameters
    ----------
    values
        Shape (K,), thresholds tuned on scores of single models.
    shares
        Shape (K,), shares of the rows that these thresholds predict out of fold.
    by_model
        Shape (F, N, K), scores of F models for the N images to decide on.
    transfer
        ``none`` keeps the values; ``shares`` predicts the same shares on these images; ``spread`` keeps the distance of
        each threshold from the mean in standard deviations, with mean and deviation taken over the logits of these
        images, for the single models and for their mean.

    Returns
    -------
    ndarray
        Shape (K,).
    """
    if transfer == "shares":
        return matching_thresholds(by_model.mean(axis=0), shares)
    if transfer == "spread" and len(by_model) > 1:
        return _transfer_by_spread(values, by_model)
    return values


def _transfer_by_spread(values: NDArray[np.float64], by_model: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    single = clipped_logit(by_model).reshape(-1, by_model.shape[2])
    joint = clipped_logit(by_model.mean(axis=0))
    spread = single.std(axis=0)
    factor = np.divide(joint.std(axis=0), spread, out=np.ones(len(values)), where=spread > 0)
    moved: NDArray[np.float64] = expit(joint.mean(axis=0) + (clipped_logit(values) - single.mean(axis=0)) * factor)
    return moved


@dataclass(frozen=True)
class Decision:
    """Everything fitted on rows with known labels.

    Parameters
    ----------
    weights
        Shape (R,), of the joined runs.
    pooling
        Shape (K,), index of the pooling that each class takes.
    calibrations
        One per class.
    values
        Shape (K,), thresholds for scores of single models.
    shares
        Shape (K,), shares of the rows that these thresholds predict (or are meant to).
    support
        Shape (K,), positives among the rows.
    prior
        Shape (K,), class frequencies among the rows.
    limits
        How often each class may be predicted.
    """

    weights: NDArray[np.float64]
    pooling: NDArray[np.intp]
    calibrations: tuple[Calibration, ...]
    values: NDArray[np.float64]
    shares: NDArray[np.float64]
    support: NDArray[np.int64]
    prior: NDArray[np.float64]
    limits: ShareLimits

    def score(self, images: ImageScores, section: AggregateSection) -> NDArray[np.float32]:
        """Return the scores that thresholds apply to: shape (N, K), float32."""
        joined = join_scores(_select_pooling(images.scores, self.pooling), self.weights, section)
        return _calibrate(joined, images.n_crops, self.calibrations, self.prior)

    def transferred_values(
        self, by_model: NDArray[np.float32], section: AggregateSection
    ) -> NDArray[np.float64] | None:
        """Return thresholds for the mean of the models' scores (F, N, K); None if N is below `min_images`."""
        if by_model.shape[1] < section.min_images:
            return None
        transferred = transfer_thresholds(self.values, self.shares, by_model, section.applied_transfer)
        if section.applied_transfer == "none":
            return transferred
        return self.limits.apply(transferred, by_model.mean(axis=0))


def fit_decision(images: ImageScores, labels: Labels, section: AggregateSection) -> Decision:
    """Fit pooling, run weights, calibration and thresholds.

    Parameters
    ----------
    images
        Scores of N images, each by a model that was not trained on it.
    labels
        Of the same N images.
    section
        The recipe section.
    """
    targets, known = labels.targets, labels.known
    # A negative with the lowest score does not change average precision, so unknown pairs become that.
    ranked = np.where(known, images.scores, 0)
    weights = fit_weights(targets, ranked[:, 0], section)
    pooling = _choose_pooling(ranked, targets, weights, section)
    joined = join_scores(_select_pooling(images.scores, pooling), weights, section)
    usable = (images.n_crops > 0)[:, None] & known
    calibrations = tuple(
        fit_calibration(targets[own, c], joined[own, c], images.n_crops[own], section) for c, own in enumerate(usable.T)
    )
    prior = labels.frequencies
    scores = _calibrate(joined, images.n_crops, calibrations, prior)
    values = fit_thresholds(labels, scores, section)
    limits = ShareLimits.none(len(prior))
    if section.limits_shares and len(labels):
        limits, values = fit_limits(values, labels, scores)
    shares = prior
    if section.thresholds == "prevalence":
        shares = class_fractions(prior, section)
    elif len(labels):
        shares = ((scores > values) & known).sum(axis=0) / np.maximum(labels.n_known, 1)
    return Decision(weights, pooling, calibrations, values, shares, labels.support, prior, limits)


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


def cross_fit(images: ImageScores, labels: Labels, section: AggregateSection, vocabulary: Vocabulary) -> CrossFitted:
    """Decide on every row with what was fitted on the rows of the other folds only.

    If only one fold was scored, its groups are divided into five parts that take the place of folds. Classes that are
    unknown for a row are neither tuned on nor predicted for it.
    """
    folds = labels.folds
    if len(np.unique(folds)) < 2:
        numbers = np.unique(labels.groups, return_inverse=True)[1]
        folds = np.random.default_rng(0).permutation(int(numbers.max()) + 1)[numbers] % _N_PARTS
    shape = labels.targets.shape
    scores, predictions = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=bool)
    for fold in np.unique(folds):
        held_out = folds == fold
        fitted = fit_decision(images.take(~held_out), labels.take(~held_out), section)
        scores[held_out] = fitted.score(images.take(held_out), section)
        values = fitted.values
        if section.applied_transfer == "shares" and np.count_nonzero(held_out) >= section.min_images:
            values = matching_thresholds(scores[held_out], fitted.shares)
        predictions[held_out] = decide(scores[held_out], values, section.empty, vocabulary) & labels.known[held_out]
    return CrossFitted(scores, predictions)


def _choose_pooling(
    scores: NDArray[np.float32], targets: NDArray[np.bool_], weights: NDArray[np.float64], section: AggregateSection
) -> NDArray[np.intp]:
    """Return the pooling with the highest average precision for every class; the first if it has no positive."""
    if scores.shape[1] == 1:
        return np.zeros(targets.shape[1], dtype=np.intp)
    precision = np.zeros((scores.shape[1], targets.shape[1]))
    for v in range(scores.shape[1]):
        joined = join_scores(scores[:, v], weights, section)
        for c in np.flatnonzero(targets.any(axis=0)):
            precision[v, c] = average_precision(targets[:, c], joined[:, c])
    best: NDArray[np.intp] = precision.argmax(axis=0)
    return best


def _select_pooling(scores: NDArray[np.float32], pooling: NDArray[np.intp]) -> NDArray[np.float32]:
    """Select the pooling of every class: (R, V, N, K) to (R, N, K)."""
    if scores.shape[1] == 1:
        return scores[:, 0]
    return np.stack([scores[:, v, :, c] for c, v in enumerate(pooling)], axis=-1)


def _calibrate(
    scores: NDArray[np.float32],
    n_crops: NDArray[np.int64],
    calibrations: tuple[Calibration, ...],
    prior: NDArray[np.float64],
) -> NDArray[np.float32]:
    if any(calibration != Calibration() for calibration in calibrations):
        columns = [calibration.apply(scores[:, c], n_crops) for c, calibration in enumerate(calibrations)]
        scores = np.column_stack(columns).astype(np.float32)
    return np.where((n_crops > 0)[:, None], scores, prior.astype(np.float32))

"""Pooling, run weights, calibration and thresholds are fitted on the other folds only, so that scores are unbiased."""

import numpy as np
import pytest
from scipy.special import expit, logit

from aggregate.config import KINDS, AggregateSection
from aggregate.labels import Labels
from aggregate.pooling.ensembles import fit_weights, join_scores, ranks
from aggregate.pooling.sources import ImageScores
from aggregate.thresholds.calibration import Calibration, fit_calibration
from aggregate.thresholds.decision import cross_fit, decide, fit_decision, transfer_thresholds
from hpa.errors import UserError
from hpa.vocabulary import Vocabulary
from tests.support.simulation.probabilities import draw_images, score_cells

THREE = Vocabulary("three", ("a", "b", "c"))


def _images(n: int = 120, runs: int = 1, kinds: int = 1, seed: int = 0) -> tuple[ImageScores, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    targets = draw.random((n, 3)) < np.array([0.5, 0.3, 0.1])
    noise = 0.2 * draw.standard_normal((runs, kinds, n, 3))
    scores = np.clip(0.35 + 0.25 * targets + noise, 0, 1).astype(np.float32)
    return ImageScores(scores, draw.integers(1, 30, n)), targets, np.arange(n) // 2


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "per-class", "thresholds": "per-class"},
        {"calibration": "platt", "thresholds": "global"},
        {"calibration": "isotonic", "thresholds": "cyclic"},
        {"fit_join_weights": True, "join": ("x",), "thresholds": "repeated"},
    ],
)
@pytest.mark.parametrize("n_folds", [2, 3])
def test_labels_of_a_fold_do_not_affect_its_own_predictions(settings: dict[str, object], n_folds: int) -> None:
    section = AggregateSection.model_validate(settings)
    images, targets, groups = _images(runs=1 + len(section.join), kinds=len(section.kinds))
    folds = groups % n_folds
    labels = Labels.all_known(targets, groups, folds)
    fitted = cross_fit(images, labels, section, THREE)
    for fold in range(n_folds):
        own = folds == fold
        flipped = targets.copy()
        flipped[own] = ~flipped[own]
        again = cross_fit(images, Labels.all_known(flipped, groups, folds), section, THREE)
        np.testing.assert_array_equal(again.predictions[own], fitted.predictions[own])
        np.testing.assert_array_equal(again.scores[own], fitted.scores[own])
        other = fit_decision(images.take(~own), labels.take(~own), section)
        scores = other.score(images.take(own), section)
        np.testing.assert_array_equal(fitted.predictions[own], decide(scores, other.values, "argmax", THREE))


def test_prevalence_is_matched_on_the_scores_of_the_held_out_fold() -> None:
    """Every held-out fold is predicted as often as labelled on the others, whatever the range of its own scores."""
    section = AggregateSection(thresholds="prevalence", transfer="shares", empty="blank", min_images=2)
    images, targets, groups = _images()
    folds = groups % 3
    scores = images.scores * np.where(folds == 1, 0.5, 1)[:, None].astype(np.float32)
    fitted = cross_fit(ImageScores(scores, images.n_crops), Labels.all_known(targets, groups, folds), section, THREE)
    for fold in range(3):
        wanted = np.round(targets[folds != fold].mean(axis=0) * (folds == fold).sum())
        assert fitted.predictions[folds == fold].sum(axis=0).tolist() == wanted.tolist()


def test_a_single_fold_is_divided_by_groups() -> None:
    """Calibrated scores depend on all labels that they were fitted on, so that any leak within a group changes them."""
    section = AggregateSection(calibration="platt")
    images, targets, _ = _images()
    groups = np.arange(120) % 10  # siblings are not adjacent
    fitted = cross_fit(images, Labels.all_known(targets, groups), section, THREE)
    for group in range(10):
        own = groups == group
        changed = targets.copy()
        changed[own] = ~changed[own]
        again = cross_fit(images, Labels.all_known(changed, groups), section, THREE)
        np.testing.assert_array_equal(again.scores[own], fitted.scores[own])
        np.testing.assert_array_equal(again.predictions[own], fitted.predictions[own])
        assert (again.scores[~own] != fitted.scores[~own]).any()


def test_a_single_image() -> None:
    images, targets, groups = _images(1)
    fitted = cross_fit(images, Labels.all_known(targets, groups), AggregateSection(), THREE)
    assert fitted.predictions.sum() >= 1  # without rows thresholds are 0.5; an empty row gets its highest score


def test_each_class_uses_its_own_best_pooling() -> None:
    section = AggregateSection(pooling="per-class")
    images, targets, groups = _images(kinds=len(KINDS))
    scores = images.scores.copy()
    scores[:, 4, :, 1] = np.where(targets[:, 1], 0.9, 0.1)
    scores[:, 2, :, 2] = np.where(targets[:, 2], 0.9, 0.1)
    decision = fit_decision(ImageScores(scores, images.n_crops), Labels.all_known(targets, groups), section)
    assert decision.pooling.tolist()[1:] == [4, 2]
    chosen = decision.score(ImageScores(scores, images.n_crops), section)
    np.testing.assert_array_equal(chosen[:, 1], scores[0, 4, :, 1])
    np.testing.assert_array_equal(chosen[:, 0], scores[0, decision.pooling[0], :, 0])


def test_choosing_among_noise_is_optimistic_only_in_sample() -> None:
    """All poolings are noise: chosen on the same rows they exceed chance, cross-fitted they do not."""
    from hpa.metrics import roc_auc

    section = AggregateSection(pooling="per-class")
    in_sample, out_of_fold = [], []
    for seed in range(15):
        draw = np.random.default_rng(seed)
        targets = draw.random((150, 3)) < 0.4
        images = ImageScores(draw.random((1, len(KINDS), 150, 3), dtype=np.float32), np.ones(150, np.int64))
        folds = np.arange(150) % 5
        labels = Labels.all_known(targets, folds=folds)
        scores = fit_decision(images, labels, section).score(images, section)
        cross_fitted = cross_fit(images, labels, section, THREE).scores
        in_sample.append(np.mean([roc_auc(targets[:, c], scores[:, c]) for c in range(3)]))
        out_of_fold.append(np.mean([roc_auc(targets[:, c], cross_fitted[:, c]) for c in range(3)]))
    assert np.mean(in_sample) > 0.54
    assert abs(np.mean(out_of_fold) - 0.5) < 0.02


def test_an_image_without_crops_gets_the_prior() -> None:
    images, targets, groups = _images()
    n_crops = images.n_crops.copy()
    n_crops[5] = 0
    lacking = ImageScores(images.scores, n_crops)
    decision = fit_decision(lacking, Labels.all_known(targets, groups), AggregateSection(calibration="platt"))
    scores = decision.score(lacking, AggregateSection())
    np.testing.assert_allclose(scores[5], targets.mean(axis=0), rtol=1e-6)


def test_joining_runs() -> None:
    scores = np.random.default_rng(0).random((2, 10, 3), dtype=np.float32)
    weights = np.array([0.25, 0.75])
    np.testing.assert_allclose(
        join_scores(scores, weights, AggregateSection()), 0.25 * scores[0] + 0.75 * scores[1], rtol=1e-6
    )
    np.testing.assert_array_equal(join_scores(scores, weights, AggregateSection(join_by="max")), scores.max(axis=0))
    assert sorted(ranks(scores)[0, :, 1]) == pytest.approx((np.arange(10) + 0.5) / 10)
    np.testing.assert_array_equal(np.argsort(ranks(scores), axis=1), np.argsort(scores, axis=1))


def test_fitted_weights_find_the_better_run() -> None:
    images, targets, _ = _images(400, runs=3)
    scores = images.scores[:, 0].copy()
    scores[2] = np.random.default_rng(1).random(scores[2].shape)  # carries no information
    weights = fit_weights(targets, scores, AggregateSection(fit_join_weights=True, join=("x", "y")))
    assert weights.sum() == pytest.approx(1)
    assert weights[2] <= 0.1
    assert min(weights[:2]) >= 0.2
    given = fit_weights(targets, scores, AggregateSection(join=("x", "y"), join_weights=(1, 2, 1)))
    assert given.tolist() == [0.25, 0.5, 0.25]


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_calibration_recovers_probabilities(kind: str) -> None:
    """Maxima over bags rise with the number of crops at the same probability."""
    draw = np.random.default_rng(0)
    n = 20_000
    n_crops = draw.integers(1, 40, n)
    z = draw.standard_normal(n) - 1
    positive = draw.random(n) < 1 / (1 + np.exp(-z))
    scores = 1 / (1 + np.exp(-(1.5 * z + 0.8 * np.log(n_crops) + 0.3)))
    section = AggregateSection.model_validate({"calibration": kind})
    fitted = fit_calibration(positive, scores, n_crops, section).apply(scores, n_crops)
    assert np.abs(fitted - 1 / (1 + np.exp(-z))).mean() < 0.02
    blind = AggregateSection.model_validate({"calibration": kind, "calibrate_bag_size": False})
    without = fit_calibration(positive, scores, n_crops, blind).apply(scores, n_crops)
    assert np.abs(without - 1 / (1 + np.exp(-z))).mean() > 0.05
    order = np.argsort(scores)
    assert (np.diff(without[order]) >= -1e-12).all()  # non-decreasing


def test_a_class_with_one_positive_keeps_its_scores() -> None:
    scores = np.linspace(0, 1, 50)
    positive = np.arange(50) == 49
    found = fit_calibration(positive, scores, np.ones(50, int), AggregateSection(calibration="platt"))
    assert found == Calibration()
    np.testing.assert_array_equal(found.apply(scores, np.ones(50, int)), scores)


def test_the_windows_of_a_run_share_its_weight() -> None:
    targets, scores = np.eye(2, dtype=bool), np.zeros((3, 2, 2), dtype=np.float32)
    given = AggregateSection(join=("other",), join_weights=(3.0, 1.0))
    assert fit_weights(targets, scores, given).tolist() == [0.375, 0.375, 0.25]
    assert fit_weights(targets, scores, AggregateSection(join=("other",))).tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("calibration", ["none", "platt", "isotonic"])
def test_unknown_pairs_are_not_fitted_on(calibration: str) -> None:
    section = AggregateSection.model_validate(
        {"calibration": calibration, "pooling": "per-class", "fit_join_weights": True, "join": ("x",)}
    )
    images, targets, groups = _images(runs=2, kinds=len(section.kinds))
    draw = np.random.default_rng(8)
    known = draw.random(targets.shape) < 0.7
    targets &= known
    other = ImageScores(
        np.where(known, images.scores, draw.random(images.scores.shape).astype(np.float32)), images.n_crops
    )
    labels = Labels(targets, known, groups, groups % 3)
    fitted, again = (fit_decision(one, labels, section) for one in (images, other))
    for name in ("weights", "pooling", "values", "shares", "support", "prior"):
        np.testing.assert_array_equal(getattr(fitted, name), getattr(again, name))
    assert fitted.calibrations == again.calibrations
    scores = fitted.score(images, section)
    for c, own in enumerate(known.T):
        assert fitted.prior[c] == pytest.approx(np.mean(targets[own, c]))
        assert fitted.shares[c] == pytest.approx(np.mean(scores[own, c] > fitted.values[c]))
        joined = join_scores(images.scores[:, fitted.pooling[c]], fitted.weights, section)
        alone = fit_calibration(targets[own, c], joined[own, c], images.n_crops[own], section)
        assert fitted.calibrations[c] == alone
    cross_fitted = cross_fit(images, labels, section, THREE)
    assert not (cross_fitted.predictions & ~known).any()
    assert (cross_fitted.scores[~known] > 0).any()  # scores of unknown classes are kept


def test_labels_of_rows_without_a_class() -> None:
    scores = np.array([[0.1, 0.3, 0.2], [0.9, 0.5, 0.1]])
    thresholds = np.array([0.5, 0.5, 0.5])
    for empty, first in (("argmax", [0, 1, 0]), ("blank", [0, 0, 0]), ("c", [0, 0, 1])):
        decided = decide(scores, thresholds, empty, THREE)
        assert decided.astype(int).tolist() == [first, [1, 0, 0]]  # 0.5 is not above 0.5
    with pytest.raises(UserError, match="found 'd'"):
        decide(scores, thresholds, "d", THREE)


def test_scores_of_one_model_need_no_transfer() -> None:
    draw = np.random.default_rng(0)
    values, shares = np.array([0.2, 0.9]), np.array([0.3, 0.1])
    one = draw.random((1, 50, 2)).astype(np.float32)
    np.testing.assert_array_equal(transfer_thresholds(values, shares, one, "spread"), values)
    np.testing.assert_array_equal(transfer_thresholds(values, shares, np.repeat(one, 3, axis=0), "none"), values)
    np.testing.assert_allclose(
        transfer_thresholds(values, shares, np.repeat(one, 3, axis=0), "spread"), values, atol=1e-6
    )


def test_transferred_thresholds_match_shares_on_the_mean_of_models() -> None:
    by_model = np.random.default_rng(0).random((3, 200, 2))
    transferred = transfer_thresholds(np.array([0.5, 0.5]), np.array([0.25, 0.1]), by_model, "shares")
    assert (by_model.mean(axis=0) > transferred).sum(axis=0).tolist() == [50, 20]


def test_transfer_by_spread_in_closed_form() -> None:
    """Small normal logits: the mean of two models is narrower by the square root of 2, with the same centre."""
    z = 0.02 * np.random.default_rng(0).standard_normal((2, 200_000, 1))
    transferred = transfer_thresholds(expit(np.array([0.03])), np.array([0.1]), expit(z), "spread")
    np.testing.assert_allclose(logit(transferred), 0.03 / np.sqrt(2), rtol=0.01)


def test_transfer_by_spread_corrects_for_the_mean_of_models() -> None:
    """Simulated cells: unchanged thresholds predict too little on the mean of models, transferred ones do not."""
    rng = np.random.default_rng(3)
    images = draw_images(4000, 0.7, rng)
    scores = [
        np.maximum.reduceat(score_cells(images, np.zeros(28), 1.0, rng), images.first_rows, axis=0) for _ in range(5)
    ]
    by_model = np.stack(scores)
    frequent = images.targets.sum(axis=0) > 100
    values = np.quantile(by_model[0], 0.95, axis=0)
    wanted = (by_model > values).mean(axis=(0, 1))[frequent]
    unchanged = (by_model.mean(axis=0) > values).mean(axis=0)[frequent]
    transferred = transfer_thresholds(values.astype(np.float64), np.zeros(28), by_model, "spread")
    corrected = (by_model.mean(axis=0) > transferred).mean(axis=0)[frequent]
    assert np.median(unchanged / wanted) < 0.9
    assert abs(np.median(corrected / wanted) - 1) < 0.05

"""What is fitted out of fold is fitted on the other folds only, and does not flatter itself."""

import numpy as np
import pytest

from aggregate.config import KINDS, AggregateSection
from aggregate.pooling.ensembles import fit_weights, join_scores, ranks
from aggregate.pooling.sources import Rows
from aggregate.thresholds.calibration import Calibration, fit_calibration
from aggregate.thresholds.decide import decide
from aggregate.thresholds.decision import cross_fit, fit_decision
from hpa.vocabulary import Vocabulary

THREE = Vocabulary("three", ("a", "b", "c"))


def _rows(n: int = 120, runs: int = 1, kinds: int = 1, seed: int = 0) -> tuple[Rows, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    targets = draw.random((n, 3)) < np.array([0.5, 0.3, 0.1])
    noise = 0.2 * draw.standard_normal((runs, kinds, n, 3))
    scores = np.clip(0.35 + 0.25 * targets + noise, 0, 1).astype(np.float32)
    return Rows(scores, draw.integers(1, 30, n)), targets, np.arange(n) // 2


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
def test_a_fold_s_own_labels_change_nothing_in_it(settings: dict[str, object]) -> None:
    section = AggregateSection.model_validate(settings)
    rows, targets, groups = _rows(runs=1 + len(section.join), kinds=len(section.kinds))
    folds = groups % 3
    fitted = cross_fit(rows, targets, groups, folds, section, THREE)
    for fold in range(3):
        own = folds == fold
        turned = targets.copy()
        turned[own] = ~turned[own]
        again = cross_fit(rows, turned, groups, folds, section, THREE)
        np.testing.assert_array_equal(again.predictions[own], fitted.predictions[own])
        np.testing.assert_array_equal(again.scores[own], fitted.scores[own])
        other = fit_decision(rows.take(~own), targets[~own], groups[~own], section)
        scores = other.score(rows.take(own), section)
        np.testing.assert_array_equal(fitted.predictions[own], decide(scores, other.values, "argmax", THREE))


def test_prevalence_is_matched_on_the_scores_it_is_applied_to() -> None:
    """Every fold left out is predicted as often as labelled on the others, wherever its own scores lie."""
    section = AggregateSection(thresholds="prevalence", transfer="shares", empty="blank", min_images=2)
    rows, targets, groups = _rows()
    folds = groups % 3
    scores = rows.scores * np.where(folds == 1, 0.5, 1)[:, None].astype(np.float32)
    fitted = cross_fit(Rows(scores, rows.n_crops), targets, groups, folds, section, THREE)
    for fold in range(3):
        wanted = np.round(targets[folds != fold].mean(axis=0) * (folds == fold).sum())
        assert fitted.predictions[folds == fold].sum(axis=0).tolist() == wanted.tolist()


def test_one_fold_only_is_shared_out_by_groups() -> None:
    rows, targets, groups = _rows()
    fitted = cross_fit(rows, targets, groups, np.zeros(120, int), AggregateSection(), THREE)
    changed = targets.copy()
    changed[groups == 7] = ~changed[groups == 7]
    again = cross_fit(rows, changed, groups, np.zeros(120, int), AggregateSection(), THREE)
    np.testing.assert_array_equal(again.predictions[groups == 7], fitted.predictions[groups == 7])


def test_one_image() -> None:
    rows, targets, groups = _rows(1)
    fitted = cross_fit(rows, targets, groups, np.zeros(1, int), AggregateSection(), THREE)
    assert fitted.predictions.sum() >= 1  # thresholds of nothing are 0.5; the highest where nothing is above


def test_each_class_takes_its_own_best_pooling() -> None:
    section = AggregateSection(pooling="per-class")
    rows, targets, groups = _rows(kinds=len(KINDS))
    scores = rows.scores.copy()
    scores[:, 4, :, 1] = np.where(targets[:, 1], 0.9, 0.1)
    scores[:, 2, :, 2] = np.where(targets[:, 2], 0.9, 0.1)
    decision = fit_decision(Rows(scores, rows.n_crops), targets, groups, section)
    assert decision.pooling.tolist()[1:] == [4, 2]
    chosen = decision.score(Rows(scores, rows.n_crops), section)
    np.testing.assert_array_equal(chosen[:, 1], scores[0, 4, :, 1])
    np.testing.assert_array_equal(chosen[:, 0], scores[0, decision.pooling[0], :, 0])


def test_choosing_among_noise_flatters_only_in_sample() -> None:
    """All poolings are noise: chosen on the rows themselves they look better than chance, cross-fitted they do not."""
    from hpa.metrics import roc_auc

    section = AggregateSection(pooling="per-class")
    gains, honest = [], []
    for seed in range(15):
        draw = np.random.default_rng(seed)
        targets = draw.random((150, 3)) < 0.4
        rows = Rows(draw.random((1, len(KINDS), 150, 3), dtype=np.float32), np.ones(150, np.int64))
        folds = np.arange(150) % 5
        scores = fit_decision(rows, targets, folds, section).score(rows, section)
        crossed = cross_fit(rows, targets, np.arange(150), folds, section, THREE).scores
        gains.append(np.mean([roc_auc(targets[:, c], scores[:, c]) for c in range(3)]))
        honest.append(np.mean([roc_auc(targets[:, c], crossed[:, c]) for c in range(3)]))
    assert np.mean(gains) > 0.54
    assert abs(np.mean(honest) - 0.5) < 0.02


def test_an_image_without_crops_gets_the_prior() -> None:
    rows, targets, groups = _rows()
    n_crops = rows.n_crops.copy()
    n_crops[5] = 0
    decision = fit_decision(Rows(rows.scores, n_crops), targets, groups, AggregateSection(calibration="platt"))
    scores = decision.score(Rows(rows.scores, n_crops), AggregateSection())
    np.testing.assert_allclose(scores[5], targets.mean(axis=0), rtol=1e-6)


def test_joining() -> None:
    scores = np.random.default_rng(0).random((2, 10, 3), dtype=np.float32)
    weights = np.array([0.25, 0.75])
    np.testing.assert_allclose(
        join_scores(scores, weights, AggregateSection()), 0.25 * scores[0] + 0.75 * scores[1], rtol=1e-6
    )
    np.testing.assert_array_equal(join_scores(scores, weights, AggregateSection(join_by="max")), scores.max(axis=0))
    assert sorted(ranks(scores)[0, :, 1]) == pytest.approx((np.arange(10) + 0.5) / 10)
    np.testing.assert_array_equal(np.argsort(ranks(scores), axis=1), np.argsort(scores, axis=1))


def test_fitted_weights_find_the_better_run() -> None:
    rows, targets, _ = _rows(400, runs=3)
    scores = rows.scores[:, 0].copy()
    scores[2] = np.random.default_rng(1).random(scores[2].shape)  # says nothing
    weights = fit_weights(targets, scores, AggregateSection(fit_join_weights=True, join=("x", "y")))
    assert weights.sum() == pytest.approx(1)
    assert weights[2] <= 0.1
    assert min(weights[:2]) >= 0.2
    given = fit_weights(targets, scores, AggregateSection(join=("x", "y"), join_weights=(1, 2, 1)))
    assert given.tolist() == [0.25, 0.5, 0.25]


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_calibration_finds_probabilities_again(kind: str) -> None:
    """Maxima over bags: the more crops, the higher, at the same probability."""
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
    assert (np.diff(without[order]) >= -1e-12).all()  # rising


def test_a_class_with_hardly_a_positive_keeps_its_scores() -> None:
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
def test_rows_of_which_nothing_is_known_are_not_fitted_on(calibration: str) -> None:
    section = AggregateSection.model_validate(
        {"calibration": calibration, "pooling": "per-class", "fit_join_weights": True, "join": ("x",)}
    )
    rows, targets, groups = _rows(runs=2, kinds=len(section.kinds))
    draw = np.random.default_rng(8)
    known = draw.random(targets.shape) < 0.7
    targets &= known
    other = Rows(np.where(known, rows.scores, draw.random(rows.scores.shape).astype(np.float32)), rows.n_crops)
    fitted, again = (fit_decision(one, targets, groups, section, known) for one in (rows, other))
    for name in ("weights", "pooling", "values", "shares", "support", "prior"):
        np.testing.assert_array_equal(getattr(fitted, name), getattr(again, name))
    assert fitted.calibrations == again.calibrations
    scores = fitted.score(rows, section)
    for c, own in enumerate(known.T):
        assert fitted.prior[c] == pytest.approx(np.mean(targets[own, c]))
        assert fitted.shares[c] == pytest.approx(np.mean(scores[own, c] > fitted.values[c]))
        joined = join_scores(rows.scores[:, fitted.pooling[c]], fitted.weights, section)
        alone = fit_calibration(targets[own, c], joined[own, c], rows.n_crops[own], section)
        assert fitted.calibrations[c] == alone
    crossed = cross_fit(rows, targets, groups, groups % 3, section, THREE, known)
    assert not (crossed.predictions & ~known).any()
    assert (crossed.scores[~known] > 0).any()  # what was said stays

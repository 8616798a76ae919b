"""A class is predicted far more often than labelled only if its scores out of fold support it."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import fisher_exact

from aggregate.config import AggregateSection
from aggregate.labels import Labels
from aggregate.pooling.sources import ImageScores
from aggregate.scoring.metrics import class_table, summary
from aggregate.scoring.terminal import print_summary
from aggregate.thresholds.decision import Decision, fit_decision
from aggregate.thresholds.limits import ShareLimits
from aggregate.thresholds.limits import fit_limits as limit
from bench.simulation.probabilities import K, draw_images, score_cells
from hpa.vocabulary import HPA28

UNLEARNED = (0, 5, 11, 17, 23)
"""From 41 to 1 percent of the images."""


def _world(n_test: int = 300) -> tuple[Labels, ImageScores, np.ndarray]:
    """Return train images scored by one of two models each, and test images scored by both: shape (2, N, K)."""
    rng = np.random.default_rng(4)
    biases = rng.normal(0, 0.3, (2, K))
    train, test = (draw_images(n, 0.65, rng, unlearned=UNLEARNED) for n in (800, n_test))
    folds = train.groups % 2

    def pooled(images: Any, bias: np.ndarray) -> np.ndarray:
        return np.maximum.reduceat(score_cells(images, bias, 1.0, rng), images.first_rows, axis=0)

    scores = pooled(train, biases[folds])[None, None]
    labels = Labels.all_known(train.targets, train.groups, folds)
    return labels, ImageScores(scores, np.ones(800, np.int64)), np.stack([pooled(test, bias) for bias in biases])


def _shares(decision: Decision, by_model: np.ndarray, section: AggregateSection) -> np.ndarray:
    """Return how many times as often as labelled each class is predicted for new images."""
    values = decision.transferred_values(by_model, section)
    assert values is not None
    shares: np.ndarray = (by_model.mean(axis=0) > values).mean(axis=0) / np.maximum(decision.prior, 1 / 800)
    return shares


def fit_limits(labels: Labels, scores: np.ndarray) -> ShareLimits:
    return limit(np.full(scores.shape[1], 0.5), labels, scores)[0]


def test_classes_that_nobody_learned_do_not_flood_the_labels() -> None:
    labels, images, by_model = _world()
    limited, flooding = AggregateSection(), AggregateSection(limit_shares=False)
    before = _shares(fit_decision(images, labels, flooding), by_model, flooding)
    decision = fit_decision(images, labels, limited)
    after = _shares(decision, by_model, limited)
    unlearned = np.isin(np.arange(K), UNLEARNED)
    assert (before[unlearned] > 2).sum() >= 4  # otherwise the limit is not needed
    assert decision.limits.at_chance[unlearned].sum() >= 4
    at_chance = decision.limits.at_chance
    assert (after[at_chance] * decision.prior[at_chance] >= 1 / 300).all()
    assert 0.5 < after[at_chance & unlearned].mean() < 1.5
    unsupported = (decision.limits.shares <= 2 * decision.prior) & (labels.support > 0)
    assert (after[unsupported] <= 2 + 0.5 / 300 / decision.prior[unsupported]).all()
    learned = ~unlearned & (labels.support >= 20)
    assert not at_chance[learned].any()
    np.testing.assert_array_equal(after[learned], before[learned])
    out_of_fold = (images.scores[0, 0] > decision.values).mean(axis=0)
    np.testing.assert_allclose(out_of_fold[at_chance], decision.prior[at_chance], atol=0.5 / 800 + 1e-9)


def test_few_new_images_use_the_limited_thresholds_of_the_run() -> None:
    labels, images, by_model = _world()
    section = AggregateSection()
    decision = fit_decision(images, labels, section)
    assert decision.transferred_values(by_model[:, :20], section) is None
    stored = decision.transferred_values(by_model, section)
    assert stored is not None
    few = (by_model[:, :20].mean(axis=0) > stored).mean(axis=0)
    assert (few[list(UNLEARNED)] <= 2 * decision.prior[list(UNLEARNED)] + 2 / 20).all()


def test_a_rare_class_at_chance_is_not_blank() -> None:
    limits = ShareLimits(np.array([0.004, 0.004, 1.0]), np.array([True, True, False]))
    scores = np.random.default_rng(0).random((80, 3))
    values = limits.apply(np.array([1.0, 0.2, 0.5]), scores)
    assert (scores[:, :2] > values[:2]).sum(axis=0).tolist() == [1, 1]
    assert values[2] == 0.5


@pytest.mark.parametrize("settings", [{"thresholds": "fixed"}, {"thresholds": "prevalence"}, {"limit_shares": False}])
def test_thresholds_that_are_not_limited(settings: dict[str, Any]) -> None:
    labels, images, _ = _world()
    limits = fit_decision(images, labels, AggregateSection.model_validate(settings)).limits
    assert (limits.shares == 1).all()
    assert not limits.at_chance.any()


def test_chance_is_recognised_at_the_level_of_the_test() -> None:
    """Scores and labels of antibodies with three images each: about one class of noise in twenty passes."""
    draw = np.random.default_rng(1)
    groups = np.arange(450) // 3
    targets = (draw.random((150, 1000)) < 0.1)[groups]
    noise = draw.standard_normal((150, 1000))[groups] + 0.3 * draw.standard_normal((450, 1000))
    labels = Labels.all_known(targets, groups)
    of_noise = fit_limits(labels, noise).at_chance[labels.support > 0].mean()
    assert 0.93 <= of_noise <= 0.97
    assert fit_limits(labels, noise + 2 * targets).at_chance.mean() < 0.01
    assert fit_limits(labels, noise - 2 * targets).at_chance.all()
    by_image = fit_limits(Labels.all_known(targets), noise).at_chance[labels.support > 0].mean()
    assert by_image < 0.9  # images of one antibody are no independent evidence


def test_supported_shares_against_a_loop() -> None:
    """The largest share whose positives are twice those of chance, and too many for chance by Fisher's exact test."""
    draw = np.random.default_rng(2)
    for strength, prior in ((0.0, 0.1), (0.5, 0.1), (1.0, 0.05), (3.0, 0.05), (3.0, 0.6)):
        positive = draw.random(100) < prior
        scores = draw.standard_normal(100) + strength * positive
        limits = fit_limits(Labels.all_known(positive[:, None]), scores[:, None])
        if limits.at_chance[0]:
            assert limits.shares[0] == pytest.approx(2 * positive.mean())
            continue
        best = 2 * positive.mean()
        for n in range(2, 101, 2):
            top = np.argsort(-scores)[:n]
            hits = int(positive[top].sum())
            table = [[hits, n - hits], [int(positive.sum()) - hits, int((~positive).sum()) - (n - hits)]]
            if hits >= 2 * n * positive.mean() and fisher_exact(np.array(table), alternative="greater").pvalue <= 0.05:
                best = max(best, n / 100)
        assert limits.shares[0] == pytest.approx(min(best, 1))


def test_unknown_pairs_do_not_count() -> None:
    labels, images, _ = _world()
    known = np.random.default_rng(3).random(labels.known.shape) < 0.8
    partly = Labels(labels.targets, known, labels.groups, labels.folds)
    scores = images.scores[0, 0]
    found = fit_limits(partly, scores)
    again = fit_limits(partly, np.where(known, scores, np.float32(0.99)))
    np.testing.assert_array_equal(found.shares, again.shares)
    np.testing.assert_array_equal(found.at_chance, again.at_chance)


def test_classes_at_chance_are_marked_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    labels, images, _ = _world()
    decision = fit_decision(images, labels, AggregateSection())
    scores = images.scores[0, 0]
    predictions = scores > decision.values
    table = class_table(labels, predictions, HPA28, scores).assign(at_chance=decision.limits.at_chance)
    metrics = summary(labels, predictions, table, over="images", resamples=0, seed=0)
    print_summary(metrics, "title")
    printed = capsys.readouterr().out
    marked = [name for name, yes in zip(HPA28.classes, decision.limits.at_chance, strict=True) if yes]
    assert marked
    assert [line.split(" *")[0] for line in printed.splitlines() if " * " in line] == marked
    warning = "not shown to rank better than chance out of fold (*), so predicted as often as labelled in training"
    assert f"{warning}: {marked[0]}" in " ".join(printed.split())

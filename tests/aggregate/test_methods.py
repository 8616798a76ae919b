import numpy as np
import pytest
from sklearn.metrics import f1_score

from aggregate.config import AggregateSection, Method
from aggregate.labels import Labels
from aggregate.thresholds.exact import best_common_threshold, best_thresholds
from aggregate.thresholds.methods import (
    class_fractions,
    fit_thresholds,
    repeated_thresholds,
    shrunk_thresholds,
    soft_thresholds,
)
from hpa.errors import UserError

METHODS: tuple[Method, ...] = (
    "fixed",
    "global",
    "per-class",
    "prevalence",
    "shrunk",
    "repeated",
    "soft-f1",
    "cyclic",
)


def _rows(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    targets = draw.random((n, 3)) < np.array([0.5, 0.1, 0.02])
    scores = np.clip(0.3 + 0.3 * targets + 0.12 * draw.standard_normal((n, 3)), 0, 1).astype(np.float32)
    return targets, scores, np.arange(n) // 2


@pytest.mark.parametrize("method", METHODS)
def test_every_method_separates_two_distinct_clusters(method: Method) -> None:
    targets, _, groups = _rows()
    targets[~targets.any(axis=1), 0] = True  # `cyclic` accounts for what a row without a class gets
    scores = np.where(targets, 0.8, 0.2) + np.random.default_rng(1).uniform(-0.05, 0.05, targets.shape)
    values = fit_thresholds(Labels.all_known(targets, groups), scores, AggregateSection(thresholds=method))
    np.testing.assert_array_equal(scores > values, targets)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_every_method_works_with_few_or_no_rows(method: Method, n: int) -> None:
    targets, scores, groups = _rows(n)
    values = fit_thresholds(Labels.all_known(targets, groups), scores, AggregateSection(thresholds=method))
    assert values.shape == (3,)
    assert np.isfinite(values).all()
    if not n:
        assert (values == 0.5).all()


def test_prevalence_predicts_the_labelled_or_requested_shares() -> None:
    targets, scores, groups = _rows()
    labels = Labels.all_known(targets, groups)
    values = fit_thresholds(labels, scores, AggregateSection(thresholds="prevalence"))
    np.testing.assert_array_equal((scores > values).sum(axis=0), targets.sum(axis=0))
    given = AggregateSection(thresholds="prevalence", class_fractions=(0.1, 0.2, 0.3))
    np.testing.assert_array_equal((scores > fit_thresholds(labels, scores, given)).sum(axis=0), [30, 60, 90])
    with pytest.raises(UserError, match="each of 2 classes, found 3"):
        class_fractions(np.zeros(2), given)


def test_shrinking_moves_from_the_own_threshold_to_the_common_one() -> None:
    targets, scores, _ = _rows()
    own, common = best_thresholds(targets, scores), best_common_threshold(targets, scores)
    np.testing.assert_allclose(shrunk_thresholds(targets, scores, common, 0), own, atol=1e-9)
    np.testing.assert_allclose(shrunk_thresholds(targets, scores, common, 1e12), common, atol=1e-6)
    half = shrunk_thresholds(targets, scores, common, float(targets[:, 1].sum()))[1]
    middle = (np.log(own[1] / (1 - own[1])) + np.log(common / (1 - common))) / 2
    assert half == pytest.approx(1 / (1 + np.exp(-middle)))


def test_repeated_folds_keep_groups_together_and_average() -> None:
    """With two groups, the kept rows are those of one group or of both, so the mean is over the thresholds of these."""
    targets, scores, _ = _rows(40)
    groups = np.arange(40) % 2
    parts = [np.ones(40, bool), groups == 0, groups == 1]
    possible = np.array([best_thresholds(targets[part], scores[part]) for part in parts])
    found = repeated_thresholds(targets, scores, groups, repeats=4)
    # Two of the five folds hold one group each: without one, the other is left; without an empty fold, all rows are.
    np.testing.assert_allclose(found, (3 * possible[0] + possible[1] + possible[2]) / 5)


def test_soft_thresholds_match_the_published_code() -> None:
    """The published code fits all classes jointly."""
    from scipy.optimize import leastsq

    targets, scores, _ = _rows()

    def error(p: np.ndarray) -> np.ndarray:
        soft = 1 / (1 + np.exp(-50.0 * (scores.astype(np.float64) - p)))
        f1 = 2.0 * (soft * targets).sum(axis=0) / ((soft + targets).sum(axis=0) + 1e-6)
        return np.concatenate((f1 - 1.0, 1e-5 * (p - 0.5)))

    joint, _ = leastsq(error, 0.5 * np.ones(3))
    ours = soft_thresholds(targets, scores, np.ones_like(targets))
    np.testing.assert_allclose((error(ours)[:3] ** 2), (error(joint)[:3] ** 2), atol=1e-3)
    assert (error(ours) ** 2).sum() <= (error(joint) ** 2).sum() + 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_unknown_pairs_do_not_count(method: Method) -> None:
    """The threshold of each class is that of its known rows; labels and scores of the others change nothing."""
    targets, scores, groups = _rows()
    draw = np.random.default_rng(5)
    known = draw.random(targets.shape) < 0.6
    fractions = (0.4, 0.2, 0.1)
    section = AggregateSection(thresholds=method, class_fractions=fractions)
    folds = np.zeros_like(groups)
    values = fit_thresholds(Labels(targets, known, groups, folds), scores, section)
    other = np.where(known, scores, draw.random(scores.shape).astype(np.float32))
    changed = Labels(targets | ~known, known, groups, folds)
    np.testing.assert_array_equal(values, fit_thresholds(changed, other, section))
    if method in ("fixed", "per-class", "prevalence", "shrunk", "soft-f1"):
        for c, own in enumerate(known.T):
            alone = section.model_copy(update={"class_fractions": fractions[c : c + 1]})
            labels = Labels.all_known(targets[own][:, [c]], groups[own])
            expected = fit_thresholds(labels, scores[own][:, [c]], alone)
            assert values[c] == pytest.approx(expected[0], abs=1e-9)
    if method == "global":
        tried = np.append(np.linspace(0, 1, 2001), values[0])
        f1 = [  # of all thresholds at once: each call takes milliseconds
            f1_score(targets[own][:, [c] * len(tried)], scores[own][:, [c]] > tried, average=None)
            for c, own in enumerate(known.T)
        ]
        macro = np.mean(f1, axis=0)
        assert macro[-1] >= macro.max()

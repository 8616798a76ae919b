import numpy as np
import pytest
from sklearn.metrics import f1_score

from aggregate.config import AggregateSection, Method
from aggregate.thresholds.cyclic import cyclic_thresholds
from aggregate.thresholds.decide import decide
from aggregate.thresholds.exact import best_common_threshold, best_thresholds
from aggregate.thresholds.methods import (
    class_fractions,
    fit_thresholds,
    repeated_thresholds,
    shrunk_thresholds,
    soft_thresholds,
)
from hpa.errors import UserError
from hpa.metrics import macro_f1
from hpa.vocabulary import Vocabulary

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
THREE = Vocabulary("three", ("a", "b", "c"))


def _rows(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    targets = draw.random((n, 3)) < np.array([0.5, 0.1, 0.02])
    scores = np.clip(0.3 + 0.3 * targets + 0.12 * draw.standard_normal((n, 3)), 0, 1).astype(np.float32)
    return targets, scores, np.arange(n) // 2


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_what_parts_two_clear_clouds(method: Method) -> None:
    targets, _, groups = _rows()
    targets[~targets.any(axis=1), 0] = True  # `cyclic` reckons with what a row without a class gets
    scores = np.where(targets, 0.8, 0.2) + np.random.default_rng(1).uniform(-0.05, 0.05, targets.shape)
    values = fit_thresholds(targets, scores, groups, AggregateSection(thresholds=method))
    np.testing.assert_array_equal(scores > values, targets)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_every_method_survives_hardly_any_rows(method: Method, n: int) -> None:
    targets, scores, groups = _rows(n)
    values = fit_thresholds(targets, scores, groups, AggregateSection(thresholds=method))
    assert values.shape == (3,)
    assert np.isfinite(values).all()
    if not n:
        assert (values == 0.5).all()


def test_prevalence_predicts_as_often_as_labelled_or_asked_for() -> None:
    targets, scores, groups = _rows()
    values = fit_thresholds(targets, scores, groups, AggregateSection(thresholds="prevalence"))
    np.testing.assert_array_equal((scores > values).sum(axis=0), targets.sum(axis=0))
    given = AggregateSection(thresholds="prevalence", class_fractions=(0.1, 0.2, 0.3))
    np.testing.assert_array_equal((scores > fit_thresholds(targets, scores, groups, given)).sum(axis=0), [30, 60, 90])
    with pytest.raises(UserError, match="each of 2 classes, found 3"):
        class_fractions(np.zeros(2), given)


def test_shrinking_goes_from_the_own_threshold_to_the_common_one() -> None:
    targets, scores, _ = _rows()
    own, common = best_thresholds(targets, scores), best_common_threshold(targets, scores)
    np.testing.assert_allclose(shrunk_thresholds(targets, scores, common, 0), own, atol=1e-9)
    np.testing.assert_allclose(shrunk_thresholds(targets, scores, common, 1e12), common, atol=1e-6)
    half = shrunk_thresholds(targets, scores, common, float(targets[:, 1].sum()))[1]
    middle = (np.log(own[1] / (1 - own[1])) + np.log(common / (1 - common))) / 2
    assert half == pytest.approx(1 / (1 + np.exp(-middle)))


def test_repeated_folds_keep_groups_together_and_average() -> None:
    """With two groups a part is one of them or both, so the mean lies among their thresholds and that of both."""
    targets, scores, _ = _rows(40)
    groups = np.arange(40) % 2
    parts = [np.ones(40, bool), groups == 0, groups == 1]
    possible = np.array([best_thresholds(targets[part], scores[part]) for part in parts])
    found = repeated_thresholds(targets, scores, groups, repeats=4)
    # Of five parts two hold a group each: leaving one out gives the other, leaving out an empty part gives all rows.
    np.testing.assert_allclose(found, (3 * possible[0] + possible[1] + possible[2]) / 5)


def test_soft_thresholds_are_as_published() -> None:
    """The joint fit of the published code, written out, on all classes at once."""
    from scipy.optimize import leastsq

    targets, scores, _ = _rows()

    def error(p: np.ndarray) -> np.ndarray:
        soft = 1 / (1 + np.exp(-50.0 * (scores.astype(np.float64) - p)))
        f1 = 2.0 * (soft * targets).sum(axis=0) / ((soft + targets).sum(axis=0) + 1e-6)
        return np.concatenate((f1 - 1.0, 1e-5 * (p - 0.5)))

    joint, _ = leastsq(error, 0.5 * np.ones(3))
    ours = soft_thresholds(targets, scores)
    np.testing.assert_allclose((error(ours)[:3] ** 2), (error(joint)[:3] ** 2), atol=1e-3)
    assert (error(ours) ** 2).sum() <= (error(joint) ** 2).sum() + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_cyclic_steps_are_exact_and_never_worse(seed: int) -> None:
    targets, scores, _ = _rows(60, seed)
    start = best_thresholds(targets, scores)

    def reached(values: np.ndarray) -> float:
        return macro_f1(targets, decide(scores, values, "argmax", THREE))

    found = cyclic_thresholds(targets, scores)
    assert reached(found) >= reached(start) - 1e-12
    for c in range(3):  # no change of one threshold improves it
        for candidate in np.concatenate([[0.0, 1.0], scores[:, c].astype(float)]):
            changed = found.copy()
            changed[c] = candidate
            assert reached(changed) <= reached(found) + 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_which_nothing_is_known_do_not_count(method: Method) -> None:
    """Class by class the threshold is that of the known rows; what stands in the others changes nothing."""
    targets, scores, groups = _rows()
    draw = np.random.default_rng(5)
    known = draw.random(targets.shape) < 0.6
    fractions = (0.4, 0.2, 0.1)
    section = AggregateSection(thresholds=method, class_fractions=fractions)
    values = fit_thresholds(targets, scores, groups, section, known)
    other = np.where(known, scores, draw.random(scores.shape).astype(np.float32))
    np.testing.assert_array_equal(values, fit_thresholds(targets | ~known, other, groups, section, known))
    if method in ("fixed", "per-class", "prevalence", "shrunk", "soft-f1"):
        for c, own in enumerate(known.T):
            alone = section.model_copy(update={"class_fractions": fractions[c : c + 1]})
            expected = fit_thresholds(targets[own][:, [c]], scores[own][:, [c]], groups[own], alone)
            assert values[c] == pytest.approx(expected[0], abs=1e-9)
    if method == "global":
        tried = np.linspace(0, 1, 2001)
        best = max(_macro_f1_of_known(targets, scores > value, known) for value in tried)
        assert _macro_f1_of_known(targets, scores > values, known) >= best


def _macro_f1_of_known(targets: np.ndarray, predictions: np.ndarray, known: np.ndarray) -> float:
    return float(np.mean([f1_score(targets[own, c], predictions[own, c]) for c, own in enumerate(known.T)]))

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score

from aggregate.thresholds.decision import decide
from aggregate.thresholds.exact import (
    NEVER,
    best_common_threshold,
    best_threshold,
    best_thresholds,
    cyclic_thresholds,
    matching_threshold,
    matching_thresholds,
)
from hpa.metrics import f1_per_class, macro_f1
from hpa.vocabulary import Vocabulary


def _f1(positive: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    return float(f1_per_class(positive[:, None], (scores > threshold)[:, None])[0])


@settings(max_examples=200)
@given(st.data(), st.integers(1, 30), st.sampled_from([32, 64]))
def test_no_threshold_is_better(data: st.DataObject, n: int, width: int) -> None:
    positive = data.draw(arrays(bool, n))
    scores = data.draw(arrays(f"float{width}", n, elements=st.floats(0, 1, width=32)))
    found = _f1(positive, scores, best_threshold(positive, scores))
    tried = [0.0, *np.linspace(0, 1, 101), *scores.astype(float), *np.nextafter(scores.astype(float), 0)]
    assert found >= max(_f1(positive, scores, max(threshold, 0.0)) for threshold in tried) - 1e-12


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_never_worse_than_scikit_learn_on_a_grid(seed: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    targets, scores = draw.random((n, 3)) < 0.3, np.round(draw.random((n, 3)), 2)
    values = best_thresholds(targets, scores)
    for c in range(3):
        ours = f1_score(targets[:, c], scores[:, c] > values[c], zero_division=0)
        tried = scores[:, c, None] > np.linspace(0.01, 0.99, 99)  # one call for all: each takes milliseconds
        grid = f1_score(targets[:, [c] * 99], tried, average=None, zero_division=0)
        assert ours >= grid.max() - 1e-12


def test_thresholds_are_midpoints_and_exceeded_strictly() -> None:
    positive, scores = np.array([True, True, False, False]), np.array([0.9, 0.5, 0.3, 0.3])
    assert best_threshold(positive, scores) == pytest.approx(0.4)
    assert best_threshold(positive, np.array([0.5, 0.5, 0.5, 0.5])) == pytest.approx(0.25)
    assert best_threshold(np.zeros(4, bool), scores) == NEVER
    assert best_threshold(positive, np.zeros(4)) == NEVER
    assert best_threshold(np.zeros(0, bool), np.zeros(0)) == NEVER


def test_the_highest_of_equal_optima_is_returned() -> None:
    """One hit of one prediction and two hits of four have the same F1: 2 / 3."""
    positive, scores = np.array([True, False, False, True]), np.array([0.875, 0.625, 0.5, 0.25])
    assert _f1(positive, scores, 0.75) == _f1(positive, scores, 0.125) == pytest.approx(2 / 3)
    assert best_threshold(positive, scores) == 0.75
    assert best_common_threshold(positive[:, None], scores[:, None]) == 0.75
    twice = np.column_stack([positive, positive])  # the second class adds the same F1 at the same thresholds
    assert best_common_threshold(twice, np.column_stack([scores, scores])) == 0.75


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
def test_no_higher_threshold_is_as_good(seed: int, n: int) -> None:
    """Compare with a loop over every higher score; few rows and few levels make equal optima common."""
    draw = np.random.default_rng(seed)
    targets, scores = draw.random((n, 2)) < 0.4, np.round(draw.random((n, 2)) * 6) / 8 + 0.125
    own = best_threshold(targets[:, 0], scores[:, 0])
    if targets[:, 0].any():
        best = _f1(targets[:, 0], scores[:, 0], own)
        assert all(_f1(targets[:, 0], scores[:, 0], t) < best - 1e-12 for t in np.unique(scores[:, 0]) if t > own)
    common = best_common_threshold(targets, scores)
    if targets.any():
        best = macro_f1(targets, scores > common)
        assert all(macro_f1(targets, scores > t) < best + 1e-12 for t in np.unique(scores))
        assert all(macro_f1(targets, scores > t) < best - 1e-12 for t in np.unique(scores) if t > common)


def test_adjacent_floats_have_no_midpoint() -> None:
    upper = np.nextafter(0.5, 1)
    scores, positive = np.array([0.5, upper]), np.array([False, True])
    assert (scores > best_threshold(positive, scores)).tolist() == [False, True]


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_no_common_threshold_is_better(seed: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    targets, scores = draw.random((n, 4)) < 0.4, np.round(draw.random((n, 4)), 1)
    best = macro_f1(targets, scores > best_common_threshold(targets, scores))
    tried = np.append(np.linspace(0, 1, 101), np.unique(scores))
    assert best >= max(macro_f1(targets, scores > threshold) for threshold in tried) - 1e-12


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0, 1))
def test_shares_are_matched_as_closely_as_ties_allow(seed: int, n: int, share: float) -> None:
    scores = np.round(np.random.default_rng(seed).random(n), 1)
    above = np.count_nonzero(scores > matching_threshold(scores, share))
    possible = [np.count_nonzero(scores > t) for t in np.append(np.unique(scores), -1)]
    wanted = round(share * n)
    # A share of 0 predicts nothing; otherwise the nearest count that ties allow is predicted.
    assert abs(above - wanted) <= min(abs(p - wanted) for p in possible if wanted or not p) + (scores == 0).sum()


def test_shares_of_distinct_scores_are_exact() -> None:
    scores = np.random.default_rng(0).random((200, 3))
    values = matching_thresholds(scores, np.array([0.0, 0.135, 1.0]))
    assert (scores > values).sum(axis=0).tolist() == [0, 27, 200]


@pytest.mark.parametrize("seed", range(5))
def test_cyclic_thresholds_are_optimal_one_class_at_a_time(seed: int) -> None:
    draw = np.random.default_rng(seed)
    targets = draw.random((60, 3)) < np.array([0.5, 0.1, 0.02])
    scores = np.clip(0.3 + 0.3 * targets + 0.12 * draw.standard_normal((60, 3)), 0, 1).astype(np.float32)
    vocabulary = Vocabulary("three", ("a", "b", "c"))
    start = best_thresholds(targets, scores)

    def reached(values: np.ndarray) -> float:
        return macro_f1(targets, decide(scores, values, "argmax", vocabulary))

    found = cyclic_thresholds(targets, scores)
    assert reached(found) >= reached(start) - 1e-12
    for c in range(3):  # no change of one threshold improves it
        for candidate in np.concatenate([[0.0, 1.0], scores[:, c].astype(float)]):
            changed = found.copy()
            changed[c] = candidate
            assert reached(changed) <= reached(found) + 1e-12

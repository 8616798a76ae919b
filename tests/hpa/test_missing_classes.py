"""Filling of gaps in folds, against trying every step and every assignment of groups to folds."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from hpa.splitting.missing_classes import fill_missing_classes, find_gaps


def _draw(seed: int, groups: int, k: int, share: float = 0.35) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Draw folds of groups, and their counts of four classes and of images."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 6, groups)
    classes = (draw.random((groups, 4)) < share) * draw.integers(1, sizes[:, None] + 1, (groups, 4))
    return draw.integers(0, k, groups).astype(np.int16), np.column_stack([classes, sizes]).astype(float)


def _gaps(folds: NDArray[np.int16], counts: NDArray[np.float64], k: int) -> int:
    """Count the folds that lack a class which occurs in at least k groups."""
    return sum(
        not (counts[folds == fold, c] > 0).any()
        for c in range(counts.shape[1] - 1)
        if np.count_nonzero(counts[:, c]) >= k
        for fold in range(k)
    )


def _cost(folds: NDArray[np.int16], counts: NDArray[np.float64], k: int) -> float:
    """Return the chi-squared distance of the folds from even shares."""
    even = counts.sum(axis=0) / k
    held = np.array([counts[folds == fold].sum(axis=0) for fold in range(k)])
    return float(((held - even) ** 2 / np.maximum(even, 1e-9)).sum())


def _filled(folds: NDArray[np.int16], counts: NDArray[np.float64], k: int, seed: int = 0) -> NDArray[np.int16]:
    filled = folds.copy()
    fill_missing_classes(filled, counts, np.maximum(counts.sum(axis=0) / k, 1e-9), k, seed)
    return filled


def _steps(folds: NDArray[np.int16], counts: NDArray[np.float64], fold: int, label: int) -> list[NDArray[np.int16]]:
    """Return the folds after every move of a group with the class into the fold, and after every swap."""
    found = []
    for mover in np.flatnonzero(counts[:, label]):
        for partner in (None, *np.flatnonzero(folds == fold)):
            after = folds.copy()
            if partner is not None:
                after[partner] = folds[mover]
            after[mover] = fold
            found.append(after)
    return found


def test_gaps_equal_a_naive_loop() -> None:
    for seed in range(20):
        folds, counts = _draw(seed, 9, 3)
        needed = np.flatnonzero((counts[:, :-1] > 0).sum(axis=0) >= 3)
        assert len(find_gaps(folds, counts[:, :-1] > 0, needed, 3)) == _gaps(folds, counts, 3)


@pytest.mark.parametrize("n_gaps", [1, 2])
def test_gaps_that_one_step_fills_are_filled_by_the_step_nearest_to_even_shares(n_gaps: int) -> None:
    """Of two gaps, the step is one for either of them, whichever is drawn, that fills both."""
    tried = 0
    for seed in range(300 * n_gaps):
        folds, counts = _draw(seed, 12, 3)
        has = counts[:, :-1] > 0
        gaps = find_gaps(folds, has, np.flatnonzero(has.sum(axis=0) >= 3), 3)
        if len(gaps) != n_gaps:
            continue
        options = [[after for after in _steps(folds, counts, *gap) if _gaps(after, counts, 3) == 0] for gap in gaps]
        if not all(options):
            continue
        tried += 1
        filled = _filled(folds, counts, 3)
        assert _gaps(filled, counts, 3) == 0
        least = [min(_cost(after, counts, 3) for after in of_gap) for of_gap in options]
        assert any(_cost(filled, counts, 3) == pytest.approx(cost) for cost in least)
    assert tried > 20


@pytest.mark.parametrize("k", [2, 3])
def test_no_assignment_of_groups_has_fewer_gaps(k: int) -> None:
    """In some of these worlds classes share the same few groups, so that not all gaps can be filled."""
    fewest = []
    for seed in range(25):
        folds, counts = _draw(seed, 6, k, share=0.5)
        every = (np.array(assigned, dtype=np.int16) for assigned in product(range(k), repeat=6))
        fewest.append(min(_gaps(assigned, counts, k) for assigned in every))
        assert _gaps(_filled(folds, counts, k, seed), counts, k) == fewest[-1]
    assert min(fewest) == 0
    assert k == 2 or max(fewest) > 0


def test_folds_that_cannot_be_improved_stay_as_they_are() -> None:
    """Each two of three groups share a class: one class is always missing in one of two folds."""
    counts = np.array([[1, 1, 0, 0, 2], [1, 0, 1, 0, 3], [0, 1, 1, 0, 1], *[[0, 0, 0, 1, 1]] * 4], dtype=float)
    for folds in ([0, 1, 1, 0, 1, 0, 1], [1, 0, 1, 0, 0, 1, 1], [0, 0, 1, 1, 0, 1, 0]):
        before = np.array(folds, dtype=np.int16)
        assert _gaps(before, counts, 2) == 1
        for seed in range(5):
            assert _filled(before, counts, 2, seed).tolist() == folds

"""Mending folds: every class that is in enough groups gets a positive in every fold."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_TRIES_A_GAP: Final = 40


def repair(
    fold_of: NDArray[np.int16], counts: NDArray[np.float64], even: NDArray[np.float64], k: int, seed: int
) -> None:
    """Move and swap groups, in place, until every class that is in at least k groups is in every one of k folds.

    A gap is a fold without such a class. For each gap all moves of a group with the class into the fold, and swaps of
    it with a group of that fold, are weighed: fewest gaps first, then nearest to even shares. Where no such step has
    fewer gaps the best one is taken all the same, for a limited number of steps, and the best folds seen are kept: with
    many rare classes tied to the same groups there may be no folds without gaps.

    Parameters
    ----------
    fold_of
        Fold of each of G groups, shape (G,).
    counts
        Images of each group with each class, and at the end all its images, shape (G, K + 1).
    even
        What each fold should hold, shape (K + 1,).
    k
        Number of folds.
    seed
        Decides between equals.
    """
    has = counts[:, :-1] > 0
    needed = np.flatnonzero(has.sum(axis=0) >= k)
    rng = np.random.default_rng(seed)
    state = fold_of.copy()
    best_gaps = len(find_gaps(state, has, needed, k))
    budget = _TRIES_A_GAP * best_gaps
    while best_gaps and budget:
        budget -= 1
        gaps = find_gaps(state, has, needed, k)
        fold, label = gaps[int(rng.integers(len(gaps)))]
        _step(state, counts, has[:, needed], even, k, fold, label, rng)
        left = len(find_gaps(state, has, needed, k))
        if left < best_gaps:
            best_gaps = left
            fold_of[:] = state


def find_gaps(
    fold_of: NDArray[np.int16], has: NDArray[np.bool_], classes: NDArray[np.int64], k: int
) -> list[tuple[int, int]]:
    """Return every fold and class, out of `classes`, that does not occur in it.

    Parameters
    ----------
    fold_of
        Fold of each of G groups, shape (G,).
    has
        Whether a group has a class, shape (G, K).
    classes
        Indices of the classes that are looked at.
    k
        Number of folds.
    """
    held = np.zeros((k, has.shape[1]), dtype=np.int64)
    np.add.at(held, fold_of, has.astype(np.int64))
    return [(int(fold), int(classes[at])) for fold, at in np.argwhere(held[:, classes] == 0)]


def _step(
    fold_of: NDArray[np.int16],
    counts: NDArray[np.float64],
    has: NDArray[np.bool_],
    even: NDArray[np.float64],
    k: int,
    fold: int,
    label: int,
    rng: np.random.Generator,
) -> None:
    """Take the best move into `fold` of a group with class `label`, or swap with a group of the fold."""
    classes_held = np.zeros((k, has.shape[1]), dtype=np.int64)
    np.add.at(classes_held, fold_of, has.astype(np.int64))
    held = np.zeros((k, len(even)))
    np.add.at(held, fold_of, counts)
    movers = np.flatnonzero(counts[:, label] > 0)
    if len(movers) > 50:
        movers = rng.choice(movers, 50, replace=False)
    backs = np.flatnonzero(fold_of == fold)
    if len(backs) > 200:
        backs = rng.choice(backs, 200, replace=False)
    best: tuple[float, float, int, int] | None = None
    for mover in movers:
        home = int(fold_of[mover])
        # A row for every way: the mover alone, then the mover against each group of the fold.
        to_home = np.vstack([np.zeros(counts.shape[1]), counts[backs]])
        classes_to_home = np.vstack([np.zeros(has.shape[1], dtype=np.int64), has[backs]])
        gaps = (classes_held[home] - has[mover] + classes_to_home <= 0).sum(axis=1)
        gaps = gaps + (classes_held[fold] + has[mover] - classes_to_home <= 0).sum(axis=1)
        gaps = gaps - (classes_held[[home, fold]] <= 0).sum()
        at_home, at_fold = held[home] - counts[mover] + to_home, held[fold] + counts[mover] - to_home
        cost = ((at_home - even) ** 2 / even).sum(axis=1) + ((at_fold - even) ** 2 / even).sum(1)
        before = ((held[home] - even) ** 2 / even).sum() + ((held[fold] - even) ** 2 / even).sum()
        way = int(np.lexsort((cost, gaps))[0])
        found = (float(gaps[way]), float(cost[way] - before), int(mover), int(backs[way - 1]) if way else -1)
        best = min(best, found) if best else found
    if best:
        _, _, moved, back = best
        if back >= 0:
            fold_of[back] = fold_of[moved]
        fold_of[moved] = fold

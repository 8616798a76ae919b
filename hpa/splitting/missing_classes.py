"""Fill gaps in folds: every class that occurs in enough groups gets a positive in every fold."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_STEPS_PER_GAP: Final = 40


def fill_missing_classes(
    fold_of: NDArray[np.int16], counts: NDArray[np.float64], even: NDArray[np.float64], k: int, seed: int
) -> None:
    """Move and swap groups, in place, until every class that occurs in at least k groups is in each of the k folds.

    A gap is a fold that lacks such a class. For each gap, all moves of a group with the class into the fold and all
    swaps with a group of that fold are compared: fewest gaps first, then nearest to even shares. If no step reduces the
    number of gaps, the best one is taken anyway, for a limited number of steps, and the best folds found are kept: if
    many rare classes share the same groups, folds without gaps may not exist.

    Parameters
    ----------
    fold_of
        Fold of each of G groups, shape (G,).
    counts
        Number of images of each group with each class and, in the last column, of all its images, shape (G, K + 1).
    even
        Even share of each fold, shape (K + 1,).
    k
        Number of folds.
    seed
        Seed of the order in which gaps are filled, and of the sample of groups where there are many.
    """
    has = counts[:, :-1] > 0
    needed = np.flatnonzero(has.sum(axis=0) >= k)
    rng = np.random.default_rng(seed)
    state = fold_of.copy()
    best_gaps = len(find_gaps(state, has, needed, k))
    budget = _STEPS_PER_GAP * best_gaps
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
    """Return every pair of a fold and a class, out of `classes`, that is missing in it.

    Parameters
    ----------
    fold_of
        Fold of each of G groups, shape (G,).
    has
        Whether a group has a class, shape (G, K).
    classes
        Indices of the classes to check.
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
    """Move a group with class `label` into `fold`, or swap it with a group of that fold, whichever is best."""
    classes_held = np.zeros((k, has.shape[1]), dtype=np.int64)
    np.add.at(classes_held, fold_of, has.astype(np.int64))
    held = np.zeros((k, len(even)))
    np.add.at(held, fold_of, counts)
    movers = np.flatnonzero(counts[:, label] > 0)
    if len(movers) > 50:
        movers = rng.choice(movers, 50, replace=False)
    partners = np.flatnonzero(fold_of == fold)
    if len(partners) > 200:
        partners = rng.choice(partners, 200, replace=False)
    best: tuple[float, float, int, int] | None = None
    for mover in movers:
        home = int(fold_of[mover])
        # One row per option: the move alone, then the swap with each group of the fold.
        to_home = np.vstack([np.zeros(counts.shape[1]), counts[partners]])
        classes_to_home = np.vstack([np.zeros(has.shape[1], dtype=np.int64), has[partners]])
        gaps = (classes_held[home] - has[mover] + classes_to_home <= 0).sum(axis=1)
        gaps = gaps + (classes_held[fold] + has[mover] - classes_to_home <= 0).sum(axis=1)
        gaps = gaps - (classes_held[[home, fold]] <= 0).sum()
        at_home, at_fold = held[home] - counts[mover] + to_home, held[fold] + counts[mover] - to_home
        cost = ((at_home - even) ** 2 / even).sum(axis=1) + ((at_fold - even) ** 2 / even).sum(1)
        before = ((held[home] - even) ** 2 / even).sum() + ((held[fold] - even) ** 2 / even).sum()
        option = int(np.lexsort((cost, gaps))[0])
        found = (
            float(gaps[option]),
            float(cost[option] - before),
            int(mover),
            int(partners[option - 1]) if option else -1,
        )
        best = min(best, found) if best else found
    if best:
        _, _, moved, partner = best
        if partner >= 0:
            fold_of[partner] = fold_of[moved]
        fold_of[moved] = fold

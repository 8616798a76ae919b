"""How far scores would move with other images of the same kind: a bootstrap over groups.

Images of one group (an antibody) share their labels, so they are drawn together; drawing images would make intervals
too narrow.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hpa.metrics import f1_per_class

ABSENT: Final = (
    "a class without a positive in a resample counts 0 in macro_f1, as the metric has it; macro_f1_supported and the"
    " class's own interval leave it out"
)
LEVEL: Final = 0.95
_AT_ONCE: Final = 100

Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals at `LEVEL`.

    Parameters
    ----------
    scores
        By the name of the score: macro_f1, macro_f1_supported, micro_f1, samples_f1, exact_match.
    classes
        F1 of each class; None where no resample has a positive of it.
    """

    scores: dict[str, Interval]
    classes: list[Interval | None]


def bootstrap(
    targets: NDArray[np.bool_],
    predictions: NDArray[np.bool_],
    groups: NDArray[np.integer[Any]],
    resamples: int,
    seed: int,
) -> Intervals:
    """Draw groups with replacement and return percentile intervals of the scores.

    Parameters
    ----------
    targets, predictions
        Shape (N, K).
    groups
        Shape (N,).
    resamples
        How many.
    seed
        Of the draws.
    """
    counts = _counts_by_group(targets, predictions, groups)
    n_groups, k = len(counts), targets.shape[1]
    rng = np.random.default_rng(seed)
    drawn = [
        _scores(_draws(rng, min(_AT_ONCE, resamples - start), n_groups) @ counts, k)
        for start in range(0, resamples, _AT_ONCE)
    ]
    scores = {name: _interval(np.concatenate([part[name] for part in drawn])) for name in drawn[0] if name != "classes"}
    f1 = np.concatenate([part["classes"] for part in drawn])
    own = [f1[~np.isnan(f1[:, c]), c] for c in range(k)]
    return Intervals(scores, [_interval(values) if len(values) else None for values in own])


def _counts_by_group(
    targets: NDArray[np.bool_], predictions: NDArray[np.bool_], groups: NDArray[np.integer[Any]]
) -> NDArray[np.float32]:
    """Return what scores are made of, summed over each group: hits, predicted, labelled (K each), F1, exact, rows."""
    rows = np.column_stack(
        [
            targets & predictions,
            predictions,
            targets,
            f1_per_class(targets.T, predictions.T),
            (targets == predictions).all(axis=1),
            np.ones(len(targets)),
        ]
    )
    numbers = np.unique(groups, return_inverse=True)[1]
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(numbers[order]) > 0))
    return np.add.reduceat(rows[order].astype(np.float32), starts, axis=0)  # whole numbers: exact below 2^24


def _draws(rng: np.random.Generator, n: int, n_groups: int) -> NDArray[np.float32]:
    """Return how often each group is drawn in each of n resamples: shape (n, G)."""
    drawn = rng.integers(0, n_groups, (n, n_groups)) + n_groups * np.arange(n)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * n_groups).reshape(n, n_groups).astype(np.float32)


def _scores(sums: NDArray[np.float32], k: int) -> dict[str, NDArray[np.float64]]:
    sums = sums.astype(np.float64)
    hits, predicted, labelled = sums[:, :k], sums[:, k : 2 * k], sums[:, 2 * k : 3 * k]
    row_f1, exact, rows = sums[:, 3 * k], sums[:, 3 * k + 1], sums[:, 3 * k + 2]
    f1 = 2 * hits / np.maximum(predicted + labelled, 1)
    present = labelled > 0
    return {
        "macro_f1": f1.mean(axis=1),
        "macro_f1_supported": (f1 * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1),
        "micro_f1": 2 * hits.sum(axis=1) / np.maximum((predicted + labelled).sum(axis=1), 1),
        "samples_f1": row_f1 / rows,
        "exact_match": exact / rows,
        "classes": np.where(present, f1, np.nan),
    }


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

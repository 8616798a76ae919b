"""Compare runs on the same rows: how much their scores differ, with a paired bootstrap over groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aggregate.labels import Labels
from aggregate.scoring.metrics import LEVEL, counts_by_group, draw_groups, scores_of_counts
from hpa.metrics import average_precision, macro_f1, micro_f1

METRICS: Final = ("macro_f1", "micro_f1", "mean_average_precision")
_RESAMPLES_AT_ONCE: Final = 100


@dataclass(frozen=True)
class Scored:
    """What a run says of N rows, images or cells.

    Parameters
    ----------
    predictions
        Shape (N, K), bool.
    scores
        Shape (N, K).
    """

    predictions: NDArray[np.bool_]
    scores: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Compared:
    """A score of a run, and by how much it differs from that of the first run.

    Parameters
    ----------
    value
        The score.
    difference
        To the first run; 0 for that run itself.
    low, high
        Percentile interval of the difference at `aggregate.scoring.metrics.LEVEL`; both 0 for the first run, and None
        without resamples.
    """

    value: float
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Level:
    """The scores of all runs on the same rows.

    Parameters
    ----------
    title
        What the rows are.
    labels
        Their labels.
    compared
        For each run its metrics (`compare_runs`).
    """

    title: str
    labels: Labels
    compared: list[dict[str, Compared]]


def compare_runs(labels: Labels, runs: Sequence[Scored], resamples: int, seed: int) -> list[dict[str, Compared]]:
    """Compare runs on the same labelled rows.

    A resample draws groups with replacement and scores all runs on it, so that what makes some rows hard for all of
    them cancels in the differences.

    Parameters
    ----------
    labels
        Of N rows, at least one.
    runs
        At least one; the others are compared with the first.
    resamples
        Number of resamples; 0 gives no intervals.
    seed
        Of the random draws.

    Returns
    -------
    list of dict
        For each run its `METRICS`. The mean average precision is over the classes that occur.
    """
    values = [_scores(labels, run) for run in runs]
    drawn = _resampled(labels, runs, resamples, seed)
    compared: list[dict[str, Compared]] = []
    for r, own in enumerate(values):
        compared.append({})
        for m, name in enumerate(METRICS):
            low, high = _interval(drawn[:, r, m] - drawn[:, 0, m]) if resamples else (None, None)
            compared[-1][name] = Compared(own[name], own[name] - values[0][name], low, high)
    return compared


def resampled_average_precision(
    targets: NDArray[np.bool_],
    scores: NDArray[np.floating[Any]],
    groups: NDArray[np.integer[Any]],
    times: NDArray[np.floating[Any]],
) -> NDArray[np.float64]:
    """Return the average precision of one class in each of several resamples of groups.

    Parameters
    ----------
    targets, scores
        Shape (N,).
    groups
        Shape (N,), number of the group of each row.
    times
        Shape (G, n), how often each group is drawn in each of n resamples; its rows count that many times.

    Returns
    -------
    ndarray
        Shape (n,); NaN where no positive is drawn.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hot = scores[order], np.flatnonzero(targets[order])
    if not len(hot):
        return np.full(times.shape[1], np.nan)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], np.True_))  # of rows that tie, which count at once
    tie = np.searchsorted(last, hot)
    own, first = np.unique(tie, return_index=True)
    # Precision matters only where positives are: rows between them are summed at once.
    ends = last[own] + 1
    drawn = times[groups[order[: ends[-1]]]]
    rows = np.cumsum(np.add.reduceat(drawn, np.append(0, ends[:-1]), axis=0), axis=0, dtype=np.float64)
    more = np.add.reduceat(drawn[hot], first, axis=0).astype(np.float64)
    hits = np.cumsum(more, axis=0)
    area = (more * hits / np.maximum(rows, 1)).sum(axis=0)
    found: NDArray[np.float64] = np.divide(area, hits[-1], out=np.full(len(area), np.nan), where=hits[-1] > 0)
    return found


def _scores(labels: Labels, run: Scored) -> dict[str, float]:
    predictions = run.predictions & labels.known
    areas = [average_precision(labels.targets[own, c], run.scores[own, c]) for c, own in enumerate(labels.known.T)]
    return {
        "macro_f1": macro_f1(labels.targets, predictions),
        "micro_f1": micro_f1(labels.targets, predictions),
        "mean_average_precision": _nanmean(np.array(areas)[None])[0],
    }


def _resampled(labels: Labels, runs: Sequence[Scored], resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the scores of every resample, shape (resamples, len(runs), len(METRICS))."""
    k = labels.targets.shape[1]
    numbers = np.unique(labels.groups, return_inverse=True)[1]
    counts = [counts_by_group(labels.targets, run.predictions & labels.known, labels.groups) for run in runs]
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(runs), len(METRICS)))
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        part = slice(start, min(start + _RESAMPLES_AT_ONCE, resamples))
        times = draw_groups(rng, part.stop - start, len(counts[0]))
        by_group = np.ascontiguousarray(times.T)
        for r, run in enumerate(runs):
            f1 = scores_of_counts(times @ counts[r], k)
            drawn[part, r, 0], drawn[part, r, 1] = f1["macro_f1"], f1["micro_f1"]
            areas = [
                resampled_average_precision(labels.targets[own, c], run.scores[own, c], numbers[own], by_group)
                for c, own in enumerate(labels.known.T)
            ]
            drawn[part, r, 2] = _nanmean(np.stack(areas, axis=1))
    return drawn


def _nanmean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each row over its defined values, 0 where there is none."""
    defined = ~np.isnan(values)
    mean: NDArray[np.float64] = np.nansum(values, axis=1) / np.maximum(defined.sum(axis=1), 1)
    return mean


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

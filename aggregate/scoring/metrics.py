"""Compute the metrics of predictions, over all classes, per class and per source, with bootstrap intervals.

Images of one group (an antibody) share their labels, so the bootstrap draws whole groups; drawing single images would
make the intervals too narrow.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.labels import Labels
from aggregate.scoring.baselines import baselines
from hpa.metrics import (
    average_precision,
    exact_match,
    f1_per_class,
    hamming_loss,
    macro_f1,
    micro_f1,
    roc_auc,
    samples_f1,
)
from hpa.vocabulary import Vocabulary

ABSENT_CLASSES: Final = (
    "a class without a positive in a resample counts as 0 in macro_f1, as the metric defines it; macro_f1_supported and"
    " the interval of the class itself skip it"
)
LEVEL: Final = 0.95
_RESAMPLES_AT_ONCE: Final = 100
_MAX_Z: Final = 3.0
"""Standard errors between two shares of predictions above which they differ."""

Interval = tuple[float, float]


def overall(labels: Labels, predictions: NDArray[np.bool_]) -> dict[str, float]:
    """Return the metrics over all classes.

    A class without a true positive, false positive or false negative counts as 0 in macro_f1; macro_f1_supported is
    the mean over the classes with a positive (0 if there are none); thresholded_accuracy is the share of correct
    (image, class) pairs. Unknown pairs count nowhere.

    Parameters
    ----------
    labels
        Of N images, at least one.
    predictions
        Shape (N, K), bool.
    """
    targets, predictions = labels.targets, predictions & labels.known
    supported = targets.any(axis=0)
    wrong = hamming_loss(targets[labels.known], predictions[labels.known])
    return {
        "macro_f1": macro_f1(targets, predictions),
        "macro_f1_supported": float(f1_per_class(targets, predictions)[supported].mean()) if supported.any() else 0.0,
        "micro_f1": micro_f1(targets, predictions),
        "samples_f1": samples_f1(targets, predictions),
        "thresholded_accuracy": 1 - wrong,
        "exact_match": exact_match(targets, predictions),
        "hamming_loss": wrong,
    }


def class_table(
    labels: Labels,
    predictions: NDArray[np.bool_],
    vocabulary: Vocabulary,
    scores: NDArray[np.floating[Any]] | None = None,
) -> pd.DataFrame:
    """Return the metrics of every class; unknown pairs of image and class do not count.

    Parameters
    ----------
    labels
        Of N images.
    predictions
        Shape (N, K), bool.
    vocabulary
        Of the run.
    scores
        Shape (N, K); None if there are only predictions.

    Returns
    -------
    DataFrame
        One row per class: class, labelled (number of images it is known for), support, predicted, precision, recall,
        f1; with scores also average_precision and auc. Precision, recall and F1 are 0 where they are undefined; average
        precision and AUC are NaN.
    """
    targets, predictions = labels.targets, predictions & labels.known
    hits = (targets & predictions).sum(axis=0)
    table = pd.DataFrame(
        {
            "class": vocabulary.classes,
            "labelled": labels.n_known,
            "support": labels.support,
            "predicted": predictions.sum(axis=0),
            "precision": hits / np.maximum(predictions.sum(axis=0), 1),
            "recall": hits / np.maximum(labels.support, 1),
            "f1": f1_per_class(targets, predictions),
        }
    )
    if scores is None:
        return table
    pairs = [(targets[own, c], scores[own, c]) for c, own in enumerate(labels.known.T)]
    return table.assign(
        average_precision=[average_precision(*pair) for pair in pairs], auc=[roc_auc(*pair) for pair in pairs]
    )


def shares_differ(
    share_oof: NDArray[np.float64], n_oof: int | NDArray[np.int64], share_test: NDArray[np.float64], n_test: int
) -> NDArray[np.bool_]:
    """Return for which classes the share predicted on test differs from that out of fold by more than chance explains.

    Two shares differ if their two-proportion z statistic exceeds 3, which chance alone causes for one class in 370.

    Parameters
    ----------
    share_oof, share_test
        Shape (K,), shares of the rows that each class is predicted for.
    n_oof, n_test
        Numbers of rows; `n_oof` may have shape (K,), the number of rows that count for each class.
    """
    pooled = (share_oof * n_oof + share_test * n_test) / (n_oof + n_test)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n_oof + 1 / n_test))
    differ: NDArray[np.bool_] = np.abs(share_test - share_oof) > _MAX_Z * error
    return differ


def summary(
    labels: Labels,
    predictions: NDArray[np.bool_],
    classes: pd.DataFrame,
    *,
    over: str,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return the metrics of predictions with their intervals, in the form of ``metrics.json``.

    Parameters
    ----------
    labels
        Of N images; the bootstrap draws their groups.
    predictions
        Shape (N, K), bool.
    classes
        `class_table`, with any further columns to report per class.
    over
        What the groups are, for the reader.
    resamples
        Of the bootstrap; 0 omits the intervals.
    seed
        Of the bootstrap.
    """
    metrics: dict[str, Any] = overall(labels, predictions) | {"images": len(labels)}
    if "average_precision" in classes:
        metrics["mean_average_precision"] = _mean(classes["average_precision"])
        metrics["mean_auc"] = _mean(classes["auc"])
    if resamples:
        intervals = bootstrap(labels, predictions, resamples, seed)
        metrics["intervals"] = intervals.scores
        metrics["bootstrap"] = {
            "level": LEVEL,
            "resamples": resamples,
            "over": over,
            "groups": len(np.unique(labels.groups)),
            "absent_classes": ABSENT_CLASSES,
        }
        classes = classes.assign(f1_interval=pd.Series(intervals.classes, dtype=object))
    return metrics | {"baselines": baselines(labels), "classes": records(classes)}


def by_source(
    labels: Labels, predictions: NDArray[np.bool_], sources: NDArray[np.object_]
) -> dict[str, dict[str, float]]:
    """Return `overall` and the number of images for every source; `sources` has shape (N,)."""
    metrics = {}
    for source in sorted(set(sources)):
        own = sources == source
        metrics[str(source)] = overall(labels.take(own), predictions[own]) | {"images": int(own.sum())}
    return metrics


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table for JSON, with null for undefined numbers."""
    return [{str(key): _plain(value) for key, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


def _mean(values: pd.Series) -> float | None:
    return None if values.isna().all() else float(values.mean())


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals at `LEVEL`.

    Parameters
    ----------
    scores
        Keyed by metric: macro_f1, macro_f1_supported, micro_f1, samples_f1, exact_match.
    classes
        F1 of each class; None if no resample has a positive of it.
    """

    scores: dict[str, Interval]
    classes: list[Interval | None]


def bootstrap(labels: Labels, predictions: NDArray[np.bool_], resamples: int, seed: int) -> Intervals:
    """Draw groups with replacement and return percentile intervals of the metrics.

    Parameters
    ----------
    labels
        Of N images.
    predictions
        Shape (N, K), bool.
    resamples
        Number of resamples, at least 1.
    seed
        Of the random draws.
    """
    counts = counts_by_group(labels.targets, predictions & labels.known, labels.groups)
    n_groups, k = len(counts), labels.targets.shape[1]
    rng = np.random.default_rng(seed)
    drawn = [
        scores_of_counts(draw_groups(rng, min(_RESAMPLES_AT_ONCE, resamples - start), n_groups) @ counts, k)
        for start in range(0, resamples, _RESAMPLES_AT_ONCE)
    ]
    scores = {name: _interval(np.concatenate([part[name] for part in drawn])) for name in drawn[0] if name != "classes"}
    f1 = np.concatenate([part["classes"] for part in drawn])
    own = [f1[~np.isnan(f1[:, c]), c] for c in range(k)]
    return Intervals(scores, [_interval(values) if len(values) else None for values in own])


def counts_by_group(
    targets: NDArray[np.bool_], predictions: NDArray[np.bool_], groups: NDArray[np.integer[Any]]
) -> NDArray[np.float32]:
    """Return sums over each group: hits, predicted and positives of each class, F1 and exact match of rows, rows.

    Groups are in rising order; the shape is (G, 3 K + 3), float32.
    """
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
    return np.add.reduceat(rows[order].astype(np.float32), starts, axis=0)  # integers are exact below 2^24


def draw_groups(rng: np.random.Generator, n: int, n_groups: int) -> NDArray[np.float32]:
    """Return how often each group is drawn in each of n resamples: shape (n, G)."""
    drawn = rng.integers(0, n_groups, (n, n_groups)) + n_groups * np.arange(n)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * n_groups).reshape(n, n_groups).astype(np.float32)


def scores_of_counts(sums: NDArray[np.float32], k: int) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of each row of summed counts (`counts_by_group`) for `k` classes, by name, shape (n,)."""
    sums = sums.astype(np.float64)
    hits, predicted, positives = sums[:, :k], sums[:, k : 2 * k], sums[:, 2 * k : 3 * k]
    row_f1, exact, rows = sums[:, 3 * k], sums[:, 3 * k + 1], sums[:, 3 * k + 2]
    f1 = 2 * hits / np.maximum(predicted + positives, 1)
    present = positives > 0
    return {
        "macro_f1": f1.mean(axis=1),
        "macro_f1_supported": (f1 * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1),
        "micro_f1": 2 * hits.sum(axis=1) / np.maximum((predicted + positives).sum(axis=1), 1),
        "samples_f1": row_f1 / rows,
        "exact_match": exact / rows,
        "classes": np.where(present, f1, np.nan),
    }


def _interval(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

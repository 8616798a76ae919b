"""How good the predictions are, told without flattering."""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.scoring.bootstrap import ABSENT, LEVEL, bootstrap
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

_FAR_APART: Final = 3.0
"""Standard errors between two shares of predictions above which a warning is due."""


def overall(
    targets: NDArray[np.bool_], predictions: NDArray[np.bool_], labelled: NDArray[np.bool_] | None = None
) -> dict[str, float]:
    """Return the scores of all classes together; arrays of shape (N, K), N at least 1.

    macro_f1 counts a class 0 that has no true positive, false positive or false negative; macro_f1_supported is over
    the classes with a positive (0 without any); thresholded_accuracy is the share of right (image, class) pairs. Pairs
    that are not `labelled`, of which nothing is known, count nowhere; None labels all.
    """
    if labelled is not None:
        targets, predictions = targets & labelled, predictions & labelled
    supported = targets.any(axis=0)
    pairs = slice(None) if labelled is None else labelled
    wrong = hamming_loss(targets[pairs], predictions[pairs])
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
    targets: NDArray[np.bool_],
    predictions: NDArray[np.bool_],
    vocabulary: Vocabulary,
    scores: NDArray[np.floating[Any]] | None = None,
    labelled: NDArray[np.bool_] | None = None,
) -> pd.DataFrame:
    """Return one row a class: class, labelled, support, predicted, precision, recall, f1; with scores, AP and AUC.

    Precision and recall are 0 where they are undefined, as F1 is; average precision and AUC are NaN there.

    Parameters
    ----------
    targets, predictions
        Shape (N, K), of the scored rows.
    vocabulary
        Of the run.
    scores
        Shape (N, K).
    labelled
        Shape (N, K), of which classes it is known whether a row has them; the others do not count. None labels all.
    """
    known = np.ones_like(targets) if labelled is None else labelled
    targets, predictions = targets & known, predictions & known
    hits = (targets & predictions).sum(axis=0)
    table = pd.DataFrame(
        {
            "class": vocabulary.classes,
            "labelled": known.sum(axis=0),
            "support": targets.sum(axis=0),
            "predicted": predictions.sum(axis=0),
            "precision": hits / np.maximum(predictions.sum(axis=0), 1),
            "recall": hits / np.maximum(targets.sum(axis=0), 1),
            "f1": f1_per_class(targets, predictions),
        }
    )
    if scores is None:
        return table
    pairs = [(targets[own, c], scores[own, c]) for c, own in enumerate(known.T)]
    return table.assign(
        average_precision=[average_precision(*pair) for pair in pairs], auc=[roc_auc(*pair) for pair in pairs]
    )


def shares_far_apart(
    share_oof: NDArray[np.float64], n_oof: int | NDArray[np.int64], share_test: NDArray[np.float64], n_test: int
) -> NDArray[np.bool_]:
    """Tell for which classes the share predicted on test is far from that out of fold.

    The two-proportion z statistic above 3: chance alone does that to one class in 370.

    Parameters
    ----------
    share_oof, share_test
        Shape (K,), shares of the rows a class is predicted for.
    n_oof, n_test
        Numbers of rows, or shape (K,), of those that count for each class.
    """
    pooled = (share_oof * n_oof + share_test * n_test) / (n_oof + n_test)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n_oof + 1 / n_test))
    far: NDArray[np.bool_] = np.abs(share_test - share_oof) > _FAR_APART * error
    return far


def summary(
    targets: NDArray[np.bool_],
    predictions: NDArray[np.bool_],
    groups: NDArray[np.integer[Any]],
    classes: pd.DataFrame,
    *,
    over: str,
    resamples: int,
    seed: int,
    labelled: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Return the scores of predictions, with their intervals, as ``metrics.json`` has them.

    Parameters
    ----------
    targets, predictions
        Shape (N, K).
    groups
        Shape (N,), drawn as wholes.
    classes
        `class_table`, with what else is told of a class.
    over
        What the groups are, for people.
    resamples
        Of the bootstrap; 0 leaves the intervals out.
    seed
        Of its draws.
    labelled
        As for `overall`.
    """
    told: dict[str, Any] = overall(targets, predictions, labelled) | {"images": len(targets)}
    if "average_precision" in classes:
        told["mean_average_precision"] = _mean(classes["average_precision"])
        told["mean_auc"] = _mean(classes["auc"])
    if resamples:
        known = True if labelled is None else labelled
        intervals = bootstrap(targets & known, predictions & known, groups, resamples, seed)
        told["intervals"] = intervals.scores
        told["bootstrap"] = {
            "level": LEVEL,
            "resamples": resamples,
            "over": over,
            "groups": len(np.unique(groups)),
            "absent_classes": ABSENT,
        }
        classes = classes.assign(f1_interval=pd.Series(intervals.classes, dtype=object))
    return told | {"classes": records(classes)}


def by_source(
    targets: NDArray[np.bool_],
    predictions: NDArray[np.bool_],
    sources: NDArray[np.object_],
    labelled: NDArray[np.bool_] | None = None,
) -> dict[str, dict[str, float]]:
    """Return `overall` and the number of images for every source; shapes (N, K), (N, K), (N,) and (N, K)."""
    told = {}
    for source in sorted(set(sources)):
        own = sources == source
        told[str(source)] = overall(targets[own], predictions[own], None if labelled is None else labelled[own]) | {
            "images": int(own.sum())
        }
    return told


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as JSON has them: null where a number is undefined."""
    return [{str(key): _plain(value) for key, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value


def _mean(values: pd.Series) -> float | None:
    return None if values.isna().all() else float(values.mean())

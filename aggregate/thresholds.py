"""Thresholds: tuned on out-of-fold rows, never scored on the rows they were tuned on, kept as a file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpa.errors import UserError
from hpa.files import write_json
from hpa.vocabulary import Vocabulary

NEVER = 1.0
"""The threshold of a class without a positive to tune on: no probability is above it."""


def best_threshold(positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Return the threshold with the highest F1 when everything strictly above it is predicted.

    The rows are sorted once and the F1 after each distinct score follows from a cumulative sum, so the optimum is
    exact. It lies half way between the two scores it separates; of equals the highest is taken.

    Parameters
    ----------
    positive
        Shape (N,), bool.
    scores
        Shape (N,), at least 0.

    Returns
    -------
    float
        The threshold, `NEVER` without a positive.
    """
    if not positive.any():
        return NEVER
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    hits = np.cumsum(positive[order])
    ends = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], ranked[-1] > 0))
    if not len(ends):
        return NEVER
    f1 = 2 * hits[ends] / (ends + 1 + positive.sum())
    end = int(ends[np.argmax(f1)])
    below = ranked[end + 1] if end + 1 < len(ranked) else 0.0
    return float((ranked[end] + below) / 2)


def best_thresholds(targets: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return `best_threshold` of every class; arrays of shape (N, K) give shape (K,)."""
    return np.array([best_threshold(targets[:, c], scores[:, c]) for c in range(targets.shape[1])])


def decide(
    scores: NDArray[np.floating[Any]], thresholds: NDArray[np.float64], empty: str, vocabulary: Vocabulary
) -> NDArray[np.bool_]:
    """Predict every class whose score is strictly above its threshold.

    Parameters
    ----------
    scores
        Shape (N, K).
    thresholds
        Shape (K,), or (N, K) for thresholds of each row.
    empty
        What a row without a class gets: ``"argmax"`` its highest score, ``"blank"`` nothing, or the class named.
    vocabulary
        Of the run.

    Returns
    -------
    ndarray
        Shape (N, K), bool.

    Raises
    ------
    UserError
        If `empty` is neither a rule nor a class.
    """
    predicted = scores > thresholds
    bare = np.flatnonzero(~predicted.any(axis=1))
    if empty == "argmax":
        predicted[bare, scores[bare].argmax(axis=1)] = True
    elif empty != "blank":
        predicted[bare, vocabulary.index(empty)] = True
    return predicted


def cross_fitted_thresholds(
    targets: NDArray[np.bool_], scores: NDArray[np.floating[Any]], folds: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Return for every row thresholds tuned on the rows of the other folds only: shape (N, K)."""
    thresholds = np.empty(targets.shape)
    for fold in np.unique(folds):
        scored = folds == fold
        thresholds[scored] = best_thresholds(targets[~scored], scores[~scored])
    return thresholds


@dataclass(frozen=True)
class Thresholds:
    """What ``thresholds.json`` holds.

    Parameters
    ----------
    values
        Shape (K,), in the order of the vocabulary.
    support
        Shape (K,), positives each was tuned on.
    prior
        Shape (K,), frequency of each class among the train images.
    vocabulary
        Of the run.
    pooling, method
        How the tuned scores were made, and how the values were found.
    """

    values: NDArray[np.float64]
    support: NDArray[np.int64]
    prior: NDArray[np.float64]
    vocabulary: Vocabulary
    pooling: str
    method: str

    def write(self, path: Path) -> None:
        """Write the thresholds by class name."""
        classes = [
            {"class": name, "threshold": float(value), "support": int(support), "prior": float(prior)}
            for name, value, support, prior in zip(
                self.vocabulary.classes, self.values, self.support, self.prior, strict=True
            )
        ]
        head = {"vocabulary": self.vocabulary.name, "pooling": self.pooling, "method": self.method}
        write_json(path, head | {"order": "pooled within a fold's model, then averaged over folds", "classes": classes})


def read_thresholds(path: Path, vocabulary: Vocabulary) -> Thresholds:
    """Read ``thresholds.json``.

    Raises
    ------
    UserError
        If it is missing, not what `Thresholds.write` writes, or of another vocabulary.
    """
    try:
        content = json.loads(path.read_text())
        rows = {row["class"]: row for row in content["classes"]}
        if content["vocabulary"] != vocabulary.name or rows.keys() != set(vocabulary.classes):
            raise UserError(f"expected thresholds of {vocabulary.name} in {path}, found {content['vocabulary']}")
        ordered = [rows[name] for name in vocabulary.classes]
        return Thresholds(
            np.array([float(row["threshold"]) for row in ordered]),
            np.array([int(row["support"]) for row in ordered]),
            np.array([float(row["prior"]) for row in ordered]),
            vocabulary,
            str(content["pooling"]),
            str(content["method"]),
        )
    except FileNotFoundError:
        raise UserError(f"expected thresholds at {path} (made by `python -m aggregate run`), found none") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"expected thresholds in {path}, found something else: {error!r}") from None

"""What a classifier must beat: the scores of predictions that look at no image."""

import numpy as np
from numpy.typing import NDArray

from aggregate.labels import Labels
from hpa.metrics import macro_f1, micro_f1

NAMES = {
    "every_class": "predicting every class",
    "most_frequent": "the most frequent classes",
    "chance": "chance, by prevalence",
}
"""The baselines of `baselines`, as people read them."""


def baselines(labels: Labels, frequencies: NDArray[np.float64] | None = None) -> dict[str, dict[str, float | int]]:
    """Return the scores of predictions that look at no image.

    Parameters
    ----------
    labels
        Of N images, at least one.
    frequencies
        Shape (K,), which classes are the most frequent; None takes the labels' own.

    Returns
    -------
    dict
        macro_f1, micro_f1 and mean_average_precision of each baseline:

        - every_class: all classes for every image.
        - most_frequent: the `classes` most frequent classes for every image; their number is the one with the highest
          macro F1 on these very images.
        - chance: each class at random, for as large a share of the images as have it. In expectation F1 and average
          precision of a class are its share; for few images the average precision of a random order is a little higher.

        The mean average precision of the first two is also that of chance, as all images rank alike.
    """
    targets, shares = labels.targets, labels.frequencies
    supported = labels.support > 0
    mean_ap = float(shares[supported].mean()) if supported.any() else 0.0
    predicted: NDArray[np.bool_] = np.zeros_like(targets)
    best: dict[str, float | int] = {"macro_f1": -1.0}
    for n, c in enumerate(np.argsort(-(shares if frequencies is None else frequencies), kind="stable"), start=1):
        predicted[:, c] = labels.known[:, c]
        score = macro_f1(targets, predicted)
        if score > best["macro_f1"]:
            best = {"macro_f1": score, "micro_f1": micro_f1(targets, predicted), "classes": n}
    n_known = labels.n_known
    every = {"macro_f1": macro_f1(targets, labels.known), "micro_f1": micro_f1(targets, labels.known)}
    chance = {
        "macro_f1": float(shares.mean()),
        "micro_f1": float((shares * shares * n_known).sum() / max((shares * n_known).sum(), 1)),
    }
    scores: dict[str, dict[str, float | int]] = {"every_class": {**every}, "most_frequent": best, "chance": {**chance}}
    return {name: own | {"mean_average_precision": mean_ap} for name, own in scores.items()}

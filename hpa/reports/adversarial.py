"""Adversarial validation: test whether a classifier can separate train from test images.

If it can, scores out of fold say little about the scores on the test images.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.metrics import roc_auc

_MAX_IMAGES: Final = 4000  # per split; more images change only the third decimal
_FOLDS: Final = 5


@dataclass(frozen=True)
class AdversarialResult:
    """How well a classifier separates train from test images.

    Parameters
    ----------
    auc
        Cross-validated area under the ROC curve of a random forest: 0.5 is chance, 1 is perfect separation.
    images
        Numbers of train and test images used.
    top_features
        The most important features, the strongest first.
    """

    auc: float
    images: tuple[int, int]
    top_features: tuple[str, ...]


def adversarial_validation(
    features: pd.DataFrame, is_test: NDArray[np.bool_], groups: NDArray[np.int32], seed: int
) -> AdversarialResult | None:
    """Train a random forest on cheap features to separate test images from train images.

    Images of one group are never on both sides of the cross-validation, because the forest would recognise
    near-duplicates of images that it was trained on.

    Parameters
    ----------
    features
        One row per image, one column per feature (`cheap_features`).
    is_test
        Whether each image is a test image, shape (N,).
    groups
        Group of each image, shape (N,).
    seed
        Seed of the sample, the folds and the forest.

    Returns
    -------
    AdversarialResult or None
        None if there are fewer than 10 groups in either split.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(seed)
    sides = [rng.permutation(np.flatnonzero(is_test == side))[:_MAX_IMAGES] for side in (False, True)]
    if min(len(np.unique(groups[side])) for side in sides) < 2 * _FOLDS:
        return None
    rows = np.sort(np.concatenate(sides))
    x, y, group_of = features.to_numpy()[rows], is_test[rows], groups[rows]
    scores = np.empty(len(rows))
    importance = np.zeros(features.shape[1])
    for train, test in StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed).split(x, y, group_of):
        forest = RandomForestClassifier(200, min_samples_leaf=3, class_weight="balanced", random_state=seed)
        forest.fit(x[train], y[train])
        scores[test] = forest.predict_proba(x[test])[:, 1]
        importance += forest.feature_importances_
    strongest = tuple(str(features.columns[i]) for i in np.argsort(-importance)[:3])
    return AdversarialResult(roc_auc(y, scores), (len(sides[0]), len(sides[1])), strongest)


def cheap_features(images: pd.DataFrame, scanned: pd.DataFrame) -> pd.DataFrame:
    """Compute features of every image from the image table and the scan.

    The features are height, width, bytes per pixel and depth, and for each channel the mean, the standard deviation and
    the shares of black, bright and saturated pixels.

    Parameters
    ----------
    images, scanned
        The image table and the scan (`hpa.splitting.scan`), row by row.

    Returns
    -------
    DataFrame
        One row per image, one column per feature.
    """
    features = {
        "height": images["height_px"].to_numpy(),
        "width": images["width_px"].to_numpy(),
        "bytes per pixel": images.filter(like="bytes_").sum(axis=1).to_numpy()
        / (images["height_px"] * images["width_px"]).clip(lower=1).to_numpy(),
        "depth": scanned["depth"].to_numpy(),
    }
    for column in scanned.columns:
        if column.startswith("histogram_"):
            channel = column.removeprefix("histogram_")
            shares = np.stack(list(scanned[column]))
            quarter = shares.shape[1] // 4
            features |= {
                f"mean of {channel}": scanned[f"mean_{channel}"].to_numpy(),
                f"deviation of {channel}": scanned[f"std_{channel}"].to_numpy(),
                f"black of {channel}": shares[:, 0],
                f"bright of {channel}": shares[:, quarter:].sum(axis=1),
                f"saturated of {channel}": shares[:, -1],
            }
    return pd.DataFrame(features)

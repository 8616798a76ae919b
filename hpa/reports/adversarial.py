"""Can train and test images be told apart? If so, scores out of fold say little about the test images."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_MOST: Final = 4000  # images of each side: more change the third decimal only
_PARTS: Final = 5


@dataclass(frozen=True)
class Told:
    """How well train and test images are told apart.

    Parameters
    ----------
    auc
        Area under the ROC curve of a random forest, cross-validated; 0.5 cannot be told apart, 1 always.
    images
        How many train and test images took part.
    telling
        The features that it uses most, the strongest first.
    """

    auc: float
    images: tuple[int, int]
    telling: tuple[str, ...]


def adversarial_validation(
    features: pd.DataFrame, is_test: NDArray[np.bool_], groups: NDArray[np.int32], seed: int
) -> Told | None:
    """Train a classifier on cheap features to tell test images from train images.

    Images of one group are never on both sides of the cross-validation: near-duplicates would be told by heart.

    Parameters
    ----------
    features
        One row an image, one column a feature (`cheap_features`).
    is_test
        Shape (N,).
    groups
        Shape (N,).
    seed
        Of the sample, the parts and the forest.

    Returns
    -------
    Told or None
        None where there are fewer than 10 images or groups on a side.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    draw = np.random.default_rng(seed)
    sides = [draw.permutation(np.flatnonzero(is_test == side))[:_MOST] for side in (False, True)]
    if min(len(np.unique(groups[side])) for side in sides) < 2 * _PARTS:
        return None
    rows = np.sort(np.concatenate(sides))
    x, y, tied = features.to_numpy()[rows], is_test[rows], groups[rows]
    scores = np.empty(len(rows))
    importance = np.zeros(features.shape[1])
    for train, test in StratifiedGroupKFold(_PARTS, shuffle=True, random_state=seed).split(x, y, tied):
        forest = RandomForestClassifier(200, min_samples_leaf=3, class_weight="balanced", random_state=seed)
        forest.fit(x[train], y[train])
        scores[test] = forest.predict_proba(x[test])[:, 1]
        importance += forest.feature_importances_
    strongest = tuple(str(features.columns[i]) for i in np.argsort(-importance)[:3])
    return Told(float(roc_auc_score(y, scores)), (len(sides[0]), len(sides[1])), strongest)


def cheap_features(images: pd.DataFrame, scanned: pd.DataFrame) -> pd.DataFrame:
    """Return the size, the depth, and of each channel mean, deviation and what share is black, bright and saturated."""
    features = {
        "height": images["height_px"].to_numpy(),
        "width": images["width_px"].to_numpy(),
        "bytes a pixel": images.filter(like="bytes_").sum(axis=1).to_numpy()
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

"""How good the predictions are, told without flattering."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.scores import f1_per_class, macro_f1
from hpa.vocabulary import Vocabulary

_FAR_APART = 3.0
"""Standard errors between two shares of predictions above which a warning is due."""


def class_table(
    targets: NDArray[np.bool_], predictions: NDArray[np.bool_], thresholds: NDArray[np.float64], vocabulary: Vocabulary
) -> pd.DataFrame:
    """Return one row a class: class, support, threshold, precision, recall, f1, share_oof.

    Precision and recall are 0 where they are undefined, as F1 is.

    Parameters
    ----------
    targets, predictions
        Shape (N, K), of the scored rows.
    thresholds
        Shape (K,).
    vocabulary
        Of the run.
    """
    hits = (targets & predictions).sum(axis=0)
    return pd.DataFrame(
        {
            "class": vocabulary.classes,
            "support": targets.sum(axis=0),
            "threshold": thresholds,
            "precision": hits / np.maximum(predictions.sum(axis=0), 1),
            "recall": hits / np.maximum(targets.sum(axis=0), 1),
            "f1": f1_per_class(targets, predictions),
            "share_oof": predictions.mean(axis=0),
        }
    )


def shares_far_apart(
    share_oof: NDArray[np.float64], n_oof: int, share_test: NDArray[np.float64], n_test: int
) -> NDArray[np.bool_]:
    """Tell for which classes the share predicted on test is far from that out of fold.

    The two-proportion z statistic above 3: chance alone does that to one class in 370.

    Parameters
    ----------
    share_oof, share_test
        Shape (K,), shares of the rows a class is predicted for.
    n_oof, n_test
        Numbers of rows.
    """
    pooled = (share_oof * n_oof + share_test * n_test) / (n_oof + n_test)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n_oof + 1 / n_test))
    far: NDArray[np.bool_] = np.abs(share_test - share_oof) > _FAR_APART * error
    return far


def summary(
    targets: NDArray[np.bool_], cross_fitted: NDArray[np.bool_], in_sample: NDArray[np.bool_], classes: pd.DataFrame
) -> dict[str, Any]:
    """Return what ``metrics.json`` holds.

    Parameters
    ----------
    targets
        Shape (N, K), of all out-of-fold rows.
    cross_fitted, in_sample
        Predictions with thresholds tuned on the other folds, and on all rows, the scored one among them.
    classes
        `class_table` of the cross-fitted predictions, with the shares on test.
    """
    honest, flattering = macro_f1(targets, cross_fitted), macro_f1(targets, in_sample)
    return {
        "macro_f1": honest,
        "macro_f1_in_sample": flattering,
        "gap": flattering - honest,
        "images": len(targets),
        "classes": classes.to_dict("records"),
    }

"""From the probabilities of crops to the labels of images."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from aggregate.config import AggregateSection
from aggregate.pooling.sources import PooledRuns, pool_parts
from aggregate.run import decide_images
from aggregate.thresholds.file import Thresholds, fixed_thresholds, read_thresholds
from classify.probabilities import class_columns, part_of
from hpa.errors import UserError
from hpa.vocabulary import VOCABULARIES, Vocabulary


def image_predictions(probabilities: pd.DataFrame, thresholds: str | Path | ArrayLike) -> pd.DataFrame:
    """Pool the probabilities of crops and predict the classes of their images, as the aggregate stage does.

    Crops are pooled within each fold's model, the folds' image probabilities are averaged, and a class is predicted
    where its probability is strictly above its threshold.

    Parameters
    ----------
    probabilities
        One row per crop and fold: image_id, cell_label, fold, and one column ``p_<class>`` per class, of images that no
        model has seen (`cellwise.Classifier.predict`).
    thresholds
        A trained work folder, a bundle, or its ``thresholds.json``, which also determines the pooling; or one threshold
        for all classes, or one per class, with maximum pooling.

    Returns
    -------
    DataFrame
        One row per image, sorted: image_id, predicted (a tuple of class names), and the probability ``p_<class>`` of
        each class.

    Raises
    ------
    UserError
        If the columns do not fit a vocabulary or the thresholds, or the run pools in a way that needs more than
        probabilities (learned pooling, crop quality, joined runs).

    Examples
    --------
    >>> from classify.probabilities import class_columns
    >>> from hpa.vocabulary import JOVIAN10
    >>> table = pd.DataFrame(0.1, index=range(4), columns=class_columns(JOVIAN10))
    >>> table.insert(0, "image_id", "a")
    >>> table.insert(1, "cell_label", [1, 1, 2, 2])
    >>> table.insert(2, "fold", [0, 1, 0, 1])
    >>> table["p_Nucleoplasm"] = [0.2, 0.9, 0.5, 0.3]  # the maxima of the folds are 0.5 and 0.9
    >>> image_predictions(table, 0.6)[["image_id", "predicted", "p_Nucleoplasm"]]
      image_id       predicted  p_Nucleoplasm
    0        a  (Nucleoplasm,)            0.7
    """
    vocabulary = _find_vocabulary(probabilities)
    if probabilities.empty:
        raise UserError("expected probabilities of at least one image, found an empty table")
    known = _as_thresholds(thresholds, vocabulary)
    section = known.section
    if section.pooling == "trained" or section.min_quality or len(known.decision.weights) > 1:
        raise UserError(
            "expected a run that pools crops by a formula, without crop quality and joined runs, found one that does "
            "not; use `cellwise apply`"
        )
    ids = sorted(set(probabilities["image_id"]))
    bags = pool_parts([part_of(probabilities, vocabulary)], len(vocabulary), section)
    images = decide_images(ids, PooledRuns([bags], len(vocabulary)).by_model(ids), known)
    names = [tuple(vocabulary.classes[c] for c in np.flatnonzero(row)) for row in images.predictions]
    head = pd.DataFrame({"image_id": ids, "predicted": pd.Series(names, dtype=object)})
    return pd.concat([head, pd.DataFrame(images.scores, columns=class_columns(vocabulary))], axis=1)


def _find_vocabulary(probabilities: pd.DataFrame) -> Vocabulary:
    missing = {"image_id", "cell_label", "fold"} - set(probabilities.columns)
    if missing:
        raise UserError(f"expected the columns image_id, cell_label and fold, found no {min(missing)}")
    found = [name for name in probabilities.columns if str(name).startswith("p_")]
    for vocabulary in VOCABULARIES.values():
        if found == class_columns(vocabulary):
            return vocabulary
    raise UserError(f"expected a column p_<class> per class of {', '.join(VOCABULARIES)}, found {len(found)} others")


def _as_thresholds(thresholds: str | Path | ArrayLike, vocabulary: Vocabulary) -> Thresholds:
    if isinstance(thresholds, str | Path):
        path = Path(thresholds)
        return read_thresholds(path / "aggregate" / "thresholds.json" if path.is_dir() else path, vocabulary)
    return fixed_thresholds(np.asarray(thresholds, dtype=np.float64), AggregateSection(), vocabulary)

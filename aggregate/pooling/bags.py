"""Reading crop probabilities and pooling them on the way: one row an image and model is what stays in memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.config import AggregateSection
from aggregate.pooling.formulas import pool_bags
from aggregate.pooling.trained import Trained, pool_as_trained
from classify.probabilities import Part, stream_probabilities
from hpa.errors import UserError
from hpa.vocabulary import Vocabulary


@dataclass(frozen=True)
class Bags:
    """The crops of images, pooled within each model.

    Parameters
    ----------
    table
        One row a bag, sorted by image_id, then fold: image_id, fold, is_oof, n_crops (those that were pooled).
    scores
        Shape (V, M, K), float32: the M bags pooled in V ways.
    """

    table: pd.DataFrame
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """How good each crop is.

    Parameters
    ----------
    values
        By image_id and cell_label.
    least
        Crops below it are left out, unless an image has no other.
    """

    values: pd.Series
    least: float

    def keeps(self, part: Part) -> NDArray[np.bool_]:
        """Tell which rows of a part are pooled; a crop without a value is kept."""
        ids = np.array(part.image_ids, dtype=object)[part.images]
        found = self.values.reindex(pd.MultiIndex.from_arrays([ids, part.cell_labels])).to_numpy(np.float64)
        good: NDArray[np.bool_] = ~(found < self.least)
        any_good = np.zeros(len(part.image_ids), dtype=bool)
        np.logical_or.at(any_good, part.images, good)
        return good | ~any_good[part.images]


def read_quality(path: Path, section: AggregateSection) -> Quality | None:
    """Read the recipe's quality of every crop; None where all are kept.

    Raises
    ------
    UserError
        If the crop table has no such column.
    """
    if not section.min_quality:
        return None
    crops = pd.read_parquet(path)
    if section.quality not in crops.columns or not pd.api.types.is_numeric_dtype(crops[section.quality]):
        raise UserError(f"expected the recipe's quality to be a column of numbers in {path}, found {section.quality!r}")
    return Quality(crops.set_index(["image_id", "cell_label"])[section.quality], section.min_quality)


def read_bags(
    path: Path,
    vocabulary: Vocabulary,
    section: AggregateSection,
    quality: Quality | None = None,
    trained: Trained | None = None,
) -> Bags:
    """Pool a table of crop probabilities; memory does not grow with the number of crops.

    Raises
    ------
    UserError
        If the table breaks its contract.
    """
    return pool_parts(stream_probabilities(path, vocabulary), len(vocabulary), section, quality, trained)


def pool_parts(
    parts: Iterable[Part],
    n_classes: int,
    section: AggregateSection,
    quality: Quality | None = None,
    trained: Trained | None = None,
) -> Bags:
    """Pool the crops of each image within each model's fold.

    Averaging models before the maximum over cells would give less than the maxima that thresholds are tuned on, so
    the order matters: `aggregate.thresholds.decision` averages the folds afterwards.
    """
    columns = {"image_id": object, "fold": np.int16, "is_oof": bool, "n_crops": np.int64}
    tables = [pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in columns.items()})]
    scores = [np.empty((len(section.kinds), 0, n_classes), dtype=np.float32)]
    for part in parts:
        table, pooled = _pool_part(part, section, quality, trained)
        tables.append(table)
        scores.append(pooled)
    return Bags(pd.concat(tables[1:] or tables, ignore_index=True), np.concatenate(scores, axis=1))


def _pool_part(
    part: Part, section: AggregateSection, quality: Quality | None, trained: Trained | None
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    rows = np.lexsort((part.folds, part.images))  # stable: cells keep their order
    if quality is not None:
        rows = rows[quality.keeps(part)[rows]]
    images, folds = part.images[rows], part.folds[rows]
    first_rows = np.flatnonzero(np.append(True, (images[1:] != images[:-1]) | (folds[1:] != folds[:-1])))
    probabilities = part.probabilities[rows]
    table = pd.DataFrame(
        {
            "image_id": np.array(part.image_ids, dtype=object)[images[first_rows]],
            "fold": folds[first_rows],
            "is_oof": part.is_oof[rows][first_rows],
            "n_crops": np.diff(np.append(first_rows, len(rows))),
        }
    )
    if trained is None:
        return table, np.stack([pool_bags(probabilities, first_rows, kind, section) for kind in section.formulas])
    weights = trained.weights(np.array(part.image_ids, dtype=object)[images], part.cell_labels[rows])
    attention = None if part.attention is None else part.attention[rows]
    pooled = pool_as_trained(probabilities, first_rows, trained.how, folds[first_rows], weights, attention)
    return table, pooled[None]

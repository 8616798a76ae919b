"""Predict labels of single cells, ``cells.parquet``: those classes of the image that the cell shows clearly.

Columns: image_id, cell_label, origin (``oof``: scored by the model that was not trained on the image; ``test``: by the
mean of all models), predicted (class numbers separated by spaces, as in a submission) and p of each class. There is one
row per cell with a crop; an image without such cells has no row.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as arrow
from numpy.typing import NDArray
from pyarrow import parquet

from classify.probabilities import class_columns, stream_probabilities
from hpa.vocabulary import Vocabulary
from hpa.work.files import atomic_write, read_parquet
from hpa.work.folder import WorkFolder


@dataclass(frozen=True)
class Cells:
    """The cells of some images, those of one image in consecutive rows.

    Parameters
    ----------
    image_ids
        Shape (n,), the image of every cell.
    cell_labels
        Shape (n,); 0 for the full frame of an image without cells.
    is_oof
        Shape (n,), bool: scored by the model that was not trained on the image.
    scores
        Shape (n, K), float32, the mean probabilities over the models that scored the cell.
    """

    image_ids: NDArray[np.object_]
    cell_labels: NDArray[np.int64]
    is_oof: NDArray[np.bool_]
    scores: NDArray[np.float32]

    @property
    def first_rows(self) -> NDArray[np.int64]:
        """First row of each image, shape (B,)."""
        return np.flatnonzero(np.append(True, self.image_ids[1:] != self.image_ids[:-1])[: len(self.image_ids)])

    def take(self, rows: NDArray[np.bool_]) -> "Cells":
        """Return some of the cells, chosen by a mask of shape (n,)."""
        return Cells(self.image_ids[rows], self.cell_labels[rows], self.is_oof[rows], self.scores[rows])


def stream_cells(probabilities: Path, vocabulary: Vocabulary) -> Iterator[Cells]:
    """Yield the cells of a table of crop probabilities, complete images at a time.

    Memory does not grow with the table.

    Raises
    ------
    UserError
        If the table is missing or breaks its contract, see `classify.probabilities.stream_probabilities`.
    """
    for part in stream_probabilities(probabilities, vocabulary):
        table = pd.DataFrame(part.probabilities)
        means = table.groupby([part.images, part.cell_labels.astype(np.int64), part.is_oof]).mean()
        images, labels, is_oof = (means.index.get_level_values(level).to_numpy() for level in range(3))
        ids = np.array(part.image_ids, dtype=object)[images]
        yield Cells(ids, labels, is_oof, means.to_numpy(np.float32))


def decide_cells(
    scores: NDArray[np.float32], first_rows: NDArray[np.int64], predictions: NDArray[np.bool_], share: float
) -> NDArray[np.bool_]:
    """Assign to each cell the classes of its image that it shows nearly as clearly as the best cell.

    Image and cells stay consistent: every class of an image is found in at least one of its cells, and no cell has a
    class that its image lacks.

    Parameters
    ----------
    scores
        Shape (n, K), the cells of an image in consecutive rows.
    first_rows
        Shape (B,), the first row of each image.
    predictions
        Shape (B, K), the classes of the images.
    share
        Minimum score of a cell, as a share of the highest score among the cells of the image, within 0..1. 0 assigns
        all classes of the image to all cells, 1 only to the best cell.

    Returns
    -------
    ndarray
        Shape (n, K), bool.

    Examples
    --------
    >>> scores = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.5]], dtype=np.float32)
    >>> decide_cells(scores, np.array([0]), np.array([[True, False]]), 0.5)
    array([[ True, False],
           [ True, False],
           [False, False]])
    """
    if not len(scores):
        return np.zeros(scores.shape, dtype=bool)
    images = np.repeat(np.arange(len(first_rows)), np.diff(np.append(first_rows, len(scores))))
    minimum = np.float32(share) * np.maximum.reduceat(scores, first_rows)
    shown: NDArray[np.bool_] = predictions[images] & (scores >= minimum[images])
    return shown


def write_cells(
    path: Path, probabilities: Path, predicted: Mapping[str, NDArray[np.bool_]], vocabulary: Vocabulary, share: float
) -> int:
    """Write the labels of all cells with crops and return how many there are.

    Parameters
    ----------
    path
        The table to write.
    probabilities
        The table of crop probabilities of the window ``cells``.
    predicted
        The classes of each image, shape (K,), by image_id; images that are not in it are skipped.
    vocabulary
        Of the run.
    share
        As for `decide_cells`.
    """
    columns = class_columns(vocabulary)
    keys = ("image_id", arrow.string()), ("cell_label", arrow.int32()), ("origin", arrow.string())
    schema = arrow.schema([*keys, ("predicted", arrow.string()), *((name, arrow.float32()) for name in columns)])
    count = 0
    with (
        atomic_write(path) as unfinished,
        parquet.ParquetWriter(unfinished, schema, write_page_checksum=True) as writer,
    ):
        for part in stream_cells(probabilities, vocabulary):
            decided = np.array([image_id in predicted for image_id in part.image_ids], dtype=bool)
            cells = part.take(decided & (part.cell_labels > 0))
            if not len(cells.image_ids):
                continue
            image_labels = np.stack([predicted[image_id] for image_id in cells.image_ids[cells.first_rows]])
            shown = decide_cells(cells.scores, cells.first_rows, image_labels, share)
            table = pd.DataFrame(cells.scores, columns=columns)
            table.insert(0, "predicted", [vocabulary.format(np.flatnonzero(row)) for row in shown])
            table.insert(0, "origin", np.where(cells.is_oof, "oof", "test"))
            table.insert(0, "cell_label", cells.cell_labels.astype(np.int32))
            table.insert(0, "image_id", cells.image_ids)
            writer.write_table(arrow.Table.from_pandas(table, schema=schema, preserve_index=False))
            count += len(table)
    return count


def read_cells(work: WorkFolder) -> pd.DataFrame:
    """Read the labels of the cells of a finished run.

    Raises
    ------
    UserError
        If there is no table, for example because the recipe has no window ``cells``, or it is damaged.
    """
    return read_parquet(work.root / "aggregate" / "cells.parquet", f"python -m aggregate run {work.root}")

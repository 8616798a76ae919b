"""Labels of single cells, ``cells.parquet``: of the classes that the image has, those that the cell shows.

Columns: image_id, cell_label, origin (``oof``: said by the model that has not seen the image; ``test``: by the mean of
all), predicted (class numbers joined by blanks, as in a submission) and p of each class. One row for each cell with a
crop; an image without one has no row.
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
from hpa.work.files import atomic_write
from hpa.work.folder import WorkFolder
from hpa.work.tables import read_parquet


@dataclass(frozen=True)
class Cells:
    """The cells of some images, those of one image next to each other.

    Parameters
    ----------
    image_ids
        Of every cell.
    cell_labels
        Shape (n,); 0 for the whole frame of an image without cells.
    is_oof
        Shape (n,), bool.
    scores
        Shape (n, K), float32, the mean probabilities over the models that scored the cell.
    """

    image_ids: NDArray[np.object_]
    cell_labels: NDArray[np.int64]
    is_oof: NDArray[np.bool_]
    scores: NDArray[np.float32]

    @property
    def first(self) -> NDArray[np.int64]:
        """Shape (B,), where each image begins."""
        return np.flatnonzero(np.append(True, self.image_ids[1:] != self.image_ids[:-1])[: len(self.image_ids)])

    def where(self, kept: NDArray[np.bool_]) -> "Cells":
        """Return some of the cells."""
        return Cells(self.image_ids[kept], self.cell_labels[kept], self.is_oof[kept], self.scores[kept])


def stream_cells(probabilities: Path, vocabulary: Vocabulary) -> Iterator[Cells]:
    """Read a table of crop probabilities in parts of whole images, in memory that does not grow with it.

    Raises
    ------
    UserError
        As `classify.probabilities.stream_probabilities` has it.
    """
    for part in stream_probabilities(probabilities, vocabulary):
        table = pd.DataFrame(part.probabilities)
        means = table.groupby([part.images, part.cell_labels.astype(np.int64), part.is_oof]).mean()
        images, labels, is_oof = (means.index.get_level_values(level).to_numpy() for level in range(3))
        ids = np.array(part.image_ids, dtype=object)[images]
        yield Cells(ids, labels, is_oof, means.to_numpy(np.float32))


def decide_cells(
    scores: NDArray[np.float32], first: NDArray[np.int64], predictions: NDArray[np.bool_], share: float
) -> NDArray[np.bool_]:
    """Give each cell the classes of its image that it shows nearly as clearly as the cell that shows them best.

    So the cells of an image have together the classes that the image has: what an image is said to have lies in a cell,
    and what a cell is said to show its image has.

    Parameters
    ----------
    scores
        Shape (n, K), cells of an image next to each other.
    first
        Shape (B,), where each image begins.
    predictions
        Shape (B, K), the classes of the images.
    share
        Of the highest score among the cells of the image, within 0..1: what a cell needs at least. 0 hands all classes
        of the image on to all cells, 1 to the one best cell.

    Returns
    -------
    ndarray
        Shape (n, K), bool.
    """
    if not len(scores):
        return np.zeros(scores.shape, dtype=bool)
    images = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(scores))))
    least = np.float32(share) * np.maximum.reduceat(scores, first)
    shown: NDArray[np.bool_] = predictions[images] & (scores >= least[images])
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
        Of the crops of cells.
    predicted
        The classes of each image that is decided, shape (K,); others are left out.
    vocabulary
        Of the run.
    share
        As `decide_cells` has it.
    """
    columns = class_columns(vocabulary)
    texts = ("image_id", arrow.string()), ("cell_label", arrow.int32()), ("origin", arrow.string())
    schema = arrow.schema([*texts, ("predicted", arrow.string()), *((name, arrow.float32()) for name in columns)])
    count = 0
    with atomic_write(path) as unfinished, parquet.ParquetWriter(unfinished, schema) as writer:
        for part in stream_cells(probabilities, vocabulary):
            decided = np.array([image_id in predicted for image_id in part.image_ids], dtype=bool)
            cells = part.where(decided & (part.cell_labels > 0))
            if not len(cells.image_ids):
                continue
            of_images = np.stack([predicted[image_id] for image_id in cells.image_ids[cells.first]])
            shown = decide_cells(cells.scores, cells.first, of_images, share)
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
        If there are none, as where the recipe has no windows around cells, or the table is damaged.
    """
    return read_parquet(work.root / "aggregate" / "cells.parquet", f"python -m aggregate run {work.root}")

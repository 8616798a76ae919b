"""Scores of single cells, where their true labels are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aggregate.cell_labels import read_cells
from aggregate.external.labels import parse_labels
from aggregate.scoring.metrics import class_table, summary
from classify.probabilities import class_columns
from hpa.errors import UserError
from hpa.images import read_images
from hpa.work.folder import WorkFolder
from hpa.work.tables import read_csv_or_parquet


def score_cells(work: WorkFolder, truth: Path, *, resamples: int = 1000) -> dict[str, Any]:
    """Score the cells of a finished run against a table of their labels.

    Their labels are those of ``aggregate/cells.parquet``: a train cell is scored by the model that has not seen its
    image, a test cell by the mean of all, and it may have none. A class of which nothing is known in the image is not
    scored in its cells.

    Parameters
    ----------
    work
        The finished work folder.
    truth
        A table with image_id, cell_label (as in the masks of the run) and target (class numbers or names).
    resamples
        Of the bootstrap, over images.

    Returns
    -------
    dict
        As `aggregate.scoring.metrics.summary` returns it (images counts cells), with labelled, the number of cells in
        the table; cells without a crop in the run are not scored.

    Raises
    ------
    UserError
        If the run has no labels of cells, a column is missing, a cell stands twice, or no cell of the table is in the
        run.
    """
    vocabulary = work.data.classes
    columns = class_columns(vocabulary)
    labelled = _read(truth)
    cells = labelled.merge(read_cells(work), on=["image_id", "cell_label"], how="inner", validate="one_to_one")
    if cells.empty:
        raise UserError(f"expected cells of {work.root} in {truth}, found none of its image_id and cell_label")
    where = cells["image_id"] + ", cell " + cells["cell_label"].astype(str)
    targets = vocabulary.multi_hot(
        parse_labels(text, vocabulary, f"{truth}, {place}") for text, place in zip(cells["target"], where, strict=True)
    )
    scores = cells[columns].to_numpy(np.float32)
    predictions = vocabulary.multi_hot(vocabulary.parse(text) for text in cells["predicted"])
    masked = read_images(work.images).set_index("image_id")["unknown_classes"]
    known_of = ~vocabulary.multi_hot(masked.loc[cells["image_id"]])
    groups = pd.factorize(cells["image_id"])[0]
    table = class_table(targets, predictions, vocabulary, scores, known_of)
    told = summary(
        targets,
        predictions,
        groups,
        table,
        over="images",
        resamples=resamples,
        seed=work.data.seed,
        labelled=known_of,
    )
    return told | {"labelled": len(labelled)}


def _read(path: Path) -> pd.DataFrame:
    needed = ["image_id", "cell_label", "target"]
    table = read_csv_or_parquet(path, needed)
    try:
        table = table[needed].astype({"image_id": str, "cell_label": np.int64})
    except ValueError as error:
        raise UserError(f"expected numbers as cell_label in {path}, found: {error}") from None
    doubled = table[table.duplicated(["image_id", "cell_label"])]
    if len(doubled):
        image_id, cell = doubled.iloc[0]["image_id"], doubled.iloc[0]["cell_label"]
        raise UserError(f"expected every cell once in {path}, found cell {cell} of image {image_id} twice")
    return table

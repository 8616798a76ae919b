"""Score predictions of images or of single cells against a table of their true labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aggregate.cell_labels import read_cells
from aggregate.external.tables import cell_labels, parse_labels, read_groups, read_label_table
from aggregate.labels import Labels
from aggregate.scoring.metrics import class_table, summary
from classify.probabilities import class_columns
from hpa.errors import UserError
from hpa.images import read_images
from hpa.vocabulary import Vocabulary
from hpa.work.files import read_csv_or_parquet
from hpa.work.folder import WorkFolder


def evaluate_images(
    predictions: Path,
    truth: Path,
    vocabulary: Vocabulary,
    *,
    columns: tuple[str, str] = ("", ""),
    groups: Path | None = None,
    groups_column: str = "",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a table of predictions against a table of labels.

    Parameters
    ----------
    predictions, truth
        Tables with a column of ids and one of labels (`aggregate.external.tables.read_label_table`), both of images or
        both of cells; they may be the same file.
    vocabulary
        The classes.
    columns
        The columns of predictions and of true labels; empty looks for their usual names.
    groups, groups_column
        A table of the groups that the bootstrap draws (`aggregate.external.tables.read_groups`); None draws images.
    resamples
        Of the bootstrap; 0 omits the intervals.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        As returned by `aggregate.scoring.metrics.summary`, where images counts cells if the tables are of cells, with
        rows, "images" or "cells", unscored, the number of predictions without a label, and unpredicted, the number of
        labels without a prediction; neither are scored.

    Raises
    ------
    UserError
        If a table cannot be read, or the two have no image in common.
    """
    predicted = read_label_table(predictions, vocabulary, truth=False, column=columns[0])
    targets = read_label_table(truth, vocabulary, truth=True, column=columns[1])
    unpredicted = targets.keys() - predicted.keys()
    if len(unpredicted) == len(targets):
        raise UserError(f"expected predictions of the {_kind(targets)} of {truth} in {predictions}, found none")
    targets = {key: target for key, target in targets.items() if key in predicted}
    image_ids = [image_id for image_id, _ in targets]
    numbers, over = pd.factorize(np.array(image_ids, dtype=object))[0].astype(np.int32), "images"
    if groups:
        numbers, column = read_groups(groups, image_ids, groups_column)
        over = f"groups of images ({column} in {groups.name})"
    labels = Labels.all_known(vocabulary.multi_hot(targets.values()), numbers)
    hot = vocabulary.multi_hot(predicted[key] for key in targets)
    classes = class_table(labels, hot, vocabulary)
    metrics = summary(labels, hot, classes, over=over, resamples=resamples, seed=seed)
    return metrics | {
        "rows": _kind(targets),
        "unscored": len(predicted.keys() - targets.keys()),
        "unpredicted": len(unpredicted),
    }


def _kind(targets: Mapping[tuple[str, int], tuple[int, ...]]) -> str:
    return "cells" if any(cell for _, cell in targets) else "images"


def evaluate_cells(work: WorkFolder, truth: Path, *, resamples: int = 1000) -> dict[str, Any]:
    """Score the cells of a finished run against a table of their true labels.

    Predictions are those of ``aggregate/cells.parquet``: a train cell is scored by the model that was not trained on
    its image, a test cell by the mean of all models. A class that is unknown for an image is not scored in its cells.

    Parameters
    ----------
    work
        The finished work folder.
    truth
        A table with image_id, cell_label (as in the masks of the run) and target (class numbers or names).
    resamples
        Of the bootstrap over images; 0 omits the intervals.

    Returns
    -------
    dict
        As returned by `aggregate.scoring.metrics.summary`, where images counts cells, with labelled, the number of
        cells in the table; cells without a crop in the run are not scored.

    Raises
    ------
    UserError
        If the run has no cell labels, a column is missing, a cell occurs twice, or no cell of the table is in the run.
    """
    vocabulary = work.data.classes
    table = _read_cell_table(truth)
    cells = table.merge(read_cells(work), on=["image_id", "cell_label"], how="inner", validate="one_to_one")
    if cells.empty:
        raise UserError(f"expected cells of {work.root} in {truth}, found none of its image_id and cell_label")
    where = cells["image_id"] + ", cell " + cells["cell_label"].astype(str)
    targets = vocabulary.multi_hot(
        parse_labels(text, vocabulary, f"{truth}, {place}") for text, place in zip(cells["target"], where, strict=True)
    )
    unknown = read_images(work.images).set_index("image_id")["unknown_classes"].loc[cells["image_id"]]
    groups = pd.factorize(cells["image_id"])[0]
    labels = Labels(targets, ~vocabulary.multi_hot(unknown), groups, np.zeros_like(groups))
    predictions = vocabulary.multi_hot(vocabulary.parse(text) for text in cells["predicted"])
    scores = cells[class_columns(vocabulary)].to_numpy(np.float32)
    classes = class_table(labels, predictions, vocabulary, scores)
    metrics = summary(labels, predictions, classes, over="images", resamples=resamples, seed=work.data.seed)
    return metrics | {"labelled": len(table)}


def _read_cell_table(path: Path) -> pd.DataFrame:
    needed = ["image_id", "cell_label", "target"]
    table = read_csv_or_parquet(path, needed)
    labels = cell_labels(table, path)
    table = table[needed].astype({"image_id": str}).assign(cell_label=labels)
    repeated = table[table.duplicated(["image_id", "cell_label"])]
    if len(repeated):
        image_id, cell = repeated.iloc[0]["image_id"], repeated.iloc[0]["cell_label"]
        raise UserError(f"expected every cell once in {path}, found cell {cell} of image {image_id} twice")
    return table

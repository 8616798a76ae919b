"""The labels of single cells that a model is trained on, ``cell_labels.parquet`` in the work folder.

Columns: image_id, cell_label, fold, and target, the class indices of the cell, some of those of its image. The model of
a fold is trained on the rows of that fold, one per cell whose labels differ from those of its image, which all other
cells inherit. Each fold has labels of its own, because what labels its cells must not have seen the images that its
model is scored on. `pipeline relabel` makes the table.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd
import pandera.pandas as pa

from classify.data.crops import FoldCrops
from hpa.errors import UserError
from hpa.vocabulary import Vocabulary
from hpa.work.files import check_table, read_parquet, write_parquet
from hpa.work.folder import WorkFolder

CELL_TARGETS: Final = "cell_labels.parquet"

_SCHEMA: Final = pa.DataFrameSchema(
    {
        "image_id": pa.Column(str),
        "cell_label": pa.Column("int32", pa.Check.ge(1), coerce=True),
        "fold": pa.Column("int16", pa.Check.ge(0), coerce=True),
        "target": pa.Column(object),
    },
    unique=["image_id", "cell_label", "fold"],
    strict=True,
)


def cell_targets_path(work: WorkFolder) -> Path:
    """Return the path of the table.

    Raises
    ------
    UserError
        If there is none.
    """
    path = work.root / CELL_TARGETS
    if not path.is_file():
        raise UserError(
            f'expected labels of cells for classify.labels = "cells" in {path} (made by `python -m pipeline relabel`),'
            " found none"
        )
    return path


def write_cell_targets(path: Path, table: pd.DataFrame) -> None:
    """Check the table and write it atomically."""
    write_parquet(path, _SCHEMA.validate(table))


def read_cell_targets(path: Path) -> pd.DataFrame:
    """Read the table.

    Raises
    ------
    UserError
        If it is missing or damaged.
    """
    table = read_parquet(path, "python -m pipeline relabel")
    if "target" in table:
        targets = [tuple(target) for target in table["target"]]
        table["target"] = pd.Series(targets, index=table.index, dtype=object)  # a column of floats if there are no rows
    return check_table(table, _SCHEMA, path)


def train_on_cells(crops: FoldCrops, table: pd.DataFrame, fold: int, vocabulary: Vocabulary) -> FoldCrops:
    """Replace the labels that training crops inherit by those of their cells; validation keeps those of images.

    Parameters
    ----------
    crops
        The crops of a fold.
    table
        `read_cell_targets`.
    fold
        Number of the fold.
    vocabulary
        Of the run.
    """
    labels, rows, table = crops.labels, crops.training, table[table["fold"] == fold]
    keys = pd.MultiIndex.from_arrays([labels.image_ids[rows], labels.cell_labels[rows]])
    places = pd.MultiIndex.from_frame(table[["image_id", "cell_label"]]).get_indexer(keys)
    targets = labels.targets.copy()
    own = vocabulary.multi_hot(table["target"])
    targets[rows[places >= 0]] = own[places[places >= 0]]
    return replace(crops, labels=replace(labels, targets=targets & labels.known))

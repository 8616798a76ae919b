"""The layout of the Kaggle 2021 competition (Human Protein Atlas Single Cell Classification).

``train.csv`` (ID,Label, labels like ``8|5|0`` of 19 classes), ``sample_submission.csv`` (ID,ImageWidth,ImageHeight,
PredictionString), images as in 2018. Every train image of 2021 is a train image of 2018 too.
"""

from pathlib import Path
from typing import Final

from hpa.layouts.competition import Tables, find_by_tables
from hpa.layouts.listing import DatasetListing
from hpa.vocabulary import HPA19, Vocabulary
from hpa.work.tables import csv_header

TABLES: Final = Tables("train.csv", ("ID", "Label"), "sample_submission.csv", ("ID", "PredictionString"), "|", HPA19)


def matches(data: Path) -> bool:
    """Tell whether a folder has a table of this layout."""
    return set(TABLES.train_columns) <= set(csv_header(data / TABLES.train)) or set(TABLES.test_columns) <= set(
        csv_header(data / TABLES.test)
    )


def find(data: Path, vocabulary: Vocabulary) -> DatasetListing:
    """Find the images named by the tables.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an ID stands twice or a label is unknown.
    """
    return find_by_tables(data, TABLES)

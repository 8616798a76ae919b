"""The layouts of the two Kaggle competitions, 2018 and 2021.

2018 (Human Protein Atlas Image Classification): ``train.csv`` (Id,Target), ``sample_submission.csv`` (Id,Predicted),
images ``{Id}_{color}.png`` or ``.tif`` below folders whose names begin with ``train`` or ``test``, or next to the
tables. An ``antibodies.csv`` (Id,Antibody) may accompany them: the competition kept the antibodies secret, but images
of one antibody share their labels and must share a fold.

2021 (Human Protein Atlas Single Cell Classification): ``train.csv`` (ID,Label, labels like ``8|5|0`` of 19 classes),
``sample_submission.csv`` (ID,ImageWidth,ImageHeight,PredictionString), images as in 2018. Every train image of 2021 is
also a train image of 2018.
"""

from pathlib import Path
from typing import Final

from hpa.layouts.competition import CompetitionTables, list_by_tables
from hpa.layouts.listing import DatasetListing
from hpa.vocabulary import HPA19, HPA28, Vocabulary
from hpa.work.files import csv_header

KAGGLE2018: Final = CompetitionTables(
    "train.csv", ("Id", "Target"), "sample_submission.csv", ("Id", "Predicted"), None, HPA28
)
KAGGLE2021: Final = CompetitionTables(
    "train.csv", ("ID", "Label"), "sample_submission.csv", ("ID", "PredictionString"), "|", HPA19
)


def is_kaggle2018(data: Path) -> bool:
    """Return whether a folder has a table of the 2018 layout; test for the other competitions first."""
    return (data / KAGGLE2018.train).is_file() or (data / KAGGLE2018.test).is_file()


def list_kaggle2018(data: Path, vocabulary: Vocabulary) -> DatasetListing:
    """List the images in the tables of 2018: train rows in their order, then test rows in that of the sample.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an Id occurs twice or a label is unknown.
    """
    return list_by_tables(data, KAGGLE2018)


def is_kaggle2021(data: Path) -> bool:
    """Return whether a folder has a table of the 2021 layout."""
    train, test = csv_header(data / KAGGLE2021.train), csv_header(data / KAGGLE2021.test)
    return set(KAGGLE2021.train_columns) <= set(train) or set(KAGGLE2021.test_columns) <= set(test)


def list_kaggle2021(data: Path, vocabulary: Vocabulary) -> DatasetListing:
    """List the images in the tables of 2021: train rows in their order, then test rows in that of the sample.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an ID occurs twice or a label is unknown.
    """
    return list_by_tables(data, KAGGLE2021)

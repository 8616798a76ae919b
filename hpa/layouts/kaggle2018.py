"""The layout of the Kaggle 2018 competition (Human Protein Atlas Image Classification).

``train.csv`` (Id,Target), ``sample_submission.csv`` (Id,Predicted), images ``{Id}_{color}.png`` or ``.tif`` below
folders that begin with ``train`` or ``test``, or beside the tables. ``antibodies.csv`` (Id,Antibody) may stand beside
them; the competition kept it secret, but images of one antibody share their labels and must share a fold.
"""

from pathlib import Path
from typing import Final

from hpa.layouts.competition import Tables, find_by_tables
from hpa.layouts.listing import DatasetListing
from hpa.vocabulary import HPA28, Vocabulary

TABLES: Final = Tables("train.csv", ("Id", "Target"), "sample_submission.csv", ("Id", "Predicted"), None, HPA28)


def matches(data: Path) -> bool:
    """Tell whether a folder has a table of this layout; other competitions are looked for first."""
    return (data / TABLES.train).is_file() or (data / TABLES.test).is_file()


def find(data: Path, vocabulary: Vocabulary) -> DatasetListing:
    """Find the images named by the tables: train rows in their order, then test rows in the sample's.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an Id stands twice or a label is unknown.
    """
    return find_by_tables(data, TABLES)

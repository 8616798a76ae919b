"""What the competitions' layouts share: a table of train images, a sample submission, folders `train` and `test`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hpa.channels import Channel
from hpa.errors import UserError
from hpa.images import check_ids
from hpa.layouts.listing import DatasetListing, FileListing, PlaneFile, Row, channel_files, parts_of, table_of
from hpa.vocabulary import Vocabulary, parse_target
from hpa.work.tables import read_csv


@dataclass(frozen=True)
class Tables:
    """How a competition's tables are called and written.

    Parameters
    ----------
    train, test
        File names of the table of train images and of the sample submission.
    train_columns, test_columns
        The columns of the image and of its labels.
    separator
        Between labels; None is white space.
    vocabulary
        Of the labels.
    """

    train: str
    train_columns: tuple[str, str]
    test: str
    test_columns: tuple[str, str]
    separator: str | None
    vocabulary: Vocabulary


def find_by_tables(data: Path, tables: Tables) -> DatasetListing:
    """Find the images that the tables name: train rows in their order, then test rows in the sample's.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an Id stands twice or a label is unknown.
    """
    rows = read_rows(data, tables)
    walked = {split: _walk(data, split) for split in ("train", "test")}
    files: list[Mapping[Channel, PlaneFile]] = [walked[row.split].files.get(row.image_id, {}) for row in rows]
    unlisted = len({i for walk in walked.values() for i in walk.files} - {row.image_id for row in rows})
    notices = [f"{unlisted} images in {data} have no row in its tables and are ignored"] if unlisted else []
    if not any(files):  # then what the files are called is most likely the reason
        notices += walked["train"].notice(data)
    return DatasetListing(table_of(rows), files, [data / row.split for row in rows], tables.vocabulary, notices)


def read_rows(data: Path, tables: Tables) -> list[Row]:
    """Read what the tables say of each image.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an Id stands twice or a label is unknown.
    """
    if not ((data / tables.train).is_file() or (data / tables.test).is_file()):
        raise UserError(f"expected {tables.train} or {tables.test} in {data}, found neither")
    train = _rows_if_there(data / tables.train, tables.train_columns)
    test = _rows_if_there(data / tables.test, tables.test_columns)
    train_ids, texts = (list(train[column]) for column in tables.train_columns)
    test_ids = list(test[tables.test_columns[0]])
    check_ids([*train_ids, *test_ids], f"{tables.train} and {tables.test}")
    antibodies = _rows_if_there(data / "antibodies.csv", ("Id", "Antibody"))
    antibody_of = dict(zip(antibodies["Id"], antibodies["Antibody"], strict=True))
    rows = [
        Row(i, "train", parse_target(i, text, tables.vocabulary, tables.separator), antibody_of.get(i) or None)
        for i, text in zip(train_ids, texts, strict=True)
    ]
    return rows + [Row(i, "test", (), antibody_of.get(i) or None) for i in test_ids]


def _rows_if_there(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    if path.is_file():
        return read_csv(path, columns)
    return pd.DataFrame({column: pd.Series(dtype=str) for column in columns})


def _walk(data: Path, split: str) -> FileListing:
    # The competition's full-size images came as a second folder, train_full_size; where both are, `train` sorts first.
    folders = sorted(path for path in data.iterdir() if path.is_dir() and path.name.startswith(split))
    below = channel_files(folders, recursive=True)
    flat = channel_files(parts_of(data), recursive=False)
    return FileListing({**flat.files, **below.files}, below.others + flat.others, below.example or flat.example)

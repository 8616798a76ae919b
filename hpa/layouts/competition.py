"""The shared part of the competition layouts: a train table, a sample submission, folders ``train`` and ``test``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from hpa.channels import Channel
from hpa.errors import UserError
from hpa.images import check_ids
from hpa.layouts.listing import (
    DatasetListing,
    FileListing,
    PlaneFile,
    Row,
    is_text,
    list_files,
    part_folders,
    rows_to_table,
)
from hpa.vocabulary import Vocabulary, parse_target
from hpa.work.files import read_csv

_ANTIBODIES: Final = "antibodies.csv"


@dataclass(frozen=True)
class CompetitionTables:
    """Names, columns and label format of the tables of one competition.

    Parameters
    ----------
    train, test
        File names of the table of train images and of the sample submission.
    train_columns, test_columns
        The image column and the label column of each table.
    separator
        Separator between labels; None is white space.
    vocabulary
        Vocabulary of the labels.
    """

    train: str
    train_columns: tuple[str, str]
    test: str
    test_columns: tuple[str, str]
    separator: str | None
    vocabulary: Vocabulary


def list_by_tables(data: Path, tables: CompetitionTables) -> DatasetListing:
    """List the images in the tables: train rows in their order, then test rows in that of the sample submission.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an Id occurs twice or a label is unknown.
    """
    rows = read_rows(data, tables)
    listings = {split: _list_split(data, split) for split in ("train", "test")}
    files: list[Mapping[Channel, PlaneFile]] = [listings[row.split].files.get(row.image_id, {}) for row in rows]
    unlisted = len({i for listing in listings.values() for i in listing.files} - {row.image_id for row in rows})
    notices = [f"{unlisted} images in {data} have no row in its tables and are ignored"] if unlisted else []
    without = int(sum(row.antibody is None for row in rows))
    if without and (data / _ANTIBODIES).is_file():
        notices.append(f"{without} of {len(rows)} images have no antibody in {data / _ANTIBODIES}")
    if not any(files):  # the file names are then the most likely reason
        notices += listings["train"].notices(data)
    return DatasetListing(rows_to_table(rows), files, [data / row.split for row in rows], tables.vocabulary, notices)


def read_rows(data: Path, tables: CompetitionTables) -> list[Row]:
    """Read one row per image from the tables: Id, split, target and, where known, antibody.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an Id occurs twice or a label is unknown.
    """
    if not ((data / tables.train).is_file() or (data / tables.test).is_file()):
        raise UserError(f"expected {tables.train} or {tables.test} in {data}, found neither")
    train = _read_if_present(data / tables.train, tables.train_columns)
    test = _read_if_present(data / tables.test, tables.test_columns)
    train_ids, texts = (list(train[column]) for column in tables.train_columns)
    test_ids = list(test[tables.test_columns[0]])
    check_ids([*train_ids, *test_ids], f"{tables.train} and {tables.test}")
    antibody_of = _read_antibodies(data / _ANTIBODIES)
    rows = [
        Row(i, "train", parse_target(i, text, tables.vocabulary, tables.separator), antibody_of.get(i))
        for i, text in zip(train_ids, texts, strict=True)
    ]
    return rows + [Row(i, "test", (), antibody_of.get(i)) for i in test_ids]


def _read_antibodies(path: Path) -> dict[str, str]:
    """Return the antibody of each image in a table; images without one are left out."""
    table = _read_if_present(path, ("Id", "Antibody"))
    antibody_of: dict[str, str] = {}
    for image_id, text in zip(table["Id"], table["Antibody"], strict=True):
        antibody = text.strip()
        # Images of one antibody share a fold: taking either of two could leak.
        if antibody and antibody_of.setdefault(image_id, antibody) != antibody:
            raise UserError(
                f"expected one antibody for each image in {path}, found {antibody_of[image_id]!r} and {antibody!r} for "
                f"{image_id!r}"
            )
    return antibody_of


def _read_if_present(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    if path.is_file():
        return read_csv(path, columns)
    return pd.DataFrame({column: pd.Series(dtype=str) for column in columns})


def _list_split(data: Path, split: str) -> FileListing:
    # The competition published its full-size images in a second folder, train_full_size. If both folders exist,
    # `train` sorts first and wins.
    folders = sorted(
        path for path in data.iterdir() if path.is_dir() and path.name.startswith(split) and is_text(path.name)
    )
    below = list_files(folders, recursive=True)
    flat = list_files(part_folders(data), recursive=False)
    return FileListing({**flat.files, **below.files}, below.n_ignored + flat.n_ignored, below.example or flat.example)

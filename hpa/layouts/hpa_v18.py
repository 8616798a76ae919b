"""The images of the Human Protein Atlas, version 18, that competitors joined to the Kaggle 2018 set.

A table ``HPAv18*.csv`` (Id,Target; 28 classes) beside or above files ``{Id}_{color}.jpg``, pictures that are drawn in
the colour of the stain (`hpa.layouts.listing.STAIN_PLANE`), or gray ones. The Id is ``antibody_plate_well_field``, so
antibody and well are known. `python -m hpa download-v18` makes such a folder.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple

from hpa.errors import UserError
from hpa.images import check_ids
from hpa.layouts.listing import DatasetListing, Row, channel_files, table_of
from hpa.vocabulary import HPA28, Vocabulary, parse_target
from hpa.work.tables import read_csv

COLUMNS: Final = ("Id", "Target")
_ID: Final = re.compile(r"(?P<antibody>[^_]+)_(?P<well>[^_]+_[A-Za-z]+\d+)_(?P<field>\w+)")


class Parts(NamedTuple):
    """What an Id says."""

    antibody: str
    well: str
    """Plate and well."""
    field: str


def parse_id(image_id: str) -> Parts:
    """Read an Id such as ``10580_1610_C1_1``.

    Raises
    ------
    UserError
        If it is not of that form.
    """
    match = _ID.fullmatch(image_id)
    if not match:
        raise UserError(f"expected Ids antibody_plate_well_field of HPA v18, found {image_id!r}")
    return Parts(match["antibody"], match["well"], match["field"])


def _table(data: Path) -> Path | None:
    return next((path for path in sorted(data.glob("*.csv")) if path.name.lower().startswith("hpav18")), None)


def matches(data: Path) -> bool:
    """Tell whether a folder has a table of this layout."""
    return _table(data) is not None


def find(data: Path, vocabulary: Vocabulary) -> DatasetListing:
    """Find the images of the table, all train images.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an Id is of another form or stands twice, or a label is unknown.
    """
    path = _table(data) or data / "train.csv"
    if not path.is_file():
        raise UserError(f"expected a table HPAv18*.csv or train.csv in {data}, found neither")
    table = read_csv(path, COLUMNS)
    check_ids(list(table["Id"]), path.name)
    rows = [_row(i, text) for i, text in zip(table["Id"], table["Target"], strict=True)]
    walked = channel_files([data], recursive=True)
    unlisted = len(walked.files.keys() - set(table["Id"]))
    notices = [f"{unlisted} images in {data} have no row in {path.name} and are ignored"] if unlisted else []
    files = [walked.files.get(row.image_id, {}) for row in rows]
    return DatasetListing(table_of(rows), files, [data] * len(rows), HPA28, notices)


def _row(image_id: str, text: str) -> Row:
    parts = parse_id(image_id)
    return Row(image_id, "train", parse_target(image_id, text, HPA28), parts.antibody, parts.well)

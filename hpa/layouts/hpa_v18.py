"""The layout of Human Protein Atlas images, version 18, which competitors added to the Kaggle 2018 set.

A table ``HPAv18*.csv`` (Id,Target; 28 classes) is next to or above files ``{Id}_{color}.jpg``: pictures drawn in the
colour of the stain (`hpa.layouts.listing.STAIN_PLANE`), or gray ones. The Id is ``antibody_plate_well_field``, so
antibody and well are known. ``python -m hpa download-v18`` makes such a folder.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple

from hpa.errors import UserError
from hpa.images import check_ids
from hpa.layouts.listing import JPEG, DatasetListing, Row, list_files, rows_to_table
from hpa.vocabulary import HPA28, Vocabulary, parse_target
from hpa.work.files import read_csv

COLUMNS: Final = ("Id", "Target")
_ID: Final = re.compile(r"(?P<antibody>[^_]+)_(?P<well>[^_]+_[A-Za-z]+\d+)_(?P<field>\w+)")


class IdParts(NamedTuple):
    """The parts of an Id."""

    antibody: str
    well: str
    """Plate and well."""
    field: str


def parse_id(image_id: str) -> IdParts:
    """Split an Id such as ``10580_1610_C1_1`` into antibody, plate with well, and field.

    Raises
    ------
    UserError
        If it does not have that form.

    Examples
    --------
    >>> from hpa.layouts.hpa_v18 import parse_id
    >>> parse_id("10580_1610_C1_1")
    IdParts(antibody='10580', well='1610_C1', field='1')
    """
    match = _ID.fullmatch(image_id)
    if not match:
        raise UserError(
            f"expected Ids antibody_plate_well_field of HPA v18, found {image_id!r}; files "
            'named plate_well_field, as on the site, can be read without the table: data.layout = "folder"'
        )
    return IdParts(match["antibody"], match["well"], match["field"])


def _table(data: Path) -> Path | None:
    return next((path for path in sorted(data.glob("*.csv")) if path.name.lower().startswith("hpav18")), None)


def is_hpa_v18(data: Path) -> bool:
    """Return whether a folder has a table of this layout."""
    return _table(data) is not None


def list_hpa_v18(data: Path, vocabulary: Vocabulary) -> DatasetListing:
    """List the images of the table, all of them train images.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an Id has another form or occurs twice, or a label is unknown.
    """
    path = _table(data) or data / "train.csv"
    if not path.is_file():
        raise UserError(f"expected a table HPAv18*.csv or train.csv in {data}, found neither")
    table = read_csv(path, COLUMNS)
    check_ids(list(table["Id"]), path.name)
    rows = [_row(i, text) for i, text in zip(table["Id"], table["Target"], strict=True)]
    listing = list_files([data], recursive=True)
    unlisted = len(listing.files.keys() - set(table["Id"]))
    notices = [f"{unlisted} images in {data} have no row in {path.name} and are ignored"] if unlisted else []
    files = [listing.files.get(row.image_id, {}) for row in rows]
    return DatasetListing(rows_to_table(rows), files, [data] * len(rows), HPA28, notices, JPEG[0])


def _row(image_id: str, text: str) -> Row:
    parts = parse_id(image_id)
    return Row(image_id, "train", parse_target(image_id, text, HPA28), parts.antibody, parts.well)

"""The layout for any other data: a table with the path of every plane of every image.

The table is ``images.csv`` or ``images.parquet`` in the data folder, or a file given directly. Columns: ``image_id``;
for every channel C ``path_C`` (relative to the table, or absolute) and, if the file has several planes, ``plane_C``
(counted from 0 through pages, then through the samples of a page: red, green, blue); optionally ``target`` (class
indices of the run's vocabulary, separated by blanks or ``|``), ``antibody``, ``group`` (images of one group share a
fold: a well, a patient) and ``split`` (``train`` or ``test``; without it, images with a target are train images).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd

from hpa.channels import CHANNELS, Channel
from hpa.errors import UserError
from hpa.images import check_ids
from hpa.layouts.listing import DatasetListing, PlaneFile, Row, rows_to_table
from hpa.pixels import ONLY_PLANE
from hpa.vocabulary import Vocabulary, parse_target
from hpa.work.files import read_csv_or_parquet

NAMES: Final = ("images.csv", "images.parquet")
_OPTIONAL: Final = ("target", "antibody", "group", "split")
_ALLOWED: Final = ("image_id", *_OPTIONAL, *(f"{part}_{channel}" for channel in CHANNELS for part in ("path", "plane")))


def _table_path(data: Path) -> Path | None:
    return data if data.is_file() else next((data / name for name in NAMES if (data / name).is_file()), None)


def is_table(data: Path) -> bool:
    """Return whether this is a table file or a folder with one."""
    return _table_path(data) is not None


def list_table(data: Path, vocabulary: Vocabulary) -> DatasetListing:
    """List the images of a table: train rows in its order, then test rows.

    Raises
    ------
    UserError
        If there is no table or it has no rows, a column is missing or unknown, an id occurs twice, or a target, plane
        or split is unusable.
    """
    path = _table_path(data)
    if path is None:
        raise UserError(f"expected {' or '.join(NAMES)} in {data}, found neither")
    table = _read(path)
    if table.empty:
        raise UserError(f"expected a row for each image in {path}, found none")
    check_ids(list(table["image_id"]), path.name)
    records: list[dict[str, str]] = [
        dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)
    ]
    pairs = [(_row(record, vocabulary), _files(record, path.parent)) for record in records]
    pairs.sort(key=lambda pair: pair[0].split == "test")  # a stable sort keeps the table's order
    rows = [row for row, _ in pairs]
    return DatasetListing(rows_to_table(rows), [files for _, files in pairs], [path.parent] * len(rows), vocabulary, [])


def _read(path: Path) -> pd.DataFrame:
    raw = read_csv_or_parquet(path, ("image_id",))
    table = raw.astype(object).where(raw.notna(), "").map(_text)
    unknown = [column for column in table.columns if column not in _ALLOWED]
    paths = [column for column in table.columns if column.startswith("path_") and column in _ALLOWED]
    if unknown or not paths:
        found = ", ".join(map(str, unknown or table.columns))
        raise UserError(
            f"expected in {path} the columns image_id, path_C and plane_C for channels C of {', '.join(CHANNELS)}, "
            f"and {', '.join(_OPTIONAL)}, found {found}"
        )
    return table


def _text(value: object) -> str:
    # pandas reads a column of integers with gaps as floats; a blank after a group would make it another one.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _row(record: Mapping[str, str], vocabulary: Vocabulary) -> Row:
    image_id, text = record["image_id"], record.get("target", "")
    split = record.get("split", "") or ("train" if text else "test")
    if split not in ("train", "test"):
        raise UserError(f"expected a split train or test for the image {image_id}, found {split!r}")
    target = parse_target(image_id, text, vocabulary, "|" if "|" in text else None) if text else ()
    return Row(
        image_id, split, target if split == "train" else (), record.get("antibody") or None, record.get("group") or None
    )


def _files(record: Mapping[str, str], folder: Path) -> dict[Channel, PlaneFile]:
    files: dict[Channel, PlaneFile] = {}
    for channel in CHANNELS:
        if record.get(f"path_{channel}"):
            plane = record.get(f"plane_{channel}", "") or str(ONLY_PLANE)
            if not (
                plane == str(ONLY_PLANE)
                or (plane.isascii() and plane.isdigit() and len(plane) < 6 and int(plane) < 2**15)
            ):
                raise UserError(
                    f"expected a plane_{channel} 0, 1, ... for the image {record['image_id']}, found {plane!r}"
                )
            files[channel] = PlaneFile(folder / record[f"path_{channel}"], int(plane))
    return files

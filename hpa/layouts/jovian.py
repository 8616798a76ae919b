"""The layout of the Jovian "Zero to GANs" competition (2020).

A folder ``Human protein atlas`` contains ``train.csv`` (Image,Label), ``train/<Image>.png`` and ``test/<Image>.png``;
the sample ``submission.csv`` (Image,Label) is inside it or next to it. The pictures are RGB: microtubules, the protein
and the nucleus are planes of one file. There is no ER, so such a run needs ``channels = ["red", "green", "blue"]``.
"""

from pathlib import Path
from typing import Final

from hpa.channels import Channel
from hpa.layouts.competition import CompetitionTables, read_rows
from hpa.layouts.listing import DatasetListing, PlaneFile, files_below, rows_to_table
from hpa.vocabulary import JOVIAN10, Vocabulary
from hpa.work.files import csv_header

_FOLDER: Final = "Human protein atlas"
_CHANNELS: Final[tuple[Channel, ...]] = ("red", "green", "blue")
_COLUMNS: Final = ("Image", "Label")


def is_jovian(data: Path) -> bool:
    """Return whether a folder has a table of this layout."""
    return _COLUMNS in (csv_header(data / "train.csv")[:2], csv_header(data / _FOLDER / "train.csv")[:2]) or (
        not (data / "train.csv").exists() and csv_header(data / "submission.csv")[:2] == _COLUMNS
    )


def list_jovian(data: Path, vocabulary: Vocabulary) -> DatasetListing:
    """List the images in the tables: train rows in their order, then test rows in that of the sample submission.

    Raises
    ------
    UserError
        If there is no table, a column is missing, an image occurs twice or a label is unknown.
    """
    inner = data / _FOLDER if (data / _FOLDER).is_dir() else data
    # The path is relative to the inner folder: the sample is in it or one level up.
    sample = "submission.csv" if (inner / "submission.csv").is_file() or inner == data else "../submission.csv"
    rows = read_rows(inner, CompetitionTables("train.csv", _COLUMNS, sample, _COLUMNS, None, JOVIAN10))
    pictures = {split: _pictures(inner / split) for split in ("train", "test")}
    paths = [pictures[row.split].get(row.image_id, inner / row.split / f"{row.image_id}.png") for row in rows]
    files = [{channel: PlaneFile(path, plane) for plane, channel in enumerate(_CHANNELS)} for path in paths]
    listed = {(row.split, row.image_id) for row in rows}
    unlisted = sum((split, image_id) not in listed for split, found in pictures.items() for image_id in found)
    notices = [f"{unlisted} images in {inner} have no row in its tables and are ignored"] if unlisted else []
    return DatasetListing(rows_to_table(rows), files, [inner / row.split for row in rows], JOVIAN10, notices)


def _pictures(folder: Path) -> dict[str, Path]:
    paths = sorted(files_below(folder, recursive=True)) if folder.is_dir() else []
    return {path.stem: path for path in paths if path.suffix.lower() == ".png"}

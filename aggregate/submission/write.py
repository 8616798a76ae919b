"""Make, check and write a submission, in any of the supported formats."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.cell_labels import stream_cells
from aggregate.config import Format
from aggregate.submission.kaggle2021 import COLUMNS, cell_table, check_cells
from classify.probabilities import class_columns
from hpa.errors import UserError
from hpa.images import read_images
from hpa.vocabulary import Vocabulary
from hpa.work.files import write_csv
from hpa.work.folder import WorkFolder
from segment.masks import read_mask

HEADERS: Final[dict[Format, tuple[str, ...]]] = {
    "kaggle2018": ("Id", "Predicted"),
    "jovian": ("Image", "Label"),
    "kaggle2021": COLUMNS,
}


def label_table(
    ids: Sequence[str], predictions: NDArray[np.bool_], vocabulary: Vocabulary, form: Format
) -> pd.DataFrame:
    """Return a submission with one row per image: class indices separated by spaces."""
    key, value = HEADERS[form]
    texts = [vocabulary.format(np.flatnonzero(row)) for row in predictions]
    return pd.DataFrame({key: list(ids), value: texts}, dtype=str)


def check_submission(table: pd.DataFrame, ids: Sequence[str], vocabulary: Vocabulary, form: Format, where: str) -> None:
    """Check a submission against the required ids.

    Parameters
    ----------
    table
        The submission.
    ids
        The required ids, in the order of the sample submission.
    vocabulary
        Of the run.
    form
        Format of the submission.
    where
        What the ids come from, for the message.

    Raises
    ------
    UserError
        If a column, a row or the order differs, an id occurs twice, or a label or confidence is out of range.
    """
    if tuple(table.columns) != HEADERS[form]:
        raise UserError(f"expected the columns {','.join(HEADERS[form])}, found {','.join(table.columns)}")
    check_row_ids(list(table[HEADERS[form][0]]), ids, where)
    if form == "kaggle2021":
        check_cells(table)
    else:
        for text in table[HEADERS[form][1]]:
            vocabulary.parse(text)


def check_row_ids(found: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Check that the rows of a submission are the required ones, in their order.

    Raises
    ------
    UserError
        Naming the first id that is repeated, missing, unexpected or out of order.
    """
    for what, ids in ((where, wanted), ("the submission", found)):
        repeated = pd.Series(list(ids), dtype=object)
        repeated = repeated[repeated.duplicated()]
        if len(repeated):
            raise UserError(f"expected every id once in {what}, found {repeated.iloc[0]!r} twice")
    present = set(found)
    missing = [image_id for image_id in wanted if image_id not in present]
    if missing:
        raise UserError(
            f"expected a row for each id of {where}, found none for {missing[0]!r} ({len(missing)} missing)"
        )
    unexpected_ids = present - set(wanted)
    if unexpected_ids:
        raise UserError(f"expected only ids of {where}, found {min(unexpected_ids)!r}")
    for place, (given, expected) in enumerate(zip(found, wanted, strict=True)):
        if given != expected:
            raise UserError(
                f"expected the order of {where}, found {given!r} in place of {expected!r} (row {place + 1})"
            )


def write_submission(
    path: Path,
    work: WorkFolder,
    form: Format | Literal["auto"],
    ids: Sequence[str],
    predictions: NDArray[np.bool_],
) -> int:
    """Write the submission of a work folder and return its number of rows.

    Parameters
    ----------
    path
        The file to write.
    work
        The work folder.
    form
        Format of the submission; ``auto`` takes the one whose header belongs to the vocabulary.
    ids, predictions
        The N test images and their classes, shape (N, K). `kaggle2021` uses the probabilities of cells instead.

    Raises
    ------
    UserError
        If the submission does not pass `check_submission`.
    """
    vocabulary = work.data.classes
    if form == "auto":
        named: Format = next(name for name, header in HEADERS.items() if header == vocabulary.header)
        form = named
    images = read_images(work.images)
    images = images[images["split"] == "test"]
    if form == "kaggle2021":
        # Cells are always scored by crops of cells, even if other windows decide on the image.
        cells = _test_cells(work.root / "classify" / "cells" / "probabilities.parquet", vocabulary)
        table = cell_table(images, cells, class_columns(vocabulary), vocabulary, lambda i: read_mask(work, i))
    else:
        table = label_table(ids, predictions, vocabulary, form)
    check_submission(table, list(images["image_id"]), vocabulary, form, "the test images")
    write_csv(path, table)
    return len(table)


def _test_cells(probabilities: Path, vocabulary: Vocabulary) -> pd.DataFrame:
    """Return image_id, cell_label and the mean probabilities of the cells of test images."""
    columns = class_columns(vocabulary)
    tables = []
    for part in stream_cells(probabilities, vocabulary):
        cells = part.take(~part.is_oof)
        table = pd.DataFrame(cells.scores, columns=columns)
        table.insert(0, "cell_label", cells.cell_labels)
        table.insert(0, "image_id", cells.image_ids)
        tables.append(table)
    if not tables:  # no image could be read
        return pd.DataFrame(columns=["image_id", "cell_label", *columns])
    return pd.concat(tables, ignore_index=True)

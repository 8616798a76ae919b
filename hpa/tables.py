"""Reading the tables that come with a data set, as text and with errors that say what is wrong with them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hpa.errors import UserError
from hpa.vocabulary import Vocabulary

_OTHER_SEPARATORS = (";", "\t", "|")


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV as text; a table that is not there is empty. A byte order mark and Windows line ends do no harm.

    Raises
    ------
    UserError
        If it cannot be parsed or lacks one of `columns`.
    """
    if not path.exists():
        return pd.DataFrame({column: pd.Series(dtype=str) for column in columns})
    wanted = ", ".join(columns)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"expected a CSV with the columns {wanted} in {path}, found: {error}") from None
    if not set(columns) <= set(table.columns):
        found = ", ".join(map(str, table.columns))
        separator = next((mark for mark in _OTHER_SEPARATORS if mark in found), None)
        hint = f" separated by {separator!r} instead of commas" if separator and len(table.columns) == 1 else ""
        raise UserError(f"expected the columns {wanted} in {path}, found {found}{hint}")
    return table


def header(path: Path) -> tuple[str, ...]:
    """Return the names of a CSV's columns, none where there is no such table or it has no first line in UTF-8."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return tuple(name.strip().strip('"') for name in file.readline().split(","))
    except (OSError, UnicodeDecodeError):
        return ()


def parse_target(image_id: str, text: str, vocabulary: Vocabulary, separator: str | None = None) -> tuple[int, ...]:
    """Read the target of a train image, which has at least one label.

    Raises
    ------
    UserError
        Naming the image.
    """
    try:
        target = vocabulary.parse(text, separator)
    except UserError as error:
        marks = {mark for mark in ",;| " if mark in text.strip()} - {separator or " "}
        between = f"; labels stand with {separator or 'a blank'!r} between them" if marks else ""
        raise UserError(f"{error} (image {image_id}{between})") from None
    if not target:
        raise UserError(f"expected at least one label for the train image {image_id}, found none")
    return target

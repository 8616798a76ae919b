"""Reading tables, a user's or a stage's: one that is missing or broken is told in a sentence."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow

from hpa.errors import UserError

_OTHER_SEPARATORS = (";", "\t", "|")


def read_csv(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV as text. It may be compressed; a byte order mark and Windows line ends do no harm.

    Parameters
    ----------
    path
        The file.
    columns
        What it must have.

    Raises
    ------
    UserError
        If it is missing, cannot be parsed or lacks one of `columns`.
    """
    wanted = f" with the columns {', '.join(columns)}" if columns else ""
    try:
        with warnings.catch_warnings():
            # A row of more fields than names must not push its first field out into an index.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except FileNotFoundError:
        raise UserError(f"expected a CSV{wanted}, found no file {path}") from None
    except pd.errors.ParserWarning:
        raise UserError(f"expected a CSV{wanted} in {path}, found rows of more fields than names") from None
    except (OSError, ValueError) as error:  # a parser's and a decoder's errors are ValueErrors
        raise UserError(f"expected a CSV{wanted} in {path}, found: {error}") from None
    if not set(columns) <= set(table.columns):
        found = ", ".join(map(str, table.columns))
        separator = next((mark for mark in _OTHER_SEPARATORS if mark in found), None)
        hint = f" separated by {separator!r} instead of commas" if separator and len(table.columns) == 1 else ""
        raise UserError(f"expected the columns {', '.join(columns)} in {path}, found {found}{hint}")
    return table


def csv_header(path: Path) -> tuple[str, ...]:
    """Return the names of a CSV's columns, none where there is no such table or it has no first line in UTF-8."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return tuple(name.strip().strip('"') for name in file.readline().split(","))
    except (OSError, UnicodeDecodeError):
        return ()


def read_parquet(path: Path, made_by: str = "") -> pd.DataFrame:
    """Read a Parquet table.

    Parameters
    ----------
    path
        The file.
    made_by
        The command that makes it, named in messages; empty for a user's own.

    Raises
    ------
    UserError
        If it is missing or not Parquet.
    """
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        maker = f" (made by `{made_by}`)" if made_by else ""
        raise UserError(f"expected {path}{maker}, found no such file") from None
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, OSError) as error:
        raise UserError(f"expected a Parquet table {path}, found: {str(error).splitlines()[0]}") from None


def read_csv_or_parquet(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a user's table by its suffix: ``.parquet`` with its types, anything else as a CSV, all text.

    Raises
    ------
    UserError
        If it is missing, not such a table, or lacks one of `columns`.
    """
    if path.suffix.lower() != ".parquet":
        return read_csv(path, columns)
    table = read_parquet(path)
    if not set(columns) <= set(table.columns):
        found = ", ".join(map(str, table.columns))
        raise UserError(f"expected the columns {', '.join(columns)} in {path}, found {found}")
    return table


def check_table(table: pd.DataFrame, schema: pa.DataFrameSchema, path: Path) -> pd.DataFrame:
    """Return a table as its schema has it.

    Parameters
    ----------
    table
        What was read.
    schema
        Its contract.
    path
        Where it was read, named in messages.

    Raises
    ------
    UserError
        If it breaks the contract; the first broken rule is named.
    """
    try:
        return schema.validate(table)
    except pa.errors.SchemaErrors as error:
        first = error.failure_cases.iloc[0]
        found = f"{first['column']}: {first['check']}"
    except pa.errors.SchemaError as error:
        found = " ".join(str(error).split())
    raise UserError(f"expected {path} as its stage wrote it, found {found}")

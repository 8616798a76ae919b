"""Reading the tables of a work folder: one that is missing or broken is told in a sentence."""

from pathlib import Path

import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow

from hpa.errors import UserError


def read_table(path: Path, made_by: str) -> pd.DataFrame:
    """Read a Parquet table.

    Parameters
    ----------
    path
        The file.
    made_by
        The command that makes it, named in messages.

    Raises
    ------
    UserError
        If it is missing or not Parquet.
    """
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"expected {path} (made by `{made_by}`), found no such file") from None
    except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
        raise UserError(f"expected a Parquet table {path}, found: {str(error).splitlines()[0]}") from None


def check_table(table: pd.DataFrame, schema: pa.DataFrameSchema, path: Path) -> pd.DataFrame:
    """Return a table as its schema has it.

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

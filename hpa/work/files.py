"""Read and write files: atomic writes, checksums, and tables that are checked when they are read."""

import errno
import hashlib
import json
import os
import re
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
import pyarrow.parquet as parquet

from hpa.errors import UserError

_OTHER_SEPARATORS = (";", "\t", "|")
_PARTIAL = ".partial"
_PARTIAL_NAME = re.compile(r"\..+\.\d+\.partial(\.[^.]+)?")
_MAX_HEADER = 2**16


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary file that becomes `path` once it is complete.

    The file is flushed to disk before it is renamed, so that after a crash `path` holds either
    its former content or all of the new.

    Parameters
    ----------
    path
        The file to write; its folder is created too.

    Yields
    ------
    Path
        The temporary file, in the same folder, with the same suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{_PARTIAL}{path.suffix}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partials(folder: Path) -> None:
    """Remove the temporary files that a killed run left anywhere below `folder`, or directly beside it."""
    pattern = f".*{_PARTIAL}*"
    for partial in (*folder.rglob(pattern), *folder.parent.glob(pattern)):
        # Beside `folder` may be anything of the user's: only names as `atomic_write` makes them are ours.
        if _PARTIAL_NAME.fullmatch(partial.name) and partial.is_file():
            partial.unlink()


def read_regular(path: Path) -> bytes:
    """Return the content of a file of the user, which must be a regular file.

    Opening a named pipe would wait for ever, and a device, or a link to one, has no end.

    Raises
    ------
    OSError
        If it cannot be read or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _is_special(path: Path) -> bool:
    """Return whether something other than a regular file has this path."""
    return path.exists() and not path.is_file()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON; NaN is refused, because JSON has no NaN."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index, with Unix line endings."""
    write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode())


def write_parquet(path: Path, table: pd.DataFrame, metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Write `table` without its index, with `metadata` in the file's schema; the same table gives the same bytes.

    Every page has a checksum, so that readers notice damage.
    """
    content = arrow.Table.from_pandas(table, preserve_index=False)
    if metadata:
        content = content.replace_schema_metadata({**(content.schema.metadata or {}), **metadata})
    with atomic_write(path) as partial:
        parquet.write_table(content, partial, write_page_checksum=True)


def read_csv(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV as text; it may be compressed, and have a byte order mark or Windows line endings.

    Parameters
    ----------
    path
        The file.
    columns
        Required columns.

    Raises
    ------
    UserError
        If it is missing, cannot be parsed or lacks one of `columns`.
    """
    wanted = f" with the columns {', '.join(columns)}" if columns else ""
    if _is_special(path):
        raise UserError(f"expected a CSV{wanted} in {path}, found what is not a regular file")
    try:
        with warnings.catch_warnings():
            # A row with more fields than names must not move its first field into an index.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except FileNotFoundError:
        raise UserError(f"expected a CSV{wanted}, found no file {path}") from None
    except pd.errors.ParserWarning:
        raise UserError(f"expected a CSV{wanted} in {path}, found rows with more fields than names") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"expected a CSV{wanted} in {path}, found an empty file") from None
    except Exception as error:  # parsers, decoders and what unpacks compressed files raise their own types
        reason = first_line(error).removeprefix("Error tokenizing data. C error: ")
        raise UserError(f"expected a CSV{wanted} in {path}, found: {reason}") from None
    if not set(columns) <= set(table.columns):
        found = ", ".join(map(str, table.columns))
        separator = next((mark for mark in _OTHER_SEPARATORS if mark in found), None)
        hint = f" separated by {separator!r} instead of commas" if separator and len(table.columns) == 1 else ""
        raise UserError(f"expected the columns {', '.join(columns)} in {path}, found {found}{hint}")
    return table


def csv_header(path: Path) -> tuple[str, ...]:
    """Return the column names of a CSV, or none if there is no such file or its first line is not UTF-8."""
    try:
        if not path.is_file():
            return ()
        with path.open(encoding="utf-8-sig") as file:
            return tuple(name.strip().strip('"') for name in file.readline(_MAX_HEADER).split(","))
    except (OSError, UnicodeDecodeError):
        return ()


def read_parquet(path: Path, made_by: str = "", columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a Parquet table.

    Parameters
    ----------
    path
        The file.
    made_by
        The command that makes the file, named in messages; empty for a file of the user.
    columns
        Columns to read; None reads all.

    Raises
    ------
    UserError
        If it is missing, not Parquet, or damaged.
    """
    maker = f" (made by `{made_by}`)" if made_by else ""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "what is not a regular file" if path.exists() else "no such file"
        raise UserError(f"expected {path}{maker}, found {found}")
    try:
        return pd.read_parquet(
            path, columns=None if columns is None else list(columns), page_checksum_verification=True
        )
    except Exception as error:  # damaged bytes make the reader raise whatever they lead it to
        raise UserError(f"expected a Parquet table {path}{maker}, found: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """Return the first line of a message, at most 200 characters, or the name of an exception without any."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def read_csv_or_parquet(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table of the user: ``.parquet`` with its types, any other suffix as a CSV of text.

    Raises
    ------
    UserError
        If it is missing, unreadable, or lacks one of `columns`.
    """
    if path.suffix.lower() != ".parquet":
        return read_csv(path, columns)
    table = read_parquet(path)
    if not set(columns) <= set(table.columns):
        found = ", ".join(map(str, table.columns))
        raise UserError(f"expected the columns {', '.join(columns)} in {path}, found {found}")
    return table


def check_table(table: pd.DataFrame, schema: pa.DataFrameSchema, path: Path) -> pd.DataFrame:
    """Check a table against its schema and return it with the types of the schema.

    Parameters
    ----------
    table
        The table.
    schema
        Its contract.
    path
        Its file, named in messages.

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
    except Exception as error:  # checks of values of another type than expected raise whatever they lead to
        found = " ".join(str(error).split())[:300]
    raise UserError(f"expected {path} as its stage wrote it, found {found}")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Atomic writes of files, and their checksums."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as parquet

_PARTIAL = ".partial"


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
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partials(folder: Path) -> None:
    """Remove the temporary files that a killed run left anywhere below `folder`."""
    for partial in folder.rglob(f".*{_PARTIAL}*"):
        partial.unlink(missing_ok=True)


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
    """Write `table` without its index, with `metadata` in the file's schema; the same table gives the same bytes."""
    content = arrow.Table.from_pandas(table, preserve_index=False)
    if metadata:
        content = content.replace_schema_metadata({**(content.schema.metadata or {}), **metadata})
    with atomic_write(path) as partial:
        parquet.write_table(content, partial)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The contract of the classify stage: ``classify/<window>/probabilities.parquet``.

It has one row per crop and model and is sorted by its key (image_id, cell_label, fold). Columns:

- image_id
- cell_label: 0 for a full frame
- fold: the fold of the model that scored the crop
- origin: ``oof`` if the crop's image belongs to that fold, which the model never saw; ``test`` if the image is in no
  fold, with one row per fold
- ``p_<class name>``: float32 within 0..1, one column per class in the order of the run's vocabulary, whose name is in
  the file's metadata
- attention: float32, the score of the crop in its bag; only if the recipe pools by attention in training

If models pool in training, ``pooling.json`` beside the table says how (`classify.trained_pooling`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from hpa.errors import UserError
from hpa.vocabulary import Vocabulary
from hpa.work.files import atomic_write, check_table, first_line

Origin = Literal["oof", "test"]
KEY: Final = ["image_id", "cell_label", "fold"]
ATTENTION: Final = "attention"
_KEY_TYPES: Final = {"cell_label": np.int32, "fold": np.int16}
_METADATA: Final = b"cellwise_vocabulary"


def class_columns(vocabulary: Vocabulary) -> list[str]:
    """Return the names of the probability columns, in the order of the classes."""
    return [f"p_{name}" for name in vocabulary.classes]


def probabilities_schema(vocabulary: Vocabulary) -> pa.DataFrameSchema:
    """Return the schema of the table for a vocabulary."""
    columns = {
        "image_id": pa.Column(str),
        "cell_label": pa.Column("int32", pa.Check.ge(0)),
        "fold": pa.Column("int16", pa.Check.ge(0)),
        "origin": pa.Column(str, pa.Check.isin(["oof", "test"])),
    }
    # NaN counts as null, which no column may contain; infinities are outside the range.
    columns |= {name: pa.Column("float32", pa.Check.in_range(0, 1)) for name in class_columns(vocabulary)}
    columns[ATTENTION] = pa.Column("float32", pa.Check(np.isfinite), required=False)
    return pa.DataFrameSchema(
        columns,
        checks=pa.Check(
            lambda t: not t.loc[t["origin"] == "oof"].duplicated(["image_id", "cell_label"]).any(),
            error="an out-of-fold crop is scored by more than one fold's model",
        ),
        unique=KEY,
        strict=True,
        ordered=True,
    )


def write_probabilities(path: Path, table: pd.DataFrame, vocabulary: Vocabulary) -> None:
    """Check the table and write it atomically.

    Raises
    ------
    pandera.errors.SchemaError, pandera.errors.SchemaErrors
        If the table breaks the contract.
    """
    probabilities_schema(vocabulary).validate(table)
    content = arrow.Table.from_pandas(table, preserve_index=False)
    content = content.replace_schema_metadata({**(content.schema.metadata or {}), _METADATA: vocabulary.name.encode()})
    with atomic_write(path) as partial:
        parquet.write_table(content, partial, write_page_checksum=True)


def read_probabilities(path: Path, vocabulary: Vocabulary) -> pd.DataFrame:
    """Read the table and check it.

    Raises
    ------
    UserError
        If there is no such file, it is of another vocabulary, or it breaks the contract.
    """
    file = _open(path, vocabulary)
    with _readable(path):
        table: pd.DataFrame = file.read().to_pandas()
    return check_table(table, probabilities_schema(vocabulary), path)


@dataclass(frozen=True)
class Part:
    """The rows of some complete images.

    Parameters
    ----------
    image_ids
        The images, in rising order.
    images
        Shape (n,), position of each row's image in `image_ids`.
    cell_labels, folds
        Shape (n,).
    is_oof
        Shape (n,), bool.
    probabilities
        Shape (n, K), float32.
    attention
        Shape (n,), float32, score of each crop in its bag; None unless models pool by attention.
    """

    image_ids: list[str]
    images: NDArray[np.int64]
    cell_labels: NDArray[np.int32]
    folds: NDArray[np.int16]
    is_oof: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    attention: NDArray[np.float32] | None = None


def stream_probabilities(path: Path, vocabulary: Vocabulary, rows: int = 1 << 17) -> Iterator[Part]:
    """Read and check the table in parts of complete images, in memory that does not grow with the table.

    Parameters
    ----------
    path
        Path of the table.
    vocabulary
        The run's vocabulary.
    rows
        Approximate number of rows per part.

    Yields
    ------
    Part
        Rows of some images, in the order of the table.

    Raises
    ------
    UserError
        As `read_probabilities`, with the row that breaks the contract.
    """
    columns = class_columns(vocabulary)
    file = _open(path, vocabulary)
    missing = [name for name in (*KEY, "origin", *columns) if name not in file.schema_arrow.names]
    if missing:
        raise UserError(f"expected probabilities as the contract has them in {path}, found no column {missing[0]}")
    optional = [name for name in (ATTENTION,) if name in file.schema_arrow.names]
    held, last = pd.DataFrame(), ""
    for batch in _batches(path, file, [*KEY, "origin", *columns, *optional], rows):
        with _readable(path):
            table = batch.to_pandas().astype(_KEY_TYPES)
        table = pd.concat([held, table], ignore_index=True) if len(held) else table
        _check_values(table, columns, path)
        starts = _image_starts(table, path)
        held = table.iloc[starts[-1] :]  # the next batch may continue the last image
        table = table.iloc[: starts[-1]]
        if len(table):
            last = _after(last, str(table["image_id"].iloc[0]), path)
            yield _part(table, starts[:-1], columns)
            last = str(table["image_id"].iloc[-1])
    if len(held):
        _after(last, str(held["image_id"].iloc[0]), path)
        yield _part(held, np.zeros(1, dtype=np.int64), columns)


def part_of(table: pd.DataFrame, vocabulary: Vocabulary) -> Part:
    """Return a table of probabilities in memory, of images that no model has seen, as one part.

    Parameters
    ----------
    table
        image_id, cell_label, fold and the probability columns of the vocabulary, in any order of rows.
    vocabulary
        Vocabulary of the probabilities.

    Raises
    ------
    UserError
        If a probability is outside 0..1, or a crop occurs twice in a fold.
    """
    table = table.sort_values(KEY, kind="stable").assign(origin="test")
    _check_values(table, class_columns(vocabulary), Path("the table"))
    return _part(table, _image_starts(table, Path("the table")), class_columns(vocabulary))


def _batches(path: Path, file: parquet.ParquetFile, columns: list[str], rows: int) -> Iterator[arrow.RecordBatch]:
    # Row groups are read one by one, because `iter_batches` keeps all that it has read until it ends.
    for group in range(file.num_row_groups):
        with _readable(path):
            batches = file.read_row_group(group, columns=columns).to_batches(max_chunksize=rows)
        yield from batches


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever damaged bytes make the reader raise into a `UserError`."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"expected probabilities as the contract has them in {path}, found: {first_line(error)}"
        ) from None


def _open(path: Path, vocabulary: Vocabulary) -> parquet.ParquetFile:
    if not path.is_file():
        raise UserError(f"expected {path} (made by `python -m classify predict`), found no such file")
    try:
        file = parquet.ParquetFile(path, page_checksum_verification=True)
    except Exception as error:
        raise UserError(f"expected a Parquet file {path}, found: {first_line(error)}") from None
    _check_vocabulary(file.schema_arrow, path, vocabulary)
    return file


def _check_vocabulary(schema: arrow.Schema, path: Path, vocabulary: Vocabulary) -> None:
    found = (schema.metadata or {}).get(_METADATA, b"").decode(errors="replace") or "none"
    if found != vocabulary.name:
        raise UserError(f"expected probabilities of the vocabulary {vocabulary.name} in {path}, found {found}")
    columns = [name for name in schema.names if name.startswith("p_")]
    if columns != class_columns(vocabulary):
        differing = sorted(set(columns) ^ set(class_columns(vocabulary)))
        raise UserError(
            f"expected the classes of {vocabulary.name} in their order in {path}, found otherwise: "
            f"{', '.join(differing) or 'another order'}"
        )


def _check_values(table: pd.DataFrame, columns: list[str], path: Path) -> None:
    values = table[columns].to_numpy(np.float32)
    wrong = ~((values >= 0) & (values <= 1))  # NaN compares as false
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UserError(
            f"expected probabilities within 0..1 in {path}, found {values[row, column]} in {columns[column]} "
            f"(image {table['image_id'].iloc[row]}, cell {table['cell_label'].iloc[row]})"
        )
    if ATTENTION in table and not np.isfinite(table[ATTENTION].to_numpy(np.float32)).all():
        raise UserError(f"expected finite numbers as {ATTENTION} in {path}, found others")
    if not table["origin"].isin(["oof", "test"]).all():
        raise UserError(f"expected the origins oof and test in {path}, found others")


def _image_starts(table: pd.DataFrame, path: Path) -> NDArray[np.int64]:
    """Return the first row of each image, after checking that rows are sorted by the key without duplicates."""
    ids = table["image_id"].to_numpy(object)
    new = np.append(True, ids[1:] != ids[:-1])
    starts = np.flatnonzero(new)
    cells, folds = table["cell_label"].to_numpy(), table["fold"].to_numpy()
    rises = (cells[1:] > cells[:-1]) | ((cells[1:] == cells[:-1]) & (folds[1:] > folds[:-1]))
    heads = ids[starts]
    wrong = np.flatnonzero(~(rises | new[1:]))
    if len(wrong) or any(heads[1:] <= heads[:-1]):
        image_id = ids[wrong[0] + 1] if len(wrong) else heads[1:][heads[1:] <= heads[:-1]][0]
        raise UserError(
            f"expected rows sorted by image_id, cell_label and fold, none twice, in {path}, "
            f"found otherwise at image {image_id}"
        )
    return starts


def _after(last: str, first: str, path: Path) -> str:
    if first <= last:
        raise UserError(f"expected rows sorted by image_id in {path}, found {first} after {last}")
    return first


def _part(table: pd.DataFrame, starts: NDArray[np.int64], columns: list[str]) -> Part:
    sizes = np.diff(np.append(starts, len(table)))
    return Part(
        [str(image_id) for image_id in table["image_id"].to_numpy()[starts]],
        np.repeat(np.arange(len(starts)), sizes),
        table["cell_label"].to_numpy(np.int32),
        table["fold"].to_numpy(np.int16),
        (table["origin"] == "oof").to_numpy(),
        table[columns].to_numpy(np.float32),
        table[ATTENTION].to_numpy(np.float32) if ATTENTION in table else None,
    )

"""The contract of the classify stage: ``classify/<window>/probabilities.parquet``.

One row a crop and model, key (image_id, cell_label, fold), sorted by it:

image_id, cell_label (0 for a whole frame), fold (whose model speaks), origin (``oof``: the crop's image is of that
fold, which the model never saw; ``test``: an image of no fold, with one row a fold), then ``p_<class name>``, float32
within 0..1, one column a class in the order of the run's vocabulary, whose name stands in the file's metadata.
"""

from pathlib import Path
from typing import Final, Literal

import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
import pyarrow.parquet as parquet

from hpa.errors import UserError
from hpa.files import whole
from hpa.vocabulary import Vocabulary

Origin = Literal["oof", "test"]
KEY: Final = ["image_id", "cell_label", "fold"]
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
    # NaN counts as null, which no column may hold; infinities are outside the range.
    columns |= {name: pa.Column("float32", pa.Check.in_range(0, 1)) for name in class_columns(vocabulary)}
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
    """Check the table and write it, whole or not at all.

    Raises
    ------
    pandera.errors.SchemaError, pandera.errors.SchemaErrors
        If it breaks the contract.
    """
    probabilities_schema(vocabulary).validate(table)
    content = arrow.Table.from_pandas(table, preserve_index=False)
    content = content.replace_schema_metadata({**(content.schema.metadata or {}), _METADATA: vocabulary.name.encode()})
    with whole(path) as partial:
        parquet.write_table(content, partial)


def read_probabilities(path: Path, vocabulary: Vocabulary) -> pd.DataFrame:
    """Read the table and check it.

    Raises
    ------
    UserError
        If there is none, it is of another vocabulary, or it breaks the contract.
    """
    if not path.is_file():
        raise UserError(f"expected {path} (made by `python -m classify predict`), found no such file")
    try:
        content = parquet.read_table(path)
    except arrow.ArrowInvalid as error:
        raise UserError(f"expected a Parquet file {path}, found: {error}") from None
    found = (content.schema.metadata or {}).get(_METADATA, b"").decode() or "none"
    if found != vocabulary.name:
        raise UserError(f"expected probabilities of the vocabulary {vocabulary.name} in {path}, found {found}")
    table: pd.DataFrame = content.to_pandas()
    columns = [name for name in table.columns if name.startswith("p_")]
    if columns != class_columns(vocabulary):
        odd = sorted(set(columns) ^ set(class_columns(vocabulary)))
        raise UserError(
            f"expected the classes of {vocabulary.name} in their order in {path}, found otherwise: "
            f"{', '.join(odd) or 'another order'}"
        )
    try:
        probabilities_schema(vocabulary).validate(table)
    except (pa.errors.SchemaError, pa.errors.SchemaErrors) as error:
        raise UserError(f"expected probabilities as the contract has them in {path}, found: {error}") from None
    return table

"""Define, check and write the tables of a store: ``crops.parquet`` and ``dropped.parquet``.

``crops.parquet`` has one row per crop, in the order of the image table, then of cell_label. The crops of an image are
adjacent and in one shard. Columns:

image_id; cell_label (for windows that do not follow cells, the number of the window, from 1; 0 for the full-frame crop
of an image without a kept cell); shard; row; min_row_px, min_col_px, max_row_px, max_col_px (the square window in the
source image, half-open; it may extend beyond the frame); area_px (own pixels in the source image); scale (crop px per
source px); touches_border; completeness (visible area over expected area); in_window (fraction of the cell's pixels
inside the window); n_nuclei; has_nucleus; focus (`crops.measure`); fallback; and for each channel C mean_C (mean of the
own pixels, in 8-bit units), black_C and white_C (the source values that became 0 and 255).

Own pixels are those of the cell; for a window that does not follow a cell, and for a fallback, those inside the frame.
A row with ``fallback`` is scored but never trained on. ``dropped.parquet`` has the columns image_id, cell_label and
reason. Every segmented cell is in exactly one of the two tables.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
import pandera.pandas as pa

from hpa.channels import Channel
from hpa.work.files import check_table, read_parquet, write_parquet

COLUMNS: Final = {
    "image_id": pa.Column(str),
    "cell_label": pa.Column("int32", pa.Check.ge(0)),
    "shard": pa.Column("int32", pa.Check.ge(0)),
    "row": pa.Column("int32", pa.Check.ge(0)),
    "min_row_px": pa.Column("int32"),
    "min_col_px": pa.Column("int32"),
    "max_row_px": pa.Column("int32"),
    "max_col_px": pa.Column("int32"),
    "area_px": pa.Column("int64", pa.Check.gt(0)),
    "scale": pa.Column("float32", pa.Check.gt(0)),
    "touches_border": pa.Column(bool),
    "completeness": pa.Column("float32", pa.Check.in_range(0, 1)),
    "in_window": pa.Column("float32", pa.Check.in_range(0, 1)),
    "n_nuclei": pa.Column("int32", pa.Check.ge(0)),
    "has_nucleus": pa.Column(bool),
    "focus": pa.Column("float32", pa.Check.ge(0)),
    "fallback": pa.Column(bool),
}

_CHANNEL_COLUMNS: Final = {
    "^mean_(red|green|blue|yellow)$": pa.Column("float32", pa.Check.in_range(0, 255), regex=True, required=False),
    "^(black|white)_(red|green|blue|yellow)$": pa.Column("int32", pa.Check.ge(0), regex=True, required=False),
}


def columns_of(channels: Sequence[Channel]) -> list[str]:
    """Return the columns of ``crops.parquet`` for images of these channels."""
    return [*COLUMNS, *(f"{what}_{channel}" for channel in channels for what in ("mean", "black", "white"))]


_CROPS: Final = pa.DataFrameSchema(
    COLUMNS | _CHANNEL_COLUMNS,
    checks=[
        pa.Check(lambda t: t["max_row_px"] > t["min_row_px"], error="an empty window"),
        pa.Check(
            lambda t: t["max_row_px"] - t["min_row_px"] == t["max_col_px"] - t["min_col_px"],
            error="a window that is not square",
        ),
        pa.Check(lambda t: t["fallback"] == (t["cell_label"] == 0), error="fallback is not cell_label 0"),
        pa.Check(lambda t: t["has_nucleus"] == (t["n_nuclei"] > 0), error="has_nucleus is not n_nuclei > 0"),
    ],
    unique=["image_id", "cell_label"],
    strict=True,
    coerce=True,
)

_DROPPED: Final = pa.DataFrameSchema(
    {"image_id": pa.Column(str), "cell_label": pa.Column("int32"), "reason": pa.Column(str)},
    unique=["image_id", "cell_label"],
    strict=True,
    coerce=True,
)


def write_crops(folder: Path, crops: pd.DataFrame, dropped: pd.DataFrame) -> None:
    """Check and write ``crops.parquet`` and ``dropped.parquet``.

    Raises
    ------
    pandera.errors.SchemaError
        If a table violates its schema.
    """
    write_parquet(folder / "dropped.parquet", _DROPPED.validate(dropped))
    write_parquet(folder / "crops.parquet", _CROPS.validate(crops))


def read_dropped(folder: Path) -> pd.DataFrame:
    """Read ``dropped.parquet`` of a store.

    Raises
    ------
    UserError
        If it is missing or violates its schema.
    """
    path = folder / "dropped.parquet"
    return check_table(read_parquet(path, "python -m crops run"), _DROPPED, path)

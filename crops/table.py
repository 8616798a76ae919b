"""The tables of a store: ``crops.parquet`` and ``dropped.parquet``, what they must hold, writing and checking them.

``crops.parquet`` has one row a crop, sorted as the image table, then by cell_label; the crops of an image lie side by
side in one shard:

image_id, cell_label (the number of the window, from 1, where windows follow no cell; 0 for the frame that stands for
an image without a kept cell), shard, row, min_row_px, min_col_px, max_row_px, max_col_px (the square window in the
source image, half-open; it may reach over the edge), area_px (own pixels in the source image), scale (crop px per
source px), touches_border, completeness (area seen over area expected), in_window (share of the cell's pixels that the
crop shows), n_nuclei, has_nucleus, focus (`crops.measure`), fallback, and for every channel C mean_C (over the own
pixels, in 8-bit units), black_C and white_C (the values of the source that became 0 and 255).

Own pixels are those of the cell; of a window that follows no cell, and of a fallback, those within the frame. A row
with ``fallback`` is scored, never trained on. ``dropped.parquet`` has image_id, cell_label, reason. Kept and dropped
cells together are the segmented ones.
"""

from pathlib import Path
from typing import Final

import pandas as pd
import pandera.pandas as pa

from hpa.work.files import write_parquet
from hpa.work.tables import check_table, read_parquet

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

_OF_CHANNELS: Final = {
    "^mean_(red|green|blue|yellow)$": pa.Column("float32", pa.Check.in_range(0, 255), regex=True, required=False),
    "^(black|white)_(red|green|blue|yellow)$": pa.Column("int32", pa.Check.ge(0), regex=True, required=False),
}

_CROPS: Final = pa.DataFrameSchema(
    COLUMNS | _OF_CHANNELS,
    checks=[
        pa.Check(lambda t: t["max_row_px"] > t["min_row_px"], error="an empty window"),
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
        If a table breaks the contract.
    """
    write_parquet(folder / "dropped.parquet", _DROPPED.validate(dropped))
    write_parquet(folder / "crops.parquet", _CROPS.validate(crops))


def read_dropped(folder: Path) -> pd.DataFrame:
    """Read ``dropped.parquet`` of a store.

    Raises
    ------
    UserError
        If it is missing or breaks the contract.
    """
    path = folder / "dropped.parquet"
    return check_table(read_parquet(path, "python -m crops run"), _DROPPED, path)

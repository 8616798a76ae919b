"""The contract of the crops stage: shards of crops, their table, and the one way to read them.

A store is the folder ``crops/<window>/``. ``shard-00000.npy`` is uint8 of shape (n, C, S, S), with the channels of the
run's recipe; ``shard-00000.mask.npy`` is uint8 of shape (n, ceil(S * S / 8)), the packed bits of each crop's own cell.
``crops.parquet`` has one row a crop, sorted as the image table, then by cell_label:

image_id, cell_label (0 for a whole frame), shard, row, min_row_px, min_col_px, max_row_px, max_col_px (the square
window in the source image, half-open; it may reach over the edge), area_px (of the cell, in the source image), scale
(crop px per source px), touches_border, completeness (area seen over area expected), has_nucleus, fallback.

A row with ``fallback`` stands for an image without a kept cell: scored, never trained on.
``dropped.parquet`` has image_id, cell_label, reason. Kept and dropped cells together are the segmented ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

from hpa.errors import UserError
from hpa.files import whole, write_parquet

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
    "has_nucleus": pa.Column(bool),
    "fallback": pa.Column(bool),
}

_CROPS: Final = pa.DataFrameSchema(
    COLUMNS,
    checks=[
        pa.Check(lambda t: t["max_row_px"] > t["min_row_px"], error="an empty window"),
        pa.Check(lambda t: t["fallback"] == (t["cell_label"] == 0), error="fallback is not cell_label 0"),
    ],
    unique=["image_id", "cell_label"],
    strict=True,
    ordered=True,
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


def write_shard(folder: Path, index: int, crops: NDArray[np.uint8], masks: NDArray[np.bool_]) -> None:
    """Write one shard, the masks first; each file appears whole or not at all.

    Parameters
    ----------
    folder
        The store.
    index
        The number of the shard.
    crops
        Shape (n, C, S, S), uint8.
    masks
        Shape (n, S, S), bool.
    """
    packed = np.packbits(masks.reshape(len(masks), -1), axis=1)
    for path, array in ((_mask_path(folder, index), packed), (_shard_path(folder, index), crops)):
        with whole(path) as partial:
            np.save(partial, array, allow_pickle=False)


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.npy"


def _mask_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.mask.npy"


class CropStore:
    """Read crops by their position in the table.

    Shards are opened by each process when it first needs them, so that a store can be handed to worker processes,
    forked or spawned.

    Parameters
    ----------
    folder
        The store, for example ``work/my/crops/cells``.

    Raises
    ------
    UserError
        If there is no store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "crops.parquet").is_file():
            raise UserError(f"expected a crop store (made by `python -m crops run`), found none at {folder}")
        self.table: pd.DataFrame = pd.read_parquet(folder / "crops.parquet")
        self._shards: dict[Path, NDArray[np.uint8]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}}  # a worker opens its own

    def __len__(self) -> int:
        return len(self.table)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, S) of every crop; (0, 0, 0) for a store without crops."""
        if not len(self):
            return (0, 0, 0)
        _, channels, height, width = self._open(_shard_path(self.folder, int(self.table["shard"].iloc[0]))).shape
        return (channels, height, width)

    def pixels(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return the crops at some positions of the table.

        Parameters
        ----------
        rows
            n positions in ``table``, in any order.

        Returns
        -------
        ndarray
            Shape (n, C, S, S), uint8, in the order asked for.
        """
        return self._gather(_shard_path, rows, self.shape)

    def masks(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Return the own-cell masks at some positions of the table: shape (n, S, S), bool."""
        _, height, width = self.shape
        packed = self._gather(_mask_path, rows, (-(-height * width // 8),))
        bits = np.unpackbits(packed, axis=1, count=height * width)
        return bits.reshape(-1, height, width).astype(bool)

    def _gather(
        self, path: Any, rows: Sequence[int] | NDArray[np.integer[Any]], shape: tuple[int, ...]
    ) -> NDArray[np.uint8]:
        positions = np.asarray(rows, dtype=np.int64)
        shards = self.table["shard"].to_numpy()[positions]
        places = self.table["row"].to_numpy()[positions]
        gathered = np.empty((len(positions), *shape), dtype=np.uint8)
        for shard in np.unique(shards):
            wanted = np.flatnonzero(shards == shard)
            wanted = wanted[np.argsort(places[wanted], kind="stable")]  # the disk likes to be read forwards
            gathered[wanted] = self._open(path(self.folder, int(shard)))[places[wanted]]
        return gathered

    def _open(self, path: Path) -> NDArray[np.uint8]:
        if path not in self._shards:
            self._shards[path] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._shards[path]

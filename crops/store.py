"""Read crop stores: the contract of the crops stage.

A store is the folder ``crops/<window>/``; its layout is the same for every window. Its shards (`crops.shards`) contain
the crops, uint8 of shape (n, C, S, S) with the channels of the run's recipe, and the packed bits of each crop's own
pixels. ``crops.parquet`` has one row per crop, ``dropped.parquet`` one row per dropped cell (`crops.table`).
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crops.config import CropsSection, OutsideCell, Window
from crops.shards import cached, open_masks, open_pixels
from crops.table import COLUMNS
from hpa.errors import UserError
from hpa.work.files import read_parquet, sha256
from hpa.work.folder import WorkFolder
from hpa.work.stage import RECORD, read_stage_record

DIM: Final = 4
"""Pixels outside the cell are divided by this when they are dimmed."""

Rows = Sequence[int] | NDArray[np.integer[Any]]

_MIN_COMPLETENESS: Final = 0.01  # so that an image of slivers only still gets a prediction


def store_folder(work: WorkFolder, window: Window) -> Path:
    """Return the folder of a store."""
    return work.root / "crops" / window


def apply_outside_cell(
    pixels: NDArray[np.uint8], own: NDArray[np.bool_], outside_cell: OutsideCell
) -> NDArray[np.uint8]:
    """Keep, dim to a quarter or set to zero the pixels outside each crop's own cell.

    Parameters
    ----------
    pixels
        Shape (n, C, S, S), uint8.
    own
        Shape (n, S, S), bool: the pixels of each crop's own cell.
    outside_cell
        ``keep``, ``dim`` or ``zero``.

    Returns
    -------
    ndarray
        Shape (n, C, S, S), uint8; with ``keep``, `pixels` itself.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = np.array([[[[40, 80], [120, 160]]]], dtype=np.uint8)
    >>> own = np.array([[[True, False], [False, True]]])
    >>> apply_outside_cell(pixels, own, "dim")
    array([[[[ 40,  20],
             [ 30, 160]]]], dtype=uint8)
    """
    if outside_cell == "keep":
        return pixels
    inside = own[:, np.newaxis]
    if outside_cell == "dim":
        return np.where(inside, pixels, pixels // DIM)
    return np.where(inside, pixels, np.uint8(0))


def crop_weights(completeness: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    """Return the weights of crops: their completeness, at least 0.01, to a power.

    Parameters
    ----------
    completeness
        Visible area of each crop's cell over its expected area, 0..1, shape (N,).
    power
        The recipe's ``classify.completeness_power``.

    Returns
    -------
    ndarray
        Shape (N,), float32.

    Examples
    --------
    >>> import numpy as np
    >>> crop_weights(np.array([1.0, 0.5, 0.0], dtype=np.float32), 1.0)
    array([1.  , 0.5 , 0.01], dtype=float32)
    """
    return np.maximum(completeness, np.float32(_MIN_COMPLETENESS)) ** np.float32(power)


def open_store(work: WorkFolder, window: Window) -> "CropStore":
    """Open a finished store and check that its work folder has not changed since it was made.

    Parameters
    ----------
    work
        The work folder.
    window
        The window of the store.

    Raises
    ------
    UserError
        If there is no store, its run did not finish, or the masks, images or recipe changed since.
    """
    folder = store_folder(work, window)
    store = CropStore(folder)
    if not (folder / RECORD).exists():
        return store
    run = read_stage_record(folder, f"python -m crops run {work.root}")
    if run.state != "done":
        raise UserError(f"expected finished crops in {folder}, found an unfinished run; run `python -m crops run`")
    run.check_output(folder, folder / "crops.parquet")
    now: dict[str, tuple[Any, Any]] = {
        "[data]": (run.made_from.data, work.data.recorded()),
        "[crops]": (
            run.made_from.section,
            work.section("crops", CropsSection).of(window).model_dump(mode="json"),
        ),
    }
    now |= {name: (earlier, _digest(work.root / name)) for name, earlier in run.made_from.inputs.items()}
    store.check_rows()
    changed = [name for name, (earlier, later) in now.items() if earlier != later]
    if changed:
        raise UserError(
            f"expected crops made from the {', '.join(changed)} of {work.root}, found older ones in {folder}; "
            f"rerun `python -m crops run {work.root} --overwrite`"
        )
    return store


def _digest(path: Path) -> str:
    return sha256(path) if path.is_file() else "no such file"


class CropStore:
    """Read crops by their position in the crop table.

    Each process memory-maps a shard when it first reads from it, and the table is not pickled. A store can therefore be
    passed to worker processes, forked or spawned.

    Parameters
    ----------
    folder
        The store, for example ``work/my/crops/cells``.

    Raises
    ------
    UserError
        If there is no store, or its table lacks columns.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "crops.parquet").is_file():
            raise UserError(f"expected a crop store (made by `python -m crops run`), found none at {folder}")
        self._shards = self.table["shard"].to_numpy(np.int64)
        self._places = self.table["row"].to_numpy(np.int64)
        self._start()

    def _start(self) -> None:
        self._pixels = cached(open_pixels, self.folder)
        self._masks = cached(open_masks, self.folder)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_shards": self._shards, "_places": self._places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __len__(self) -> int:
        return len(self._shards)

    @cached_property
    def table(self) -> pd.DataFrame:
        """The crop table (`crops.table`)."""
        path = self.folder / "crops.parquet"
        table = read_parquet(path, "python -m crops run")
        missing = [name for name in COLUMNS if name not in table]
        if missing:
            raise UserError(
                f"expected the columns {', '.join(missing)} in {path}, found none; "
                "rerun `python -m crops run` with --overwrite"
            )
        return table

    def check_rows(self) -> None:
        """Check that the shards have all rows that the table names.

        Raises
        ------
        UserError
            If a shard is missing or damaged, or has fewer rows.
        """
        for shard, rows in pd.Series(self._places).groupby(self._shards):
            name = int(cast(int, shard))
            opened = {"pixels": open_pixels(self.folder, name), "masks": open_masks(self.folder, name)}
            for what, found in opened.items():
                if rows.min() < 0 or rows.max() >= found.rows:
                    raise UserError(
                        f"expected {rows.max() + 1} {what} in shard {name} of {self.folder}, found {found.rows}; "
                        "rerun `python -m crops run` with --overwrite"
                    )
            if opened["pixels"].shape != self.shape or opened["masks"].shape != (
                -(-self.shape[1] * self.shape[2] // 8),
            ):
                raise UserError(
                    f"expected crops of one shape in {self.folder}, found others in shard {name}; "
                    "rerun `python -m crops run` with --overwrite"
                )

    @cached_property
    def _bags(self) -> dict[str, slice]:
        ids = self.table["image_id"]
        first = np.flatnonzero((ids != ids.shift()).to_numpy())
        ends = [*first[1:], len(ids)]
        return {ids.iloc[start]: slice(int(start), int(end)) for start, end in zip(first, ends, strict=True)}

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, S, S) of every crop; (0, 0, 0) for a store without crops."""
        if not len(self):
            return (0, 0, 0)
        return cast(tuple[int, int, int], self._pixels(int(self._shards[0])).shape)

    def crop(self, row: int, outside_cell: OutsideCell = "keep") -> NDArray[np.uint8]:
        """Return the crop at a position of the table, shape (C, S, S), uint8."""
        crop: NDArray[np.uint8] = self.batch([row], outside_cell)[0]
        return crop

    def bag(self, image_id: str, outside_cell: OutsideCell = "keep") -> NDArray[np.uint8]:
        """Return the crops of an image in table order, shape (n, C, S, S), uint8; n is 0 for an unknown image."""
        return self.batch(self.rows_of(image_id), outside_cell)

    def rows_of(self, image_id: str) -> NDArray[np.int64]:
        """Return the table positions of an image's crops."""
        bag = self._bags.get(image_id, slice(0, 0))
        return np.arange(bag.start, bag.stop)

    def batch(self, rows: Rows, outside_cell: OutsideCell = "keep") -> NDArray[np.uint8]:
        """Return the crops at the given positions of the table.

        Parameters
        ----------
        rows
            n positions in ``table``, in any order; files are always read front to back.
        outside_cell
            What to do with the pixels outside each crop's own cell.

        Returns
        -------
        ndarray
            Shape (n, C, S, S), uint8, in the order of `rows`; a new array.
        """
        pixels = self.pixels(rows)
        return pixels if outside_cell == "keep" else apply_outside_cell(pixels, self.masks(rows), outside_cell)

    def pixels(self, rows: Rows) -> NDArray[np.uint8]:
        """Return the unmodified crops at the given positions of the table, shape (n, C, S, S), uint8."""
        return self._gather(self._pixels, rows, self.shape)

    def masks(self, rows: Rows) -> NDArray[np.bool_]:
        """Return the own-cell masks at the given positions of the table, shape (n, S, S), bool."""
        _, height, width = self.shape
        packed = self._gather(self._masks, rows, (-(-height * width // 8),))
        bits = np.unpackbits(packed, axis=1, count=height * width)
        return bits.reshape(-1, height, width).view(bool)

    def _gather(self, opened: Any, rows: Rows, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        positions = np.asarray(rows, dtype=np.int64)
        shards, places = self._shards[positions], self._places[positions]
        gathered = np.empty((len(positions), *shape), dtype=np.uint8)
        for i in np.lexsort((places, shards)).tolist():  # sequential reads are fastest
            opened(int(shards[i])).fetch(int(places[i]), gathered[i])
        return gathered

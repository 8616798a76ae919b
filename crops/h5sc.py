"""Write AnnData, of crops in scPortrait's `.h5sc` format. The only module that imports anndata and h5py.

``obsm["single_cell_images"]`` is float16 of shape (n, 1 + C, S, S): first the mask of the cell, 0 or 1, then the
channels, 0..1. ``obs`` contains the crop table with the labels of the images, ``var`` the channel names, and
``uns["single_cell_images"]`` the sizes (https://mannlabs.github.io/scPortrait, single-cell image format).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crops.config import OutsideCell
from crops.store import CropStore
from hpa.channels import Channel
from hpa.errors import UserError
from hpa.work.files import atomic_write

_KEY: Final = "single_cell_images"
_BLOCK: Final = 256


def write_h5sc(
    store: CropStore, crops: pd.DataFrame, channels: tuple[Channel, ...], path: Path, outside_cell: OutsideCell
) -> None:
    """Write all crops of a store to one file.

    Parameters
    ----------
    store
        The crops.
    crops
        The table that describes them, in the order of the store (`crops.export.join_image_labels`).
    channels
        The channels of the store.
    path
        The file to write; it appears complete or not at all.
    outside_cell
        What to do with the pixels outside each crop's own cell.

    Raises
    ------
    UserError
        If anndata is not installed.
    """
    with _extra_installed():
        import h5py  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from anndata import AnnData  # type: ignore[import-not-found,import-untyped,unused-ignore]
    kinds = ["mask"] + ["image_channel"] * len(channels)
    names = ["seg_all_cytosol", *channels]
    var = pd.DataFrame({"channels": names, "channel_mapping": kinds}, index=[str(i) for i in range(len(names))])
    obs = _plain_strings(crops.assign(scportrait_cell_id=np.arange(1, len(crops) + 1, dtype=np.uint64)))
    obs.index = obs.index.astype(str)
    size_px = store.shape[1]
    sizes = {
        "n_cells": np.int64(len(store)),
        "n_channels": np.int64(len(names)),
        "n_masks": np.int64(1),
        "n_image_channels": np.int64(len(channels)),
        "image_size": np.int64(size_px),
        "channel_names": np.array(names, dtype=object),
        "channel_mapping": np.array(kinds, dtype=object),
        "compression": "lzf",
    }
    with atomic_write(path) as partial:
        AnnData(obs=obs, var=var, uns={_KEY: sizes}).write_h5ad(partial)
        with h5py.File(partial, "r+") as file:
            shape = (len(store), len(names), size_px, size_px)
            chunks = (1, 1, size_px, size_px) if len(store) else None
            images = file["obsm"].create_dataset(_KEY, shape, np.float16, chunks=chunks, compression=chunks and "lzf")
            images.attrs["encoding-type"], images.attrs["encoding-version"] = "array", "0.2.0"
            for start in range(0, len(store), _BLOCK):
                rows = np.arange(start, min(start + _BLOCK, len(store)))
                pixels = store.batch(rows, outside_cell).astype(np.float32) / 255
                images[rows[0] : rows[-1] + 1] = np.concatenate([store.masks(rows)[:, None], pixels], axis=1)


def write_h5ad(
    path: Path,
    values: NDArray[np.float32],
    obs: pd.DataFrame,
    var: pd.DataFrame,
    obsm: Mapping[str, NDArray[np.float32]],
    uns: Mapping[str, str],
) -> None:
    """Write an AnnData file, atomically.

    Parameters
    ----------
    path
        The file to write.
    values
        ``X``, shape (n, m).
    obs, var
        Tables of the n rows and of the m columns.
    obsm
        Further arrays of n rows.
    uns
        What holds for all of them.

    Raises
    ------
    UserError
        If anndata is not installed.
    """
    with _extra_installed():
        from anndata import AnnData  # type: ignore[import-not-found,import-untyped,unused-ignore]
    with atomic_write(path) as partial:
        AnnData(X=values, obs=_plain_strings(obs), var=var, obsm=dict(obsm), uns=dict(uns)).write_h5ad(partial)


def _plain_strings(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with strings of dtype object, which anndata can write whichever dtype pandas uses for strings."""
    return table.astype(dict.fromkeys(table.select_dtypes(["object", "string"]).columns, object))


@contextmanager
def _extra_installed() -> Iterator[None]:
    """Say in one sentence that the extra is missing if an import fails."""
    try:
        yield
    except ImportError:
        raise UserError(
            "expected the package anndata for --to anndata, found none; install cellwise[anndata]"
        ) from None

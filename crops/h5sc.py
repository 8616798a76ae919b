"""Export a store as AnnData in scPortrait's `.h5sc` format. The only module that imports anndata and h5py.

``obsm["single_cell_images"]`` is float16 of shape (n, 1 + C, S, S): first the mask of the cell, 0 or 1, then the
channels, 0..1. ``obs`` contains the crop table with the labels of the images, ``var`` the channel names, and
``uns["single_cell_images"]`` the sizes (https://mannlabs.github.io/scPortrait, single-cell image format).
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

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
    try:
        import h5py  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from anndata import AnnData  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise UserError(
            "expected the package anndata for --to anndata, found none; install cellwise[anndata]"
        ) from None
    kinds = ["mask"] + ["image_channel"] * len(channels)
    names = ["seg_all_cytosol", *channels]
    var = pd.DataFrame({"channels": names, "channel_mapping": kinds}, index=[str(i) for i in range(len(names))])
    # anndata can write strings of dtype object, whichever dtype pandas uses for strings.
    obs = crops.assign(scportrait_cell_id=np.arange(1, len(crops) + 1, dtype=np.uint64))
    obs = obs.astype(dict.fromkeys(obs.select_dtypes(["object", "string"]).columns, object))
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

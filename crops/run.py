"""Run the crops stage: images and masks in, a crop store for every kind of window out."""

import shutil
from collections.abc import Sequence

import numpy as np
import pandas as pd

from crops.config import CropsSection, Window
from crops.image import REASON, Columns, Context, cut_image
from crops.shards import ShardWriter, open_masks, open_pixels, remove_shard, shard_bytes
from crops.table import columns_of, write_crops
from hpa.errors import UserError
from hpa.images import read_images
from hpa.work.cluster import check_cluster
from hpa.work.folder import WorkFolder
from hpa.work.mapping import FAILURE, Chunk, failure_reason
from hpa.work.processes import available_processors
from hpa.work.stage import begin
from segment.masks import masks_path, read_masks


def run(
    work: WorkFolder,
    windows: Sequence[Window] = (),
    *,
    workers: int = 0,
    dask: str = "",
    overwrite: bool = False,
    compress: bool = False,
) -> int:
    """Cut the windows of every image of a work folder into stores, one for every kind of window.

    Parameters
    ----------
    work
        The work folder; windows around cells need the masks of the segment stage.
    windows
        Kinds of windows to cut; none means all that the recipe trains on or predicts.
    workers
        Number of processes; 0 uses one per processor.
    dask
        Address of a Dask scheduler whose workers cut the images instead.
    overwrite
        Discard existing results and start over.
    compress
        Write compressed shards, which take half the disk space and are slower to read.

    Returns
    -------
    int
        0, or 1 if more images failed than the recipe allows.

    Raises
    ------
    UserError
        If the masks are missing, an input of the existing crops changed, or the disk has too little free space.
    """
    data, section = work.data, work.section("crops", CropsSection)
    windows = windows or section.stores
    if "brightest" in windows and "green" not in data.channels:
        raise UserError("expected the channel green in [data] for windows where most protein is, found none")
    code = 0
    for window in windows:
        context = Context(work, data, section.of(window), window, compress)
        code = max(code, _run_window(context, workers or available_processors(), dask, overwrite))
    return code


def _run_window(context: Context, workers: int, dask: str, overwrite: bool) -> int:
    work, folder = context.work, context.folder
    inputs = {"images.parquet": work.images}
    if context.window == "cells":
        inputs["segment/masks.parquet"] = masks_path(work)
    command = f"python -m crops run {work.root}"

    def check() -> None:
        check_cluster(dask)
        _check_room(context, _read_images(context))

    stage = begin(folder, command, context.data, context.section, inputs, overwrite=overwrite, check=check)
    images = _read_images(context)
    return stage.run_over_images(
        images,
        _process,
        context,
        lambda parts: _conclude(context, images, parts),
        label=f"crops of {context.window}",
        outputs=["crops.parquet", "dropped.parquet"],
        intact=_has_rows,
        workers=workers,
        dask=dask,
    )


def _has_rows(context: Context, part: pd.DataFrame) -> bool:
    """Return whether the shard of a part has its rows."""
    rows = part["row"].dropna()
    if rows.empty:
        return True
    shard = int(part["shard"].dropna().iloc[0])
    try:
        return all(opener(context.folder, shard).rows == len(rows) for opener in (open_pixels, open_masks))
    except UserError:
        return False


def _read_images(context: Context) -> pd.DataFrame:
    """Return the image table; for windows around cells with their number and the checksums of mask and image files."""
    images = read_images(context.work.images, context.data.channels).drop(columns="target")
    if context.window != "cells":
        return images
    masks = read_masks(context.work)[["image_id", "n_cells", "crc32", "checksums"]]
    return images.merge(masks, on="image_id", how="left", validate="one_to_one")


def _conclude(context: Context, images: pd.DataFrame, parts: pd.DataFrame) -> dict[str, int]:
    """Write the tables of crops and dropped cells, and return the counts for ``run.json``."""
    rows = parts[parts[FAILURE].isna()]
    kept = rows.loc[rows[REASON].isna(), columns_of(context.data.channels)]
    dropped = rows.loc[rows[REASON].notna(), ["image_id", "cell_label", REASON]]
    counts = _counts(context, images, kept, dropped, set(parts.loc[parts[FAILURE].notna(), "image_id"]))
    write_crops(context.folder, kept.reset_index(drop=True), dropped.reset_index(drop=True))
    print(f"crops of {context.window}: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    return counts


def _check_room(context: Context, images: pd.DataFrame) -> None:
    """Check that the disk has room for what is still to be written, counting compressed shards as uncompressed."""
    section = context.section
    if context.window == "cells":
        crops = int(images["n_cells"].fillna(1).clip(lower=1).sum())
    else:
        most = {"full_frame": 1, "five_crop": 5, "grid": section.grid**2}.get(context.window, section.count)
        crops = most * len(images)
    size = section.size_px**2
    need = max(0, crops * (len(context.data.channels) * size + -(-size // 8)) - shard_bytes(context.folder))
    free = shutil.disk_usage(context.work.root).free
    print(
        f"crops of {context.window}: up to {crops} crops, {need / 1e6:,.1f} MB to be written, {free / 1e9:,.1f} GB free"
    )
    if need > free:
        raise UserError(f"expected room for {need:,} bytes of crops at {context.folder}, found {free:,} free")


def _counts(
    context: Context, images: pd.DataFrame, kept: pd.DataFrame, dropped: pd.DataFrame, failed: set[str]
) -> dict[str, int]:
    fallback = kept["fallback"].astype(bool)
    crops = int((~fallback).sum())
    if context.window != "cells":
        return {"images": len(images) - len(failed), "kept": crops}
    segmented = int(images.loc[~images["image_id"].isin(failed), "n_cells"].fillna(0).sum())
    if crops + len(dropped) != segmented:
        # Not a user's mistake: every image's cells were counted when it was read, so some were lost on the way.
        raise RuntimeError(f"kept {crops} + dropped {len(dropped)} cells, but segmented {segmented}")
    return {
        "segmented": segmented,
        "kept": crops,
        "dropped": len(dropped),
        **{f"dropped as {reason}": int(n) for reason, n in dropped[REASON].value_counts().sort_index().items()},
        "larger than their crop": int((kept["in_window"] < 1).sum()),
        "fallback": len(kept) - crops,
    }


def _process(context: Context, chunk: Chunk) -> pd.DataFrame:
    kept: list[Columns] = []
    dropped: list[Columns] = []
    failed: list[Columns] = []
    remove_shard(context.folder, chunk.index)  # an earlier try may have had crops where this one has none
    with ShardWriter(context.folder, chunk.index, compress=context.compress) as shard:
        for image in chunk.images.to_dict("records"):
            image_id = np.array([image["image_id"]], dtype=object)
            try:
                cut, columns, gone = cut_image(context, image)
            except UserError:
                raise
            except Exception as error:  # whatever the image makes a library raise
                reason = np.array([failure_reason(error, "cut")], dtype=object)
                failed.append({"image_id": image_id, FAILURE: reason})
                continue
            n = len(cut.crops)
            rows = np.arange(shard.n, shard.n + n, dtype=np.int32)
            shard.add(cut.crops, cut.masks)
            kept.append(
                columns | {"image_id": image_id.repeat(n), "shard": np.full_like(rows, chunk.index), "row": rows}
            )
            dropped.append(gone | {"image_id": image_id.repeat(len(gone[REASON]))})
    tables = [_joined(rows) for rows in (kept, dropped, failed)]
    part = pd.concat([table for table in tables if len(table)], ignore_index=True)
    names = [*columns_of(context.data.channels), REASON, FAILURE]
    return part.reindex(columns=names).astype({REASON: object, FAILURE: object})


def _joined(tables: list[Columns]) -> pd.DataFrame:
    names = tables[0] if tables else ()
    return pd.DataFrame({name: np.concatenate([table[name] for table in tables]) for name in names})

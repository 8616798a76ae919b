"""The run of the crops stage: images and masks in, a crop store out."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crops.config import CropsSection
from crops.cut import Cut, cut_cells, cut_frame, measure_cells, to_8_bit
from crops.store import COLUMNS, write_crops, write_shard
from hpa.channels import Channel
from hpa.config import read_section
from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.mapping import FAILURE, Chunk, cut_chunks, map_chunks, write_failures
from hpa.pixels import read_channels
from hpa.work import WorkFolder, begin
from segment.masks import read_mask, read_masks, read_nuclei

REASON = "reason"
"""Column of a part: why a cell was dropped, null for a kept one."""


@dataclass(frozen=True)
class _Context:
    work: WorkFolder
    folder: Path
    channels: tuple[Channel, ...]
    section: CropsSection


def run(work: WorkFolder, *, workers: int = 0, dask: str = "", overwrite: bool = False) -> int:
    """Cut the cells of every image of a work folder.

    Parameters
    ----------
    work
        The work folder; the segment stage must be done.
    workers
        Processes; 0 takes one a processor.
    dask
        Address of a Dask scheduler whose workers do the work instead.
    overwrite
        Begin anew.

    Returns
    -------
    int
        0, or 1 if more images failed than the recipe allows.

    Raises
    ------
    UserError
        If the segment stage is not done, something it was made from changed, or the disk has no room.
    """
    data, section = work.data, read_section(work.recipe, "crops", CropsSection)
    folder = work.root / "crops" / section.window
    masks_table = work.root / "segment" / "masks.parquet"
    inputs = {"images.parquet": work.images, "segment/masks.parquet": masks_table}
    command = f"python -m crops run {work.root}"
    stage = begin(folder, command, data, section, inputs, overwrite=overwrite)
    images = read_images(work.images).drop(columns="target")
    masks = read_masks(work)
    images = images.merge(masks[["image_id", "n_cells"]], on="image_id", how="left", validate="one_to_one")
    if not stage.finished:
        _check_room(folder, images, len(data.channels), section.size_px)
    context = _Context(work, folder, data.channels, section)
    parts = map_chunks(
        _process,
        context,
        cut_chunks(images),
        folder / "parts",
        workers=workers or os.cpu_count() or 1,
        what="crops",
        preload=["crops.run"],
        dask=dask,
    )
    n_failed = write_failures(folder / "failures.csv", parts)
    rows = parts[parts[FAILURE].isna()]
    kept = rows.loc[rows[REASON].isna(), list(COLUMNS)]
    dropped = rows.loc[rows[REASON].notna(), ["image_id", "cell_label", REASON]]
    counts = _counts(images, kept, dropped, set(parts.loc[parts[FAILURE].notna(), "image_id"]))
    write_crops(folder, kept.reset_index(drop=True), dropped.reset_index(drop=True))
    stage.finish(counts | {"failures": n_failed})
    return int(n_failed > data.max_failures)


def _check_room(folder: Path, images: pd.DataFrame, n_channels: int, size_px: int) -> None:
    crops = int(images["n_cells"].fillna(1).clip(lower=1).sum())
    need = crops * (n_channels * size_px**2 + -(-(size_px**2) // 8))
    free = shutil.disk_usage(folder).free
    print(f"crops: up to {crops} crops, {need / 1e6:,.1f} MB to be written, {free / 1e9:,.1f} GB free")
    if need > free:
        raise UserError(f"expected room for {need:,} bytes of crops at {folder}, found {free:,} free")


def _counts(images: pd.DataFrame, kept: pd.DataFrame, dropped: pd.DataFrame, failed: set[str]) -> dict[str, int]:
    cells = int((~kept["fallback"].astype(bool)).sum())
    segmented = int(images.loc[~images["image_id"].isin(failed), "n_cells"].fillna(0).sum())
    if cells + len(dropped) != segmented:
        # Not a user's mistake: masks and their table disagree, or cells were lost on the way.
        raise RuntimeError(f"kept {cells} + dropped {len(dropped)} cells, but segmented {segmented}")
    return {"segmented": segmented, "kept": cells, "dropped": len(dropped), "fallback": len(kept) - cells}


def _process(context: _Context, chunk: Chunk) -> pd.DataFrame:
    cuts, rows = [], []
    first = 0
    for image in chunk.images.to_dict("records"):
        image_id = str(image["image_id"])
        try:
            cut, dropped = _cut_image(context, image)
        except ImageError as error:
            rows.append(pd.DataFrame([{"image_id": image_id, FAILURE: str(error)}]))
            continue
        places = np.arange(first, first + len(cut.crops), dtype=np.int32)
        rows.append(cut.table.assign(image_id=image_id, shard=chunk.index, row=places))
        rows.append(dropped.assign(image_id=image_id))
        cuts.append(cut)
        first += len(cut.crops)
    if cuts:
        crops, masks = np.concatenate([cut.crops for cut in cuts]), np.concatenate([cut.masks for cut in cuts])
        write_shard(context.folder, chunk.index, crops, masks)
    part = pd.concat([table for table in rows if len(table)], ignore_index=True)
    return part.reindex(columns=[*COLUMNS, REASON, FAILURE]).astype({REASON: object, FAILURE: object})


def _cut_image(context: _Context, image: Mapping[Any, Any]) -> tuple[Cut, pd.DataFrame]:
    section = context.section
    pixels = to_8_bit(read_channels(image, context.channels))
    nothing = pd.DataFrame({"cell_label": pd.Series(dtype="int32"), REASON: pd.Series(dtype=object)})
    if pd.isna(image["n_cells"]):  # not segmented: the frame is all there is
        return cut_frame(pixels, section.size_px), nothing
    image_id = str(image["image_id"])
    cells = read_mask(context.work, image_id)
    measured = measure_cells(cells, read_nuclei(context.work, image_id))
    speck = measured["area_px"] < section.min_area * measured["area_px"].median()
    dropped = measured.loc[speck, ["cell_label"]].assign(**{REASON: "speck"})
    kept = measured[~speck]
    if kept.empty:
        return cut_frame(pixels, section.size_px), dropped
    return cut_cells(pixels, cells, kept, section.size_px, section.margin), dropped

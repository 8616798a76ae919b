"""The run of the crops stage: images and masks in, a crop store for every kind of window out."""

import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crops.config import CropsSection, Window
from crops.cut import Cut, cut_windows
from crops.depth import Planes, to_8_bit
from crops.drop import drop_reasons
from crops.measure import Regions, clip, find_cells, measure_cells, measure_light, measure_windows, share_within
from crops.shards import ShardWriter, remove_shard, shard_bytes
from crops.store import COLUMNS, store_folder, write_crops
from crops.windows import around_cells, on_frame, whole_frame
from hpa.channels import Channel
from hpa.config import DataSection, read_section
from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.mapping import FAILURE, Chunk, cut_chunks, map_chunks, write_failures
from hpa.pixels import read_channels
from hpa.work import WorkFolder, begin
from segment.masks import masks_path, read_mask, read_masks, read_nuclei

REASON: Final = "reason"
"""Column of a part: why a cell was dropped, null for a kept one."""

_BOX: Final = ("min_row_px", "min_col_px", "max_row_px", "max_col_px")
_FALLBACK: Final = 0
"""The cell_label of the row that stands for an image without a kept cell."""

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Context:
    work: WorkFolder
    folder: Path
    data: DataSection
    section: CropsSection
    window: Window
    compress: bool


def run(work: WorkFolder, *, workers: int = 0, dask: str = "", overwrite: bool = False, compress: bool = False) -> int:
    """Cut the windows of every image of a work folder, one store for every kind that the recipe names.

    Parameters
    ----------
    work
        The work folder; for windows around cells the segment stage must be done.
    workers
        Processes; 0 takes one a processor.
    dask
        Address of a Dask scheduler whose workers do the work instead.
    overwrite
        Begin anew.
    compress
        Write compressed shards: half the room, slower to read.

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
    if "green" in section.stores and "green" not in data.channels:
        raise UserError("expected the channel green in [data] for windows where most protein is, found none")
    code = 0
    for window in section.stores:
        context = _Context(work, store_folder(work, window), data, section.of(window), window, compress)
        code = max(code, _run_window(context, workers or os.cpu_count() or 1, dask, overwrite))
    return code


def _run_window(context: _Context, workers: int, dask: str, overwrite: bool) -> int:
    work, folder = context.work, context.folder
    inputs = {"images.parquet": work.images}
    if context.window == "cells":
        inputs["segment/masks.parquet"] = masks_path(work)
    command = f"python -m crops run {work.root}"
    stage = begin(folder, command, context.data, context.section, inputs, overwrite=overwrite)
    images = read_images(work.images).drop(columns="target")
    if context.window == "cells":
        masks = read_masks(work)[["image_id", "n_cells", "crc32"]]
        images = images.merge(masks, on="image_id", how="left", validate="one_to_one")
    if not stage.finished:
        _check_room(context, images)
    parts = map_chunks(
        _process,
        context,
        cut_chunks(images),
        folder / "parts",
        workers=workers,
        what=f"crops of {context.window}",
        preload=["crops.run"],
        dask=dask,
    )
    n_failed = write_failures(folder / "failures.csv", parts)
    rows = parts[parts[FAILURE].isna()]
    kept = rows.loc[rows[REASON].isna(), _columns(context.data.channels)]
    dropped = rows.loc[rows[REASON].notna(), ["image_id", "cell_label", REASON]]
    counts = _counts(context, images, kept, dropped, set(parts.loc[parts[FAILURE].notna(), "image_id"]))
    write_crops(folder, kept.reset_index(drop=True), dropped.reset_index(drop=True))
    stage.finish(counts | {"failures": n_failed})
    print(f"crops of {context.window}: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    return int(n_failed > context.data.max_failures)


def _columns(channels: tuple[Channel, ...]) -> list[str]:
    return [*COLUMNS, *(f"{what}_{channel}" for channel in channels for what in ("mean", "black", "white"))]


def _check_room(context: _Context, images: pd.DataFrame) -> None:
    """Compare what may yet be written with the free disk; compressed shards are counted as if they were not."""
    section = context.section
    if context.window == "cells":
        crops = int(images["n_cells"].fillna(1).clip(lower=1).sum())
    else:
        most = {"whole": 1, "five": 5, "grid": section.grid**2}.get(context.window, section.count)
        crops = most * len(images)
    size = section.size_px**2
    need = max(0, crops * (len(context.data.channels) * size + -(-size // 8)) - shard_bytes(context.folder))
    free = shutil.disk_usage(context.folder).free
    print(
        f"crops of {context.window}: up to {crops} crops, {need / 1e6:,.1f} MB to be written, {free / 1e9:,.1f} GB free"
    )
    if need > free:
        raise UserError(f"expected room for {need:,} bytes of crops at {context.folder}, found {free:,} free")


def _counts(
    context: _Context, images: pd.DataFrame, kept: pd.DataFrame, dropped: pd.DataFrame, failed: set[str]
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


def _process(context: _Context, chunk: Chunk) -> pd.DataFrame:
    kept: list[Columns] = []
    dropped: list[Columns] = []
    failed: list[Columns] = []
    remove_shard(context.folder, chunk.index)  # an earlier try may have had crops where this one has none
    with ShardWriter(context.folder, chunk.index, compress=context.compress) as shard:
        for image in chunk.images.to_dict("records"):
            image_id = np.array([image["image_id"]], dtype=object)
            try:
                cut, columns, gone = _cut_image(context, image)
            except ImageError as error:
                failed.append({"image_id": image_id, FAILURE: np.array([str(error)], dtype=object)})
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
    names = [*_columns(context.data.channels), REASON, FAILURE]
    return part.reindex(columns=names).astype({REASON: object, FAILURE: object})


def _joined(tables: list[Columns]) -> pd.DataFrame:
    names = tables[0] if tables else ()
    return pd.DataFrame({name: np.concatenate([table[name] for table in tables]) for name in names})


def _cut_image(context: _Context, image: Mapping[Any, Any]) -> tuple[Cut, Columns, Columns]:
    """Return the crops of an image, their columns, and the columns of the cells that were dropped."""
    planes = to_8_bit(read_channels(image, context.data.channels), context.section)
    dropped: Columns = {"cell_label": np.empty(0, np.int32), REASON: np.empty(0, object)}
    if context.window != "cells":
        green = context.data.channels.index("green") if context.window == "green" else 0
        image_id = str(image["image_id"])
        windows = on_frame(context.window, planes.pixels, context.section, context.data.seed, image_id, green)
        return *_cut_frame(context, planes, windows, fallback=False), dropped
    if not pd.isna(image["n_cells"]):  # else it was not segmented: the frame is all there is
        cells, measured = _measured(context, image, planes)
        reasons = drop_reasons(measured, context.section)
        gone = reasons.astype(bool)
        dropped = {"cell_label": cells.labels[gone], REASON: reasons[gone]}
        if not gone.all():
            return *_cut_cells(context, planes, cells, measured, ~gone), dropped
    frame = whole_frame(*planes.pixels.shape[1:])
    return *_cut_frame(context, planes, frame, fallback=True), dropped


def _measured(context: _Context, image: Mapping[Any, Any], planes: Planes) -> tuple[Regions, Columns]:
    image_id = str(image["image_id"])
    labels, nuclei = read_mask(context.work, image_id), read_nuclei(context.work, image_id)
    for name, found in (("mask", labels), ("nuclei", nuclei)):
        if found.shape != planes.pixels.shape[1:]:
            raise ImageError(f"expected a {name} of the image's size {planes.pixels.shape[1:]}, found {found.shape}")
    cells = find_cells(labels)
    if (
        zlib.crc32(labels.astype("<u2", copy=False).data) != int(image["crc32"])
        or len(cells.labels) != image["n_cells"]
    ):
        raise ImageError(
            "expected the mask that segment/masks.parquet describes, found another; "
            f"rerun `python -m segment run {context.work.root} --overwrite`"
        )
    light = measure_light(planes.pixels, cells, context.data.channels)
    return cells, measure_cells(cells, nuclei) | light


def _cut_cells(
    context: _Context, planes: Planes, cells: Regions, measured: Columns, keep: NDArray[np.bool_]
) -> tuple[Cut, Columns]:
    kept = Regions(cells.image, cells.labels[keep], cells.boxes[keep])
    columns = {name: column[keep] for name, column in measured.items()}
    windows = around_cells(kept.boxes, context.section)
    columns["in_window"] = share_within(kept, columns["area_px"], windows)
    columns["fallback"] = np.zeros(len(windows), dtype=bool)
    cut = cut_windows(planes.pixels, cells.image, kept.labels, windows, context.section.size_px)
    return cut, columns | _places(context, planes, windows)


def _cut_frame(context: _Context, planes: Planes, windows: NDArray[np.int32], *, fallback: bool) -> tuple[Cut, Columns]:
    height, width = planes.pixels.shape[1:]
    frame = np.ones((height, width), dtype=np.uint16)  # what lies in the frame is the window's own
    own = np.ones(len(windows), dtype=np.int32)
    columns: Columns = measure_windows(windows, height, width)
    columns |= measure_light(planes.pixels, Regions(frame, own, clip(windows, height, width)), context.data.channels)
    columns["in_window"] = np.ones(len(windows), dtype=np.float32)
    columns["fallback"] = np.full(len(windows), fallback)
    if fallback:
        columns["cell_label"] = np.full(len(windows), _FALLBACK, dtype=np.int32)
    cut = cut_windows(planes.pixels, frame, own, windows, context.section.size_px)
    return cut, columns | _places(context, planes, windows)


def _places(context: _Context, planes: Planes, windows: NDArray[np.int32]) -> Columns:
    """Return the columns of where windows lie and of what their pixels were scaled from."""
    n = len(windows)
    places: Columns = {name: windows[:, i] for i, name in enumerate(_BOX)}
    places["scale"] = (context.section.size_px / (windows[:, 2] - windows[:, 0])).astype(np.float32)
    for i, channel in enumerate(context.data.channels):
        places |= {f"black_{channel}": planes.black[i].repeat(n), f"white_{channel}": planes.white[i].repeat(n)}
    return places

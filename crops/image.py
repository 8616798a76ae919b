"""One image and its masks to crops, with their columns and the cells that were dropped."""

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
from crops.store import store_folder
from crops.windows import around_cells, full_frame, on_frame
from hpa.config import DataSection
from hpa.errors import ImageError
from hpa.pixels import read_planes
from hpa.work.folder import WorkFolder
from segment.masks import read_mask, read_nuclei

REASON: Final = "reason"
"""Column of a part: why a cell was dropped, null for a kept one."""

_BOX: Final = ("min_row_px", "min_col_px", "max_row_px", "max_col_px")
_FALLBACK: Final = 0
"""The cell_label of the row that stands for an image without a kept cell."""

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Context:
    """A run over one kind of window.

    Parameters
    ----------
    work
        The work folder.
    data, section
        Of its recipe; the section of this kind of window alone (`CropsSection.of`).
    window
        The kind.
    compress
        Whether shards are compressed.
    """

    work: WorkFolder
    data: DataSection
    section: CropsSection
    window: Window
    compress: bool

    @property
    def folder(self) -> Path:
        """The store."""
        return store_folder(self.work, self.window)


def cut_image(context: Context, image: Mapping[Any, Any]) -> tuple[Cut, Columns, Columns]:
    """Cut the windows of one image.

    Parameters
    ----------
    context
        The run.
    image
        A row of the image table, with n_cells and crc32 of its mask where windows follow cells.

    Returns
    -------
    Cut
        The crops, n of them.
    dict
        Their columns, shape (n,), but for image_id, shard and row.
    dict
        Of the cells that were dropped: cell_label and `REASON`.

    Raises
    ------
    ImageError
        If the image or its masks cannot be read or do not belong together.
    """
    planes = to_8_bit(read_planes(image, context.data.channels), context.section)
    dropped: Columns = {"cell_label": np.empty(0, np.int32), REASON: np.empty(0, object)}
    if context.window != "cells":
        green = context.data.channels.index("green") if context.window == "brightest" else 0
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
    frame = full_frame(*planes.pixels.shape[1:])
    return *_cut_frame(context, planes, frame, fallback=True), dropped


def _measured(context: Context, image: Mapping[Any, Any], planes: Planes) -> tuple[Regions, Columns]:
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
    context: Context, planes: Planes, cells: Regions, measured: Columns, keep: NDArray[np.bool_]
) -> tuple[Cut, Columns]:
    kept = cells.only(keep)
    columns = {name: column[keep] for name, column in measured.items()}
    windows = around_cells(kept.boxes, context.section)
    columns["in_window"] = share_within(kept, windows)
    columns["fallback"] = np.zeros(len(windows), dtype=bool)
    cut = cut_windows(planes.pixels, cells.image, kept.labels, windows, context.section.size_px)
    return cut, columns | _places(context, planes, windows)


def _cut_frame(context: Context, planes: Planes, windows: NDArray[np.int32], *, fallback: bool) -> tuple[Cut, Columns]:
    height, width = planes.pixels.shape[1:]
    frame = np.ones((height, width), dtype=np.uint16)  # what lies in the frame is the window's own
    own = np.ones(len(windows), dtype=np.int32)
    columns: Columns = measure_windows(windows, height, width)
    regions = Regions(frame, own, clip(windows, height, width), columns["area_px"])
    columns |= measure_light(planes.pixels, regions, context.data.channels)
    columns["in_window"] = np.ones(len(windows), dtype=np.float32)
    columns["fallback"] = np.full(len(windows), fallback)
    if fallback:
        columns["cell_label"] = np.full(len(windows), _FALLBACK, dtype=np.int32)
    cut = cut_windows(planes.pixels, frame, own, windows, context.section.size_px)
    return cut, columns | _places(context, planes, windows)


def _places(context: Context, planes: Planes, windows: NDArray[np.int32]) -> Columns:
    """Return the columns of where windows lie and of what their pixels were scaled from."""
    n = len(windows)
    places: Columns = {name: windows[:, i] for i, name in enumerate(_BOX)}
    places["scale"] = (context.section.size_px / (windows[:, 2] - windows[:, 0])).astype(np.float32)
    for i, channel in enumerate(context.data.channels):
        places |= {f"black_{channel}": planes.black[i].repeat(n), f"white_{channel}": planes.white[i].repeat(n)}
    return places

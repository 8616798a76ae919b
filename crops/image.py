"""Cut one image into crops: read it and its masks, drop unusable cells, cut and measure the rest."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crops.config import CropsSection, Window
from crops.cut import ImageCrops, cut_windows
from crops.depth import Planes, to_8_bit
from crops.measure import (
    Regions,
    clip_to_frame,
    find_cells,
    measure_cells,
    measure_intensities,
    measure_windows,
    share_in_window,
)
from crops.store import store_folder
from crops.windows import around_cells, full_frame, on_frame
from hpa.channels import Channel
from hpa.config import DataSection
from hpa.errors import ImageError
from hpa.pixels import BIT_DEPTHS, read_planes, replaced_files
from hpa.work.folder import WorkFolder
from segment.masks import read_mask, read_nuclei

REASON: Final = "reason"
"""Column of a table part: why a cell was dropped, null for a kept one."""

_BOX: Final = ("min_row_px", "min_col_px", "max_row_px", "max_col_px")
_FALLBACK: Final = 0
"""The cell_label of the full-frame row of an image without a kept cell."""

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Context:
    """The settings shared by all images of a run over one window.

    Parameters
    ----------
    work
        The work folder.
    data, section
        Sections of its recipe; `section` holds only the settings of this window (`CropsSection.of`).
    window
        The window.
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
        """The folder of the store."""
        return store_folder(self.work, self.window)


def cut_image(context: Context, image: Mapping[Any, Any]) -> tuple[ImageCrops, Columns, Columns]:
    """Cut the windows of one image.

    Parameters
    ----------
    context
        The settings of the run.
    image
        A row of the image table; where windows follow cells, also n_cells, crc32 and checksums of its mask.

    Returns
    -------
    ImageCrops
        The n crops with their masks.
    dict
        Their columns of the crop table, each of shape (n,), except image_id, shard and row.
    dict
        Columns of the dropped cells: cell_label and `REASON`.

    Raises
    ------
    ImageError
        If the image or its masks cannot be read or do not match.
    """
    source = read_planes(image, context.data.channels)
    planes = to_8_bit(source, context.section)
    if source[0].dtype == np.uint16:
        planes = in_source_values(planes, int(image.get("bit_depth", BIT_DEPTHS[-1])))
    nothing: Columns = {"cell_label": np.empty(0, np.int32), REASON: np.empty(0, object)}
    section, channels = context.section, context.data.channels
    if context.window != "cells":
        green = channels.index("green") if context.window == "brightest" else 0
        image_id = str(image["image_id"])
        windows = on_frame(context.window, planes.pixels, section, context.data.seed, image_id, green)
        return *_cut_frame(planes, windows, section, channels, fallback=False), nothing
    if pd.isna(image["n_cells"]):  # an image that was not segmented falls back to the full frame
        frame = full_frame(*planes.pixels.shape[1:])
        return *_cut_frame(planes, frame, section, channels, fallback=True), nothing
    if replaced := replaced_files(image, str(image["checksums"])):
        raise ImageError(
            f"expected the {' and '.join(replaced)} file that was segmented, found another; "
            f"rerun `python -m segment run {context.work.root} --overwrite`"
        )
    return cut_cells(planes, *_read_masks(context, image, planes), section, channels)


def cut_cells(
    planes: Planes, cells: Regions, nuclei: NDArray[np.uint16], section: CropsSection, channels: tuple[Channel, ...]
) -> tuple[ImageCrops, Columns, Columns]:
    """Drop the unusable cells of an image and cut a window around each of the others.

    If no cell is kept, the only crop is the full frame, with cell_label 0.

    Parameters
    ----------
    planes
        The image in 8 bits.
    cells
        Its cells (`crops.measure.find_cells`).
    nuclei
        Shape (H, W), the nuclei with the labels of their cells.
    section
        How to place windows and which cells to drop.
    channels
        Channels of the planes.

    Returns
    -------
    ImageCrops, dict, dict
        As for `cut_image`.
    """
    measured = measure_cells(cells, nuclei) | measure_intensities(planes.pixels, cells, channels)
    reasons = drop_reasons(measured, section)
    is_dropped = reasons.astype(bool)
    dropped: Columns = {"cell_label": cells.labels[is_dropped], REASON: reasons[is_dropped]}
    if is_dropped.all():
        frame = full_frame(*planes.pixels.shape[1:])
        return *_cut_frame(planes, frame, section, channels, fallback=True), dropped
    kept = cells.select(~is_dropped)
    columns = {name: column[~is_dropped] for name, column in measured.items()}
    windows = around_cells(kept.boxes, section)
    columns["in_window"] = share_in_window(kept, windows)
    columns["fallback"] = np.zeros(len(windows), dtype=bool)
    cut = cut_windows(planes.pixels, cells.image, kept.labels, windows, section.size_px)
    return cut, columns | _positions(planes, windows, section, channels), dropped


def _read_masks(context: Context, image: Mapping[Any, Any], planes: Planes) -> tuple[Regions, NDArray[np.uint16]]:
    """Read the cells and nuclei of an image and check that they belong to it."""
    image_id = str(image["image_id"])
    labels, nuclei = read_mask(context.work, image_id), read_nuclei(context.work, image_id)
    for name, found in (("cell mask", labels), ("nucleus mask", nuclei)):
        if found.shape != planes.pixels.shape[1:]:
            raise ImageError(f"expected a {name} of the image's size {planes.pixels.shape[1:]}, found {found.shape}")
    cells = find_cells(labels)
    if (
        zlib.crc32(labels.astype("<u2", copy=False).data) != int(image["crc32"])
        or len(cells.labels) != image["n_cells"]
    ):
        raise ImageError(
            "expected the mask that segment/masks.parquet describes, found another; rerun `python -m segment run "
            f"{context.work.root} --overwrite`, or `import` a copy of the masks if you have edited them"
        )
    return cells, nuclei


def drop_reasons(measured: Mapping[str, NDArray[Any]], section: CropsSection) -> NDArray[np.object_]:
    """Return why each cell is dropped, or None for a kept cell.

    If several rules apply to a cell, the first in the order below counts.

    Parameters
    ----------
    measured
        The columns of `crops.measure` for all cells of one image.
    section
        Gives the rules.

    Returns
    -------
    ndarray
        Shape (n,): ``speck``, ``border``, ``incomplete``, ``no nucleus``, ``out of focus`` or None.
    """
    area = measured["area_px"]
    median = float(np.median(area)) if len(area) else 0.0
    rules = {
        "speck": area < section.min_area * median,
        "border": measured["touches_border"] & ("border" in section.drop),
        "incomplete": measured["completeness"] < section.min_completeness,
        "no nucleus": ~measured["has_nucleus"] & ("no nucleus" in section.drop),
        "out of focus": measured["focus"] < section.min_focus,
    }
    reasons = np.full(len(area), None, dtype=object)
    for reason, applies in reversed(rules.items()):
        reasons[applies] = reason
    return reasons


def _cut_frame(
    planes: Planes, windows: NDArray[np.int32], section: CropsSection, channels: tuple[Channel, ...], *, fallback: bool
) -> tuple[ImageCrops, Columns]:
    height, width = planes.pixels.shape[1:]
    frame = np.ones((height, width), dtype=np.uint16)  # every pixel inside the frame is the window's own
    own = np.ones(len(windows), dtype=np.int32)
    columns: Columns = measure_windows(windows, height, width)
    regions = Regions(frame, own, clip_to_frame(windows, height, width), columns["area_px"])
    columns |= measure_intensities(planes.pixels, regions, channels)
    columns["in_window"] = np.ones(len(windows), dtype=np.float32)
    columns["fallback"] = np.full(len(windows), fallback)
    if fallback:
        columns["cell_label"] = np.full(len(windows), _FALLBACK, dtype=np.int32)
    cut = cut_windows(planes.pixels, frame, own, windows, section.size_px)
    return cut, columns | _positions(planes, windows, section, channels)


def in_source_values(planes: Planes, bit_depth: int) -> Planes:
    """Return planes with `black` and `white` as values of the source, which were expanded to 16 bits.

    Parameters
    ----------
    planes
        Converted from 16 bits.
    bit_depth
        Bits that the values of the source use.
    """
    shift = BIT_DEPTHS[-1] - bit_depth
    return replace(planes, black=planes.black >> shift, white=planes.white >> shift)


def _positions(
    planes: Planes, windows: NDArray[np.int32], section: CropsSection, channels: tuple[Channel, ...]
) -> Columns:
    """Return the columns with the positions of windows and the source values that became black and white."""
    n = len(windows)
    positions: Columns = {name: windows[:, i] for i, name in enumerate(_BOX)}
    positions["scale"] = (section.size_px / (windows[:, 2] - windows[:, 0])).astype(np.float32)
    for i, channel in enumerate(channels):
        positions |= {f"black_{channel}": planes.black[i].repeat(n), f"white_{channel}": planes.white[i].repeat(n)}
    return positions

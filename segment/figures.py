"""Draw the figures of the stage: outlines of cells and nuclei, and histograms of cell counts and diameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hpa.channels import Channel
from hpa.errors import ImageError
from hpa.pictures import Color, Picture, composite, fitted, outlined, save_figure, save_tiles, titled
from hpa.pixels import Pixels, read_channels
from hpa.work.folder import WorkFolder
from segment.masks import read_mask, read_nuclei, stage_folder

_TILE_PX: Final = 384
_COLUMNS: Final = 4
_MAX_TILES: Final = 12
_CELL_COLOR: Final[Color] = (255, 255, 255)
_NUCLEUS_COLOR: Final[Color] = (0, 160, 255)
_GAMMA: Final = 0.6  # makes dim cells visible


def overlay(
    planes: Pixels, channels: Sequence[Channel], cells: NDArray[np.uint16], nuclei: NDArray[np.uint16], title: str
) -> Picture:
    """Draw the outlines of cells and nuclei over an image, with a title above.

    Parameters
    ----------
    planes
        Shape (C, H, W).
    channels
        Channel of each plane.
    cells, nuclei
        Shape (H, W), labels.
    title
        Text above the picture.
    """
    picture = composite(fitted(planes, _TILE_PX), channels, _GAMMA)
    return titled(outlined(outlined(picture, nuclei, _NUCLEUS_COLOR), cells, _CELL_COLOR), title, _TILE_PX)


def write_figures(work: WorkFolder, images: pd.DataFrame, masks: pd.DataFrame, channels: Sequence[Channel]) -> None:
    """Write the figures of the stage into ``segment/figures/``.

    ``overlays.png`` shows outlines over ER (or microtubules) and nucleus of up to 12 images: up to 6 flagged images
    first, then others evenly spaced in the table. ``cells.png`` shows histograms of cells per image and of cell
    diameters.

    Parameters
    ----------
    work
        The work folder.
    images
        The image table.
    masks
        The table of masks.
    channels
        Channels that the network read.
    """
    folder = stage_folder(work) / "figures"
    _write_overlays(folder / "overlays.png", work, images, masks, channels)
    _write_histograms(folder / "cells.png", masks)


def _write_overlays(
    path: Path, work: WorkFolder, images: pd.DataFrame, masks: pd.DataFrame, channels: Sequence[Channel]
) -> None:
    shown: list[Channel] = [next(channel for channel in channels if channel != "blue"), "blue"]
    flagged = masks.index[masks["flags"] != ""][: _MAX_TILES // 2]
    unflagged = masks.index.difference(flagged)
    even = (
        np.linspace(0, max(0, len(unflagged) - 1), min(len(unflagged), _MAX_TILES - len(flagged))).round().astype(int)
    )
    chosen = masks.loc[[*flagged, *unflagged[even]]]
    if chosen.empty:
        return
    tiles = []
    for row in chosen.merge(images, on="image_id").to_dict("records"):
        cells, nuclei = read_mask(work, row["image_id"]), read_nuclei(work, row["image_id"])
        text = " ".join(filter(None, [row["image_id"][:28], f"{row['n_cells']} cells", row["flags"]]))
        try:
            planes = read_channels(row, shown)
        except ImageError:
            # The image was removed after an earlier run segmented it: its masks are still valid and are drawn alone.
            planes, text = np.zeros((len(shown), *cells.shape), np.uint8), f"{text} no image"
        tiles.append(overlay(planes, shown, cells, nuclei, text))
    save_tiles(tiles, _COLUMNS, path)


def _write_histograms(path: Path, masks: pd.DataFrame) -> None:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    max_cells = int(masks["n_cells"].max()) if len(masks) else 0
    left.hist(masks["n_cells"], bins=np.arange(-0.5, max(max_cells, 1) + 1, max(1, max_cells // 40)), color="tab:blue")
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="cells in an image", ylabel="images", title=f"{masks['n_cells'].sum():,} cells")
    diameters = masks["diameter_px"].dropna()
    right.hist(diameters, bins=40, color="tab:green")
    title = f"median of images {diameters.median():.0f} px" if len(diameters) else "no cells"
    right.set(xlabel="median diameter of the cells of an image, px", ylabel="images", title=title)
    save_figure(figure, path)

"""Draw the figures of the stage: outlines of cells and nuclei, and histograms of cell counts and diameters."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hpa.channels import STAINS, Channel
from hpa.errors import ImageError
from hpa.pictures import Color, Picture, composite, fitted, outlined, save_figure, save_lines, titled, with_scale_bar
from hpa.pixels import Pixels, read_channels
from hpa.work.folder import WorkFolder
from segment.masks import DISAGREE, read_mask, read_nuclei, stage_folder

_TILE_PX: Final = 384
_LINE_LETTERS: Final = 52  # of a title
_MAX_TILES: Final = 12
_CELL_COLOR: Final[Color] = (255, 255, 255)
_NUCLEUS_COLOR: Final[Color] = (0, 160, 255)
_GAMMA: Final = 0.6  # makes dim cells visible


def overlay(
    planes: Pixels,
    channels: Sequence[Channel],
    cells: NDArray[np.uint16],
    nuclei: NDArray[np.uint16],
    title: str,
    pixel_um: float = 0.0,
) -> Picture:
    """Draw the outlines of cells and nuclei over an image, with a title above and a scale bar.

    Parameters
    ----------
    planes
        Shape (C, H, W).
    channels
        Channel of each plane.
    cells, nuclei
        Shape (H, W), labels.
    title
        Text above the picture, of one or more lines.
    pixel_um
        Side of a pixel, for the scale bar (`hpa.pictures.scale_bar`).
    """
    picture = composite(fitted(planes, _TILE_PX), channels, _GAMMA)
    picture = outlined(outlined(picture, nuclei, _NUCLEUS_COLOR), cells, _CELL_COLOR)
    return titled(with_scale_bar(picture, max(planes.shape[1:]), pixel_um), title, _TILE_PX)


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
    _write_histograms(folder / "cells.png", masks, work.root.resolve().name)


def _write_overlays(
    path: Path, work: WorkFolder, images: pd.DataFrame, masks: pd.DataFrame, channels: Sequence[Channel]
) -> None:
    shown: list[Channel] = [next(channel for channel in channels if channel != "blue"), "blue"]
    # Images whose channels disagree come first: no method can segment them.
    by_flag = masks["flags"].str.contains(DISAGREE).sort_values(ascending=False, kind="stable").index
    flagged = [index for index in by_flag if masks.at[index, "flags"]][: _MAX_TILES // 2]
    unflagged = masks.index.difference(flagged)
    even = (
        np.linspace(0, max(0, len(unflagged) - 1), min(len(unflagged), _MAX_TILES - len(flagged))).round().astype(int)
    )
    chosen = masks.loc[[*flagged, *unflagged[even]]]
    if chosen.empty:
        return
    tiles = []
    rows = chosen.merge(images, on="image_id").to_dict("records")
    lines = max(len(_wrapped(row["image_id"])) for row in rows)
    for row in rows:
        cells, nuclei = read_mask(work, row["image_id"]), read_nuclei(work, row["image_id"])
        text = ", ".join(filter(None, [f"{row['n_cells']} cells", row["flags"]]))
        try:
            planes = read_channels(row, shown)
        except ImageError:
            # The image was removed after an earlier run segmented it: its masks are still valid and are drawn alone.
            planes, text = np.zeros((len(shown), *cells.shape), np.uint8), f"{text}, no image"
        title = "\n".join([*_wrapped(row["image_id"]), text])
        title += "\n" * (lines - len(_wrapped(row["image_id"])))  # all tiles are of one height
        tiles.append(overlay(planes, shown, cells, nuclei, title, work.data.pixel_um))
    stains = ", ".join(f"{channel}: {STAINS[channel]}" for channel in shown)
    title = f"{work.root.resolve().name}: outlines of cells (white) and nuclei (orange). {stains}"
    save_lines({title: tiles}, _columns(len(tiles)), path)


def _wrapped(image_id: str) -> list[str]:
    """Break an id into lines that fit a tile."""
    return textwrap.wrap(image_id, _LINE_LETTERS, break_on_hyphens=False)


def _columns(tiles: int) -> int:
    """Return the number of columns, 3 to 5 if there are as many tiles, that leaves the fewest places empty."""
    return min(tiles, min((4, 5, 3), key=lambda columns: -tiles % columns))


def _write_histograms(path: Path, masks: pd.DataFrame, run: str) -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    figure.suptitle(f"Cells of {run}, {len(masks):,} images".replace("$", r"\$"), x=0.01, ha="left", fontsize=11)
    left, right = figure.subplots(1, 2)
    max_cells = int(masks["n_cells"].max()) if len(masks) else 0
    step = max(1, max_cells // 40)
    left.hist(masks["n_cells"], bins=np.arange(-0.5, max(max_cells, 1) + step + 0.5, step), color="tab:blue")
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="cells in an image", ylabel="images", title=f"{masks['n_cells'].sum():,} cells")
    diameters = masks["diameter_px"].dropna()
    right.hist(diameters, bins=40, color="tab:green")
    title = f"median of images {diameters.median():.0f} px" if len(diameters) else "no cells"
    right.set(xlabel="median diameter of the cells of an image, px", ylabel="images", title=title)
    save_figure(figure, path)

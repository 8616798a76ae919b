"""Draw contact sheets of crops: cells of each class, cells at the border, dropped cells by reason."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crops.config import CropsSection, Window
from crops.cut import cut_windows
from crops.depth import to_8_bit
from crops.export import join_image_labels
from crops.measure import find_cells
from crops.store import CropStore, open_store
from crops.table import read_dropped
from crops.windows import around_cells
from hpa.channels import Channel
from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.pictures import Color, FigureFormat, Picture, composite, fitted, outlined, save_lines, titled
from hpa.pixels import read_channels
from hpa.work.folder import WorkFolder
from segment.masks import read_mask

_TILE_PX: Final = 128
_COLUMNS: Final = 10
_ROWS: Final = 6
_OUTLINE: Final[Color] = (190, 190, 190)


def draw_sheets(
    work: WorkFolder, window: Window, class_name: str = "", figure_format: FigureFormat = "png"
) -> list[Path]:
    """Draw the sheets of one store into its ``figures`` folder.

    Parameters
    ----------
    work
        The work folder; its crops stage must be done.
    window
        The window of the store.
    class_name
        Draw only a single sheet of this class; an empty name draws all sheets.
    figure_format
        Format of the pictures.

    Returns
    -------
    list of Path
        The pictures: ``classes``, and ``border`` and ``dropped`` if there are such cells.

    Raises
    ------
    UserError
        If there is no finished store, no class of that name or no crop of the class.
    """
    store = open_store(work, window)
    crops, figures, channels = join_image_labels(work, store), store.folder / "figures", work.data.channels
    if class_name:
        number = work.data.classes.index(class_name)
        rows = _evenly(_of_class(crops, class_name), _COLUMNS * _ROWS)
        if not len(rows):
            raise UserError(f"expected crops of images of class {class_name!r}, found none")
        path = figures / f"class-{number:02d}.{figure_format}"
        save_lines({class_name: _tiles(store, rows, channels)}, _COLUMNS, path)
        return [path]
    by_class = {
        name: _tiles(store, _evenly(_of_class(crops, name), _COLUMNS), channels) for name in work.data.classes.classes
    }
    by_class["no known class"] = _tiles(store, _evenly(_of_class(crops, ""), _COLUMNS), channels)
    sheets = {"classes": by_class}
    if window == "cells":
        sheets |= {"border": _border(store, crops, channels), "dropped": _dropped(work, store)}
    drawn = []
    for name, lines in sheets.items():
        if filled := {title: tiles for title, tiles in lines.items() if tiles}:
            drawn.append(figures / f"{name}.{figure_format}")
            save_lines(filled, _COLUMNS, drawn[-1])
    return drawn


def tile(pixels: NDArray[np.uint8], own: NDArray[np.bool_], channels: tuple[Channel, ...], name: str) -> Picture:
    """Draw one crop: each channel in its colour, with its own contrast, and the outline of the cell.

    Parameters
    ----------
    pixels
        Shape (C, S, S).
    own
        Shape (S, S), bool: the pixels of the crop's own cell.
    channels
        The channel of each plane of `pixels`.
    name
        Title above the crop.
    """
    picture = composite(fitted(pixels, _TILE_PX), channels)
    return titled(outlined(picture, own, _OUTLINE), name, _TILE_PX)


def _of_class(crops: pd.DataFrame, name: str) -> NDArray[np.int64]:
    """Return the table positions of crops whose image has a class; an empty name selects crops without any."""
    return np.flatnonzero([name in classes.split(";") for classes in crops["classes"]])


def _evenly(rows: NDArray[np.int64], max_rows: int) -> NDArray[np.int64]:
    """Return up to `max_rows` evenly spaced rows."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(max_rows, len(rows))).round().astype(int))
    return np.asarray(rows[chosen], dtype=np.int64)


def _tiles(store: CropStore, rows: NDArray[np.int64], channels: tuple[Channel, ...]) -> list[Picture]:
    keys = store.table.iloc[rows]
    names = [_name(*key) for key in zip(keys["image_id"], keys["cell_label"], strict=True)]
    crops = zip(store.pixels(rows), store.masks(rows), names, strict=True)
    return [tile(pixels, own, channels, name) for pixels, own, name in crops]


def _name(image_id: str, label: int) -> str:
    return f"{label} of {image_id}"  # the label comes first because long titles are cut off


def _border(store: CropStore, crops: pd.DataFrame, channels: tuple[Channel, ...]) -> dict[str, list[Picture]]:
    """Draw cells at the border, one line per fifth of completeness."""
    fifths = np.minimum((crops["completeness"] * 5).astype(int), 4)
    lines = {}
    for fifth in range(5):
        rows = np.flatnonzero(crops["touches_border"] & ~crops["fallback"] & (fifths == fifth))
        title = f"at the border: {len(rows)} cells, {20 * fifth} to {20 * fifth + 20}% visible"
        lines[title] = _tiles(store, _evenly(rows, _COLUMNS), channels)
    return lines


def _dropped(work: WorkFolder, store: CropStore) -> dict[str, list[Picture]]:
    """Draw some dropped cells of each reason, cut from their images because the store does not contain them."""
    section = work.section("crops", CropsSection).of("cells")
    images = read_images(work.images).set_index("image_id")
    lines = {}
    for reason, cells in read_dropped(store.folder).groupby("reason"):
        chosen = cells.iloc[_evenly(np.arange(len(cells)), _COLUMNS)]
        tiles = []
        for image_id, label in zip(chosen["image_id"], chosen["cell_label"], strict=True):
            try:
                tiles.append(_cut_one(work, images.loc[image_id], str(image_id), int(label), section))
            except ImageError:  # the image or mask is gone, or another one, since the run
                continue
        lines[f"dropped as {reason}: {len(cells)} cells"] = tiles
    return lines


def _cut_one(work: WorkFolder, image: pd.Series, image_id: str, label: int, section: CropsSection) -> Picture:
    channels = work.data.channels
    planes = to_8_bit(read_channels(image.to_dict(), channels), section).pixels
    mask = read_mask(work, image_id)
    cells = find_cells(mask)
    cell = cells.select(cells.labels == label)
    if mask.shape != planes.shape[1:] or not len(cell.labels):
        raise ImageError(f"expected cell {label} in a mask of the image's size, found another mask")
    cut = cut_windows(planes, cell.image, cell.labels, around_cells(cell.boxes, section), section.size_px)
    return tile(cut.crops[0], cut.masks[0], channels, _name(image_id, label))

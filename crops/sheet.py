"""Pictures of crops for people to look at: cells of each class, cells at the border, dropped cells by reason."""

from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crops.config import CropsSection, Window
from crops.cut import cut_windows
from crops.depth import to_8_bit
from crops.export import describe
from crops.measure import Regions, find_cells
from crops.store import CropStore, open_store, read_dropped
from crops.windows import around_cells
from hpa.channels import Channel
from hpa.config import read_section
from hpa.errors import ImageError, UserError
from hpa.files import write_bytes
from hpa.images import read_images
from hpa.pixels import read_channels
from hpa.work import WorkFolder
from segment.masks import read_mask

Picture = NDArray[np.uint8]
"""Shape (H, W, 3), RGB."""

_TILE_PX: Final = 128
_COLUMNS: Final = 10
_LINES: Final = 6
_TITLE_PX: Final = 18
_GAP_PX: Final = 2
_OUTLINE: Final = (190, 190, 190)
_COLOURS: Final[dict[Channel, tuple[float, float, float]]] = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (0.35, 0.35, 0),
}


def draw_sheets(work: WorkFolder, window: Window, class_name: str = "") -> list[Path]:
    """Draw the sheets of one store into its folder ``figures``.

    Parameters
    ----------
    work
        The work folder; its crops must be done.
    window
        Which store.
    class_name
        Draw one sheet of this class alone.

    Returns
    -------
    list of Path
        The pictures: ``classes.png``, and ``border.png`` and ``dropped.png`` where there are such cells.

    Raises
    ------
    UserError
        If there is no finished store, no class of that name or no crop of the class.
    """
    store = open_store(work, window)
    crops, figures, channels = describe(work, store), store.folder / "figures", work.data.channels
    if class_name:
        number = work.data.classes.index(class_name)
        rows = _evenly(_of_class(crops, class_name), _COLUMNS * _LINES)
        if not len(rows):
            raise UserError(f"expected crops of images of class {class_name!r}, found none")
        return [_save(figures / f"class-{number:02d}.png", {class_name: _tiles(store, rows, channels)})]
    by_class = {
        name: _tiles(store, _evenly(_of_class(crops, name), _COLUMNS), channels) for name in work.data.classes.classes
    }
    by_class["no known class"] = _tiles(store, _evenly(_of_class(crops, ""), _COLUMNS), channels)
    sheets = {"classes": by_class}
    if window == "cells":
        sheets |= {"border": _border(store, crops, channels), "dropped": _dropped(work, store)}
    drawn = {name: {title: tiles for title, tiles in lines.items() if tiles} for name, lines in sheets.items()}
    return [_save(figures / f"{name}.png", lines) for name, lines in drawn.items() if lines]


def tile(pixels: NDArray[np.uint8], own: NDArray[np.bool_], channels: tuple[Channel, ...]) -> Picture:
    """Draw one crop: each channel in its colour, brightened by itself, and the outline of the cell.

    Parameters
    ----------
    pixels
        Shape (C, S, S).
    own
        Shape (S, S).
    channels
        Of the pixels.
    """
    picture = np.zeros((*own.shape, 3))
    for plane, channel in zip(pixels, channels, strict=True):
        top = max(float(np.percentile(plane, 99.7)), 24)
        picture += np.clip(plane / top, 0, 1)[..., None] * _COLOURS[channel]
    drawn = cv2.resize((np.clip(picture, 0, 1) * 255).astype(np.uint8), (_TILE_PX, _TILE_PX))
    shown = cv2.resize(own.view(np.uint8), (_TILE_PX, _TILE_PX), interpolation=cv2.INTER_NEAREST)
    edge = shown != cv2.erode(shown, np.ones((3, 3), np.uint8))
    drawn[edge] = _OUTLINE
    return np.asarray(drawn, dtype=np.uint8)


def _of_class(crops: pd.DataFrame, name: str) -> NDArray[np.int64]:
    """Return the crops whose image has a class; an empty name means those without any."""
    return np.flatnonzero([name in classes.split(";") for classes in crops["classes"]])


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    return np.asarray(rows[chosen], dtype=np.int64)


def _tiles(store: CropStore, rows: NDArray[np.int64], channels: tuple[Channel, ...]) -> list[Picture]:
    return [tile(*crop, channels) for crop in zip(store.pixels(rows), store.masks(rows), strict=True)]


def _border(store: CropStore, crops: pd.DataFrame, channels: tuple[Channel, ...]) -> dict[str, list[Picture]]:
    """Draw cells at the border, a line for each fifth of completeness."""
    fifths = np.minimum((crops["completeness"] * 5).astype(int), 4)
    lines = {}
    for fifth in range(5):
        rows = np.flatnonzero(crops["touches_border"] & ~crops["fallback"] & (fifths == fifth))
        title = f"at the border, {len(rows)} cells seen to {20 * fifth} to {20 * fifth + 20}%"
        lines[title] = _tiles(store, _evenly(rows, _COLUMNS), channels)
    return lines


def _dropped(work: WorkFolder, store: CropStore) -> dict[str, list[Picture]]:
    """Cut some dropped cells of each reason from their images: the store does not have them."""
    section = read_section(work.recipe, "crops", CropsSection)
    images = read_images(work.images).set_index("image_id")
    lines = {}
    for reason, cells in read_dropped(store.folder).groupby("reason"):
        chosen = cells.iloc[_evenly(np.arange(len(cells)), _COLUMNS)]
        tiles = []
        for image_id, label in zip(chosen["image_id"], chosen["cell_label"], strict=True):
            try:
                tiles.append(_cut_one(work, images.loc[image_id], str(image_id), int(label), section))
            except ImageError:  # gone since the run
                continue
        lines[f"dropped: {reason}, {len(cells)} cells"] = tiles
    return lines


def _cut_one(work: WorkFolder, image: pd.Series, image_id: str, label: int, section: CropsSection) -> Picture:
    channels = work.data.channels
    planes = to_8_bit(read_channels(image.to_dict(), channels), section).pixels
    found = find_cells(read_mask(work, image_id))
    cell = Regions(found.image, found.labels[found.labels == label], found.boxes[found.labels == label])
    cut = cut_windows(planes, cell.image, cell.labels, around_cells(cell.boxes, section), section.size_px)
    return tile(cut.crops[0], cut.masks[0], channels)


def _save(path: Path, lines: dict[str, list[Picture]]) -> Path:
    """Write titled lines of tiles as one PNG; a title with more tiles than fit a line goes over several."""
    parts = []
    for title, tiles in lines.items():
        strip = np.zeros((_TITLE_PX, _COLUMNS * (_TILE_PX + _GAP_PX), 3), dtype=np.uint8)
        cv2.putText(strip, title, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
        filled = [np.pad(one, ((0, _GAP_PX), (0, _GAP_PX), (0, 0))) for one in tiles]
        filled += [np.zeros_like(filled[0])] * (-len(tiles) % _COLUMNS)
        parts += [strip, *(np.hstack(filled[i : i + _COLUMNS]) for i in range(0, len(filled), _COLUMNS))]
    _, content = cv2.imencode(".png", np.vstack(parts)[..., ::-1])
    write_bytes(path, content.tobytes())
    return path

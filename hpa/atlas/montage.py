"""Pictures of a data set in the competition's layout, and of the 28 protein patterns."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.atlas.scene import draw_scene
from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.pictures import Picture, brighten, composite, save_tiles, titled
from hpa.vocabulary import HPA28
from hpa.work.files import read_csv


def draw_montage(data: Path, out: Path, *, images: int = 12, columns: int = 4, tile_px: int = 256) -> None:
    """Draw images of a data set side by side, the four channels in their colours.

    Parameters
    ----------
    data
        A folder with ``train.csv`` and ``train/{Id}_{color}.png``, real or synthetic.
    out
        The PNG to write.
    images, columns
        Number of images, taken at even steps from the table, and number of images per row.
    tile_px
        Side of each image in the picture.

    Raises
    ------
    UserError
        If the table or a file of an image is missing.
    """
    table = data / "train.csv"
    if not table.is_file():
        raise UserError(f"expected a data set with a train.csv, found none in {data}")
    rows = read_csv(table, ("Id", "Target"))
    if rows.empty:
        raise UserError(f"expected images in {table}, found none")
    chosen = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(images, len(rows))).astype(int))]
    tiles = []
    for image_id, target in zip(chosen.Id, chosen.Target, strict=True):
        planes = np.stack([_read(data / "train" / f"{image_id}_{channel}.png") for channel in CHANNELS])
        names = ", ".join(HPA28.classes[label] for label in HPA28.parse(target))
        tiles.append(titled(composite(planes, CHANNELS), names, tile_px))
    save_tiles(tiles, columns, out)


def draw_patterns(out: Path, *, seed: int = 1, columns: int = 7, tile_px: int = 200) -> None:
    """Draw the 28 protein patterns in green over a faint blue, each in a window around a cell that carries the class.

    Parameters
    ----------
    out
        The PNG to write.
    seed, columns, tile_px
        Seed of the scenes, number of pictures per row, and side of each picture.
    """
    tiles = []
    for label, name in enumerate(HPA28.classes):
        scene = draw_scene((seed, 28, label), cell_line=label % 3, target=(label,), shares=(1.0,))
        _, green, blue, _ = brighten(scene.channels)
        picture = np.stack([0.55 * blue, green, 0.0 * green], axis=-1)
        carriers = [k for k, target in enumerate(scene.targets, start=1) if target == (label,)]
        tiles.append(titled(np.clip(picture, 0, 255).astype(np.uint8)[_around(scene.cells, carriers)], name, tile_px))
    save_tiles(tiles, columns, out)


def _around(cells: NDArray[np.uint16], carriers: list[int]) -> tuple[slice, slice]:
    """Return a window of 300 / 512 of the frame around the carrier nearest to its centre."""
    size = cells.shape[0]
    side = size * 300 // 512
    middle = np.array([size / 2, size / 2])
    places = [np.argwhere(cells == label).mean(axis=0) for label in carriers]
    place = min(places, key=lambda at: float(np.linalg.norm(at - middle))) if places else middle
    top, left = np.clip(place - side / 2, 0, size - side).astype(int)
    return slice(top, top + side), slice(left, left + side)


def _read(path: Path) -> Picture:
    plane = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if plane is None or plane.ndim != 2 or plane.dtype != np.uint8:
        raise UserError(f"expected an 8-bit gray image, found none at {path}")
    return np.asarray(plane, dtype=np.uint8)

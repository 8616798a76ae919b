"""Pictures of a data set in the competition's layout, and of the 28 patterns, for people to look at."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.atlas.scene import draw_scene
from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.vocabulary import HPA28

Picture = NDArray[np.uint8]


def draw_montage(data: Path, out: Path, *, images: int = 12, columns: int = 4, tile_px: int = 256) -> None:
    """Draw images of a data set side by side, the four channels in their colours.

    Parameters
    ----------
    data
        A folder with ``train.csv`` and ``train/{Id}_{color}.png``, real or synthetic.
    out
        The PNG to write.
    images, columns
        How many images are shown, taken evenly from the table, and how many in a row.
    tile_px
        Side of each image in the picture.

    Raises
    ------
    UserError
        If the table or a file of an image is not there.
    """
    table = data / "train.csv"
    if not table.is_file():
        raise UserError(f"expected a data set with a train.csv, found none in {data}")
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    chosen = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(images, len(rows))).astype(int))]
    tiles = []
    for image_id, target in zip(chosen.Id, chosen.Target, strict=True):
        planes = np.stack([_read(data / "train" / f"{image_id}_{channel}.png") for channel in CHANNELS])
        names = ", ".join(HPA28.classes[label] for label in HPA28.parse(target))
        tiles.append(_titled(composite(planes), names, tile_px))
    _save(tiles, columns, out)


def draw_patterns(out: Path, *, seed: int = 0, columns: int = 7, tile_px: int = 200) -> None:
    """Draw the 28 protein patterns: green over a faint blue, each cell carrying the class, the part around a carrier.

    Parameters
    ----------
    out
        The PNG to write.
    seed, columns, tile_px
        Seed of the scenes, pictures in a row, and side of each.
    """
    tiles = []
    for label, name in enumerate(HPA28.classes):
        scene = draw_scene((seed, 28, label), cell_line=label % 3, target=(label,), shares=(1.0,))
        _, green, blue, _ = _brightened(scene.channels)
        picture = np.stack([0.55 * blue, green, 0.0 * green], axis=-1)
        carriers = [k for k, target in enumerate(scene.targets, start=1) if target == (label,)]
        tiles.append(_titled(np.clip(picture, 0, 255).astype(np.uint8)[_around(scene.cells, carriers)], name, tile_px))
    _save(tiles, columns, out)


def composite(planes: NDArray[np.uint8]) -> Picture:
    """Merge channels (4, H, W) into a picture, blue-green-red (H, W, 3); each channel is brightened by itself."""
    red, green, blue, yellow = _brightened(planes)
    merged = np.stack([blue, green + 0.45 * yellow, red + 0.45 * yellow], axis=-1)
    return np.asarray(np.clip(merged, 0, 255), dtype=np.uint8)


def _brightened(planes: NDArray[np.uint8]) -> NDArray[np.float32]:
    top = np.maximum(np.percentile(planes, 99.8, axis=(1, 2)), 24)
    return np.asarray(planes * (255 / top)[:, None, None], dtype=np.float32)


def _around(cells: NDArray[np.uint16], carriers: list[int]) -> tuple[slice, slice]:
    """Return a window of 300 / 512 of the frame around the carrier nearest to its middle."""
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


def _titled(picture: Picture, title: str, side: int) -> Picture:
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    strip = np.zeros((18, side, 3), np.uint8)
    text = title if len(title) * 7 < side else title[: side // 7 - 2] + ".."
    cv2.putText(strip, text, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate([strip, small])


def _save(tiles: list[Picture], columns: int, out: Path) -> None:
    """Write tiles row by row, the channels coarsened to 16 levels so that the file stays small."""
    tiles = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[k : k + columns], axis=1) for k in range(0, len(tiles), columns)]
    picture = np.concatenate(rows) & np.uint8(0xF0)
    out.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise UserError(f"expected to write a PNG, found {out}")
    out.write_bytes(data.tobytes())

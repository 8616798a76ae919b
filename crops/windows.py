"""Where windows are placed. All are squares in source pixels and may reach over the edge of the frame.

A window is a row of an int32 array of shape (n, 4): first row, first column, end row, end column (half-open).
"""

import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crops.config import CropsSection, Window

Windows = NDArray[np.int32]


def around_cells(boxes: NDArray[np.integer[Any]], section: CropsSection) -> Windows:
    """Place a window around each bounding box.

    Parameters
    ----------
    boxes
        Shape (n, 4), as windows, not square.
    section
        Its `scale`: ``fit`` takes the longer side and the margin on both sides of it, ``fixed`` the same side for all.
    """
    if section.scale == "fixed":
        side = np.full(len(boxes), max(1, round(section.size_px * section.source_px)), dtype=np.int64)
    else:
        longer = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        side = np.ceil(longer * (1 + 2 * section.margin)).astype(np.int64)
    first = (boxes[:, :2].astype(np.int64) + boxes[:, 2:] - side[:, None]) // 2
    return np.concatenate([first, first + side[:, None]], axis=1).astype(np.int32)


def full_frame(height: int, width: int) -> Windows:
    """Place one window that holds the whole frame in its middle."""
    side = max(height, width)
    return _squares([((height - side) // 2, (width - side) // 2)], side)


def on_frame(
    window: Window, planes: NDArray[np.uint8], section: CropsSection, seed: int, image_id: str, green: int
) -> Windows:
    """Place the windows of an image that do not follow its cells.

    Parameters
    ----------
    window
        Any kind but ``cells``.
    planes
        Shape (C, H, W).
    section
        How many and how large.
    seed, image_id
        They alone decide where random windows lie.
    green
        Which plane is the protein's.
    """
    height, width = planes.shape[1:]
    side = max(1, round(section.side * min(height, width)))
    if window == "five_crop":
        return five_crop(height, width, side)
    if window == "grid":
        return grid(height, width, section.grid, section.overlap)
    if window == "random":
        draw = np.random.default_rng([seed, zlib.crc32(image_id.encode())])
        places = draw.integers(0, [height - side + 1, width - side + 1], (section.count, 2))
        return _squares(places, side)
    if window == "brightest":
        return brightest(planes[green], side, section.count)
    return full_frame(height, width)


def five_crop(height: int, width: int, side: int) -> Windows:
    """Place a window in each corner, row by row, and one in the centre."""
    down, right = height - side, width - side
    return _squares([(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)], side)


def grid(height: int, width: int, n: int, overlap: float) -> Windows:
    """Cover the frame with windows at even distances, row by row, n of them along its longer side.

    Parameters
    ----------
    height, width
        Of the frame, in px.
    n
        Windows along its longer side.
    overlap
        Share of the side that adjacent windows along the longer side have in common, at least.
    """
    side = int(np.ceil(max(height, width) / (n - (n - 1) * overlap)))
    rows, cols = _along(height, side, n), _along(width, side, n)
    return _squares([(row, col) for row in rows for col in cols], side)


def _along(length: int, side: int, n: int) -> NDArray[np.int64]:
    if side >= length:  # one window holds this direction, in its middle
        return np.array([(length - side) // 2])
    return np.rint(np.linspace(0, length - side, n)).astype(np.int64)


def brightest(plane: NDArray[np.uint8], side: int, count: int) -> Windows:
    """Place windows where a plane is brightest, the brightest first, no two sharing more than half of their area.

    Windows are tried at steps of an eighth of their side; of equally bright ones the upper left one is taken.

    Parameters
    ----------
    plane
        Shape (H, W).
    side
        Of the windows, in px.
    count
        Place at most so many; a small frame has room for fewer.
    """
    sums = cv2.integral(plane, sdepth=cv2.CV_64F)
    step = max(1, side // 8)
    rows, cols = (np.unique([*range(0, length - side, step), length - side]) for length in plane.shape)
    low, right = rows[:, None] + side, cols[None] + side
    light = sums[low, right] - sums[rows[:, None], right] - sums[low, cols[None]] + sums[rows[:, None], cols[None]]
    places = []
    for _ in range(count):
        at = np.unravel_index(int(light.argmax()), light.shape)
        if light[at] < 0:
            break
        places.append((int(rows[at[0]]), int(cols[at[1]])))
        common = np.outer(np.maximum(0, side - abs(rows - rows[at[0]])), np.maximum(0, side - abs(cols - cols[at[1]])))
        light[2 * common > side**2] = -1
    return _squares(places, side)


def _squares(places: Any, side: int) -> Windows:
    first = np.asarray(places, dtype=np.int64).reshape(-1, 2)
    return np.concatenate([first, first + side], axis=1).astype(np.int32)

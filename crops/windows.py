"""Place windows on an image. All windows are squares in source pixels and may extend beyond the frame.

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
        Shape (n, 4), in the form of windows, but not necessarily square.
    section
        Gives `scale`: ``fit`` uses the longer side plus the margin on both sides, ``fixed`` the same side for all.
    """
    if section.scale == "fixed":
        side = np.full(len(boxes), max(1, round(section.size_px * section.source_px)), dtype=np.int64)
    else:
        longer = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
        side = np.ceil(longer * (1 + 2 * section.margin)).astype(np.int64)
    first = (boxes[:, :2].astype(np.int64) + boxes[:, 2:] - side[:, None]) // 2
    return np.concatenate([first, first + side[:, None]], axis=1).astype(np.int32)


def full_frame(height: int, width: int) -> Windows:
    """Place one window that contains the full frame, centred.

    Examples
    --------
    >>> full_frame(10, 20)
    array([[-5,  0, 15, 20]], dtype=int32)
    """
    side = max(height, width)
    return _squares([((height - side) // 2, (width - side) // 2)], side)


def on_frame(
    window: Window, planes: NDArray[np.uint8], section: CropsSection, seed: int, image_id: str, green: int
) -> Windows:
    """Place the windows of an image that do not follow its cells.

    Parameters
    ----------
    window
        Any window but ``cells``.
    planes
        Shape (C, H, W).
    section
        Gives the number and size of the windows.
    seed, image_id
        Determine the positions of random windows; nothing else does.
    green
        Index of the protein channel among the planes.
    """
    height, width = planes.shape[1:]
    side = max(1, round(section.side * min(height, width)))
    if window == "five_crop":
        return five_crop(height, width, side)
    if window == "grid":
        return grid(height, width, section.grid, section.overlap)
    if window == "random":
        rng = np.random.default_rng([seed, zlib.crc32(image_id.encode())])
        corners = rng.integers(0, [height - side + 1, width - side + 1], (section.count, 2))
        return _squares(corners, side)
    if window == "brightest":
        return brightest(planes[green], side, section.count)
    return full_frame(height, width)


def five_crop(height: int, width: int, side: int) -> Windows:
    """Place a window in each corner of the frame, row by row, and one in the centre.

    Examples
    --------
    >>> five_crop(10, 16, 6)
    array([[ 0,  0,  6,  6],
           [ 0, 10,  6, 16],
           [ 4,  0, 10,  6],
           [ 4, 10, 10, 16],
           [ 2,  5,  8, 11]], dtype=int32)
    """
    down, right = height - side, width - side
    return _squares([(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)], side)


def grid(height: int, width: int, n: int, overlap: float) -> Windows:
    """Cover the frame with evenly spaced windows, row by row, n of them along its longer side.

    Parameters
    ----------
    height, width
        Size of the frame in px.
    n
        Number of windows along the longer side of the frame.
    overlap
        Minimum overlap of adjacent windows along the longer side, as a fraction of their side.
    """
    side = int(np.ceil(max(height, width) / (n - (n - 1) * overlap)))
    rows, cols = _spread(height, side, n), _spread(width, side, n)
    return _squares([(row, col) for row in rows for col in cols], side)


def _spread(length: int, side: int, n: int) -> NDArray[np.int64]:
    """Return the first positions of n windows that cover a length."""
    if side >= length:  # a single centred window covers this axis
        return np.array([(length - side) // 2])
    return np.rint(np.linspace(0, length - side, n)).astype(np.int64)


def brightest(plane: NDArray[np.uint8], side: int, count: int) -> Windows:
    """Place windows where a plane is brightest, brightest first, no two sharing more than half of their area.

    Candidate windows are an eighth of their side apart. Among equally bright ones the upper left one is chosen.

    Parameters
    ----------
    plane
        Shape (H, W).
    side
        Side of the windows in px.
    count
        Maximum number of windows; a small frame has space for fewer.
    """
    sums = cv2.integral(plane, sdepth=cv2.CV_64F)
    step = max(1, side // 8)
    rows, cols = (np.unique([*range(0, length - side, step), length - side]) for length in plane.shape)
    low, right = rows[:, None] + side, cols[None] + side
    brightness = sums[low, right] - sums[rows[:, None], right] - sums[low, cols[None]] + sums[rows[:, None], cols[None]]
    corners = []
    for _ in range(count):
        at = np.unravel_index(int(brightness.argmax()), brightness.shape)
        if brightness[at] < 0:
            break
        corners.append((int(rows[at[0]]), int(cols[at[1]])))
        shared = np.outer(np.maximum(0, side - abs(rows - rows[at[0]])), np.maximum(0, side - abs(cols - cols[at[1]])))
        brightness[2 * shared > side**2] = -1
    return _squares(corners, side)


def _squares(corners: Any, side: int) -> Windows:
    """Return squares of one side from their upper left corners (row, column)."""
    first = np.asarray(corners, dtype=np.int64).reshape(-1, 2)
    return np.concatenate([first, first + side], axis=1).astype(np.int32)

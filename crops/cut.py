"""Cutting windows out of one image: from pixels and a label image to crops and their masks."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cut:
    """The crops of one image.

    Parameters
    ----------
    crops
        Shape (n, C, S, S), uint8, all pixels of the window: neighbours too.
    masks
        Shape (n, S, S), bool, the cell's own pixels.
    """

    crops: NDArray[np.uint8]
    masks: NDArray[np.bool_]


def cut_windows(
    planes: NDArray[np.uint8],
    image: NDArray[np.uint16],
    labels: NDArray[np.integer[Any]],
    windows: NDArray[np.int32],
    size_px: int,
) -> Cut:
    """Cut windows and resize them: area-averaged when they shrink, bilinear when they grow, black beyond the edge.

    A pixel of a mask is the cell's where half of it is: bilinear, area-averaged when it shrinks to less than a half.

    Parameters
    ----------
    planes
        Shape (C, H, W), uint8.
    image
        Label image, shape (H, W).
    labels
        Shape (n,): whose pixels are the window's own.
    windows
        Shape (n, 4), squares that may reach over the edge (`crops.windows`).
    size_px
        Height and width of a crop.
    """
    merged = np.asarray(cv2.merge(list(planes)), dtype=np.uint8)  # so that one resize does all channels
    crops = np.empty((len(windows), len(planes), size_px, size_px), dtype=np.uint8)
    masks = np.empty((len(windows), size_px, size_px), dtype=bool)
    for i, (window, label) in enumerate(zip(windows, labels, strict=True)):
        inside, borders = _inside(window, image.shape)
        side = int(window[2] - window[0])
        how = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
        cv2.split(_resized(merged[inside], borders, size_px, how), list(crops[i]))
        own = np.asarray(cv2.inRange(image[inside], int(label), int(label)), dtype=np.uint8)
        # An edge needs no average before pixels would be skipped, and bilinear takes a sixth of the time.
        how = cv2.INTER_AREA if side > 2 * size_px else cv2.INTER_LINEAR
        np.greater_equal(_resized(own, borders, size_px, how), 128, out=masks[i])
    return Cut(crops, masks)


def _inside(window: NDArray[np.int32], shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[int, int, int, int]]:
    """Return the part of a window in the frame, and how far it reaches over: top, bottom, left, right."""
    first_row, first_col, end_row, end_col = (int(edge) for edge in window)
    over = (max(0, -first_row), max(0, end_row - shape[0]), max(0, -first_col), max(0, end_col - shape[1]))
    return np.s_[first_row + over[0] : end_row - over[1], first_col + over[2] : end_col - over[3]], over


def _resized(image: NDArray[np.uint8], borders: tuple[int, int, int, int], size_px: int, how: int) -> NDArray[np.uint8]:
    square: Any = cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=0) if any(borders) else image
    return np.asarray(cv2.resize(square, (size_px, size_px), interpolation=how), dtype=np.uint8)

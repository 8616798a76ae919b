"""Cutting windows out of one image: from pixels and a label image to crops and their masks."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crops.depth import interleaved


@dataclass(frozen=True)
class Cut:
    """The crops of one image.

    Parameters
    ----------
    crops
        Shape (n, C, S, S), uint8, all pixels of the window, also those of neighbouring cells.
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

    A pixel of a mask is the cell's where the source pixel under its centre is; where the centre falls between two
    source pixels, either decides.

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
    merged = interleaved(planes)
    crops = np.empty((len(windows), len(planes), size_px, size_px), dtype=np.uint8)
    masks = np.empty((len(windows), size_px, size_px), dtype=bool)
    height, width = image.shape
    for i, (window, label) in enumerate(zip(windows.tolist(), labels.tolist(), strict=True)):
        first_row, first_col, end_row, end_col = window
        inside = np.s_[max(0, first_row) : min(height, end_row), max(0, first_col) : min(width, end_col)]
        over = (max(0, -first_row), max(0, end_row - height), max(0, -first_col), max(0, end_col - width))
        side = end_row - first_row
        how = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
        cv2.split(_resized(merged[inside], over, size_px, how), list(crops[i]))
        # A label has nothing to average: sampled, its edge is as true as an average's and costs a half or less.
        np.equal(_resized(image[inside], over, size_px, cv2.INTER_NEAREST_EXACT), label, out=masks[i])
    return Cut(crops, masks)


def _resized(image: Any, over: tuple[int, int, int, int], size_px: int, how: int) -> Any:
    """Resize the part of a window that lies in the frame, black where it reaches over: top, bottom, left, right."""
    square = cv2.copyMakeBorder(image, *over, cv2.BORDER_CONSTANT, value=0) if any(over) else image
    return cv2.resize(square, (size_px, size_px), interpolation=how)

"""Cut windows out of the pixels and the label image of one image."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crops.depth import channels_last


@dataclass(frozen=True)
class ImageCrops:
    """The crops of one image.

    Parameters
    ----------
    crops
        Shape (n, C, S, S), uint8: all pixels of each window, including those of neighbouring cells.
    masks
        Shape (n, S, S), bool: the pixels of each crop's own cell.
    """

    crops: NDArray[np.uint8]
    masks: NDArray[np.bool_]


def cut_windows(
    planes: NDArray[np.uint8],
    image: NDArray[np.uint16],
    labels: NDArray[np.integer[Any]],
    windows: NDArray[np.int32],
    size_px: int,
) -> ImageCrops:
    """Cut windows out of an image and resize them to square crops.

    Pixels are area-averaged when a window shrinks and interpolated bilinearly when it grows. Pixels beyond the edge of
    the frame are black. A mask pixel is set if the source pixel under its centre belongs to the cell; if the centre
    falls between two source pixels, either may decide.

    Parameters
    ----------
    planes
        Shape (C, H, W), uint8.
    image
        Label image, shape (H, W).
    labels
        Shape (n,): the label of each window's own cell.
    windows
        Shape (n, 4), squares that may extend beyond the frame (`crops.windows`).
    size_px
        Height and width of a crop.

    Returns
    -------
    ImageCrops
        One crop and one mask per window.
    """
    merged = channels_last(planes)
    crops = np.empty((len(windows), len(planes), size_px, size_px), dtype=np.uint8)
    masks = np.empty((len(windows), size_px, size_px), dtype=bool)
    height, width = image.shape
    for i, (window, label) in enumerate(zip(windows.tolist(), labels.tolist(), strict=True)):
        first_row, first_col, end_row, end_col = window
        inside = np.s_[max(0, first_row) : min(height, end_row), max(0, first_col) : min(width, end_col)]
        padding = (max(0, -first_row), max(0, end_row - height), max(0, -first_col), max(0, end_col - width))
        side = end_row - first_row
        interpolation = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
        cv2.split(_pad_and_resize(merged[inside], padding, size_px, interpolation), list(crops[i]))
        # Labels cannot be averaged. Nearest-neighbour sampling gives an edge as accurate as averaging the mask would,
        # at half the cost or less.
        nearest = _pad_and_resize(image[inside], padding, size_px, cv2.INTER_NEAREST_EXACT)
        np.equal(nearest, label, out=masks[i])
    return ImageCrops(crops, masks)


def _pad_and_resize(image: Any, padding: tuple[int, int, int, int], size_px: int, interpolation: int) -> Any:
    """Pad the part of a window inside the frame with black (top, bottom, left, right) and resize it to a square."""
    square = cv2.copyMakeBorder(image, *padding, cv2.BORDER_CONSTANT, value=0) if any(padding) else image
    return cv2.resize(square, (size_px, size_px), interpolation=interpolation)

"""From the planes of an image to what the network sees, and from its answer back to the size of the image."""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

NETWORK_DIAMETER_PX: Final = 30.0
"""Equivalent diameter of a typical cell at the size the network works at; Cellpose's own convention."""

TYPICAL_DIAMETER: Final = 98 / 512
"""Median equivalent diameter of a cell in 328 images of the Human Protein Atlas, as a share of the image's side."""

_LOW, _HIGH = 1.0, 99.0  # percentiles, as Cellpose normalises
_LEAST_SHARE = 0.1  # an image with one small cell has its 99th percentile in the background
_LEAST_SIDE_PX = 16


def network_shape(height_px: int, width_px: int, diameter_px: float) -> tuple[int, int]:
    """Return the height and width at which a typical cell has `NETWORK_DIAMETER_PX`.

    Parameters
    ----------
    height_px, width_px
        Size of the image.
    diameter_px
        Equivalent diameter of a typical cell in the image.
    """
    scale = NETWORK_DIAMETER_PX / diameter_px
    return max(_LEAST_SIDE_PX, round(height_px * scale)), max(_LEAST_SIDE_PX, round(width_px * scale))


def reduce_planes(planes: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Resize planes, by the mean of the pixels covered where they shrink.

    Parameters
    ----------
    planes
        Shape (C, H, W), any real type.
    shape
        Height and width of the result.

    Returns
    -------
    ndarray
        Shape (C, *shape).
    """
    shrinks = shape[0] <= planes.shape[1] and shape[1] <= planes.shape[2]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    # The planes are resized before they become float: four times less memory is read.
    small = [cv2.resize(plane, (shape[1], shape[0]), interpolation=method) for plane in planes]
    return np.stack(small).astype(np.float32)


def reduce_labels(labels: NDArray[np.uint16], shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Resize a label image by taking the label in the middle of each new pixel."""
    small = cv2.resize(labels, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return small.astype(np.uint16, copy=False)


def have_signal(planes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which planes show more than noise.

    The range of pure noise over a million pixels is under 10 of its standard deviations, which the differences of
    neighbours tell; one small cell passes that by far. Three gray levels of 256 are never a signal.

    Parameters
    ----------
    planes
        Shape (C, H, W), reduced, in gray levels.

    Returns
    -------
    ndarray
        Shape (C,), bool.
    """
    steps = np.abs(np.diff(planes, axis=2)).reshape(len(planes), -1)
    noise = np.median(steps, axis=1) / (0.6745 * np.sqrt(2))
    signal: NDArray[np.bool_] = np.ptp(planes, axis=(1, 2)) > 10 * np.maximum(noise, 0.3)
    return signal


def normalise(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale every plane so that its 1st percentile is 0 and its 99th is 1, as Cellpose does.

    Parameters
    ----------
    planes
        Shape (C, H, W).

    Returns
    -------
    ndarray
        Shape (C, H, W); a plane without any contrast is 0 everywhere.
    """
    low, high = np.percentile(planes, [_LOW, _HIGH], axis=(1, 2), keepdims=True)
    top = planes.max(axis=(1, 2), keepdims=True)
    span = np.maximum(high - low, _LEAST_SHARE * (top - low))
    scaled: NDArray[np.float32] = ((planes - low) / np.where(span > 0, span, 1)).astype(np.float32)
    return scaled

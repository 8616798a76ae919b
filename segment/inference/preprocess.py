"""From the planes of an image to what the network sees, and from its answer back to the size of the image."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_LOW, _HIGH = 1.0, 99.0  # percentiles, as Cellpose normalises
_MIN_SHARE = 0.1  # an image with one small cell has its 99th percentile in the background


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
    span = np.maximum(high - low, _MIN_SHARE * (top - low))
    scaled: NDArray[np.float32] = ((planes - low) / np.where(span > 0, span, 1)).astype(np.float32)
    return scaled

"""Random fields of one or several feature sizes, and points drawn with sub-pixel accuracy."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale_px: float) -> Image:
    """Draw a smooth Gaussian field of unit variance whose features are about `scale_px` wide.

    The field is drawn on a coarse grid and resized, so that wide features cost no more than fine ones.

    Parameters
    ----------
    rng
        Random number generator.
    shape
        Height and width in px.
    scale_px
        Width of the features.

    Returns
    -------
    ndarray
        The field, float32, of the given shape.
    """
    step = max(scale_px / 2, 1.0)
    rows, columns = (int(np.ceil(length / step)) + 3 for length in shape)
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    if step > 1.0:
        full = cv2.resize(
            grid, (int(np.ceil(columns * step)), int(np.ceil(rows * step))), interpolation=cv2.INTER_CUBIC
        )
        field = full[int(step) : int(step) + shape[0], int(step) : int(step) + shape[1]]
    else:
        field = cv2.GaussianBlur(grid, (0, 0), max(scale_px / 2, 0.3))[: shape[0], : shape[1]]
    return np.ascontiguousarray(field / (field[::3, ::3].std() + 1e-6))


def octaves(
    rng: np.random.Generator, shape: tuple[int, int], scales_px: Sequence[float], weights: Sequence[float]
) -> Image:
    """Sum smooth fields of several feature sizes and scale the sum to unit variance.

    Parameters
    ----------
    rng
        Random number generator.
    shape
        Height and width in px.
    scales_px, weights
        Width of the features of each field, and its weight.
    """
    total = np.zeros(shape, dtype=np.float32)
    for scale_px, weight in zip(scales_px, weights, strict=True):
        total += np.float32(weight) * smooth_noise(rng, shape, scale_px)
    return total / np.float32(np.sqrt(np.square(weights).sum()))


def splat(points: NDArray[np.float32], weights: NDArray[np.float32], shape: tuple[int, int]) -> Image:
    """Add points to an empty image, each distributed over its four nearest pixels.

    Parameters
    ----------
    points
        Rows and columns in px, shape (N, 2); points outside the frame are skipped.
    weights
        Light of each point, shape (N,).
    shape
        Height and width in px.
    """
    inside = (points >= 0).all(axis=1) & (points[:, 0] < shape[0] - 1) & (points[:, 1] < shape[1] - 1)
    points, weights = points[inside], weights[inside]
    corner = points.astype(np.int32)
    fraction = points - corner
    flat = corner[:, 0] * shape[1] + corner[:, 1]
    low, right = fraction[:, 0] * weights, fraction[:, 1]
    high = weights - low
    corners = np.concatenate([flat, flat + 1, flat + shape[1], flat + shape[1] + 1])
    light = np.concatenate([high * (1 - right), high * right, low * (1 - right), low * right])
    return np.bincount(corners, light, shape[0] * shape[1]).astype(np.float32).reshape(shape)


def blur(image: Image, sigma_px: float) -> Image:
    """Blur an image with a Gaussian of standard deviation `sigma_px`."""
    if sigma_px < 0.2:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), dtype=np.float32)

"""Texture features of crops, as used before networks: the peer of a frozen backbone."""

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

_LEVELS = 16
_DISTANCES = (1, 2, 4)


def texture_features(pixels: NDArray[np.uint8], protein: int) -> NDArray[np.float32]:
    """Return Haralick features, local binary patterns, granulometry and correlations with the other channels.

    Parameters
    ----------
    pixels
        Shape (N, C, S, S), uint8.
    protein
        Position of the protein among the channels.

    Returns
    -------
    ndarray
        Shape (N, F), float32.
    """
    return np.array([_features(crop, protein) for crop in pixels], dtype=np.float32)


def _features(crop: NDArray[np.uint8], protein: int) -> list[float]:
    plane = crop[protein]
    gray = plane.astype(np.float32)
    low, high = np.percentile(gray, (1, 99.5))
    scaled = np.clip((gray - low) / max(high - low, 1.0), 0, 1)
    found = [float(low), float(high), *(float(v) for v in np.percentile(scaled, (10, 25, 50, 75, 90, 95, 99)))]
    found += [float(scaled.mean()), float(scaled.std())]
    matrix = graycomatrix(  # type: ignore[no-untyped-call]
        (scaled * (_LEVELS - 1)).astype(np.uint8), _DISTANCES, [0, np.pi / 2], _LEVELS, symmetric=True, normed=True
    )
    for name in ("contrast", "homogeneity", "energy", "correlation", "ASM", "dissimilarity"):
        found += graycoprops(matrix, name).mean(axis=1).tolist()  # type: ignore[no-untyped-call]
    eight = (scaled * 255).astype(np.uint8)
    for radius in (1, 2, 4):
        codes = local_binary_pattern(eight, 8, radius, "uniform")  # type: ignore[no-untyped-call]
        found += np.histogram(codes, bins=10, range=(0, 10), density=True)[0].tolist()
    left = scaled.sum()
    for side in (3, 5, 9, 15, 25):  # light that openings of growing size remove: bright structures of that size
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        opened = np.asarray(cv2.morphologyEx(scaled, cv2.MORPH_OPEN, kernel))
        found.append(float((left - opened.sum()) / max(scaled.sum(), 1e-6)))
        left = opened.sum()
    for channel, other in enumerate(crop):
        if channel != protein:
            found += [_correlation(gray, other.astype(np.float32)), _correlation(*map(_smooth, (gray, other)))]
    return found


def _smooth(plane: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(np.asarray(plane, dtype=np.float32), (0, 0), 3), dtype=np.float32)


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    deviation = float(first.std() * second.std())
    return float(((first - first.mean()) * (second - second.mean())).mean()) / deviation if deviation > 0 else 0.0

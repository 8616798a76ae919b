"""Style randomisation: one synthetic image in many looks, so that a network learns shapes and not one look."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segment.inference.preprocess import normalise
from segment.network.compact import ER, INPUTS, MICROTUBULES, NUCLEUS_PLANE
from segment.postprocess.labels import bounding_boxes

Planes = NDArray[np.float32]

_LEAKS = [NUCLEUS_PLANE, ER, ER]  # the plane whose light leaks into each
_MISSING = (0.55, 0.15, 0.3)  # microtubules, ER, none


@dataclass(frozen=True)
class Sample:
    """A synthetic image at the size the network works at, with what is true of it.

    Parameters
    ----------
    planes
        Shape (3, h, w), float16: ER, nucleus, microtubules.
    cells, nuclei
        Shape (h, w), uint16.
    flows
        Shape (2, h, w), float16, rows and columns.
    core
        Shape (h, w), bool, inner parts of nuclei.
    reach
        Shape (h, w), float16, distance from the nucleus as a share of the farthest pixel of the cell.
    blank_px
        Width of the rim in which nothing is.
    """

    planes: NDArray[np.float16]
    cells: NDArray[np.uint16]
    nuclei: NDArray[np.uint16]
    flows: NDArray[np.float16]
    core: NDArray[np.bool_]
    reach: NDArray[np.float16]
    blank_px: int = 0


def nucleus_distance(cells: NDArray[np.integer[Any]], nuclei: NDArray[np.integer[Any]]) -> NDArray[np.float16]:
    """Return how far each pixel is from its nucleus, as a share of the farthest pixel of its cell.

    Parameters
    ----------
    cells, nuclei
        Shape (H, W), labels.
    """
    reach = np.zeros(cells.shape, dtype=np.float16)
    for label, window in bounding_boxes(cells):
        own, nucleus = cells[window] == label, nuclei[window] == label
        if not nucleus.any():
            continue
        away = ndimage.distance_transform_edt(~nucleus)
        reach[window][own] = (away / max(1.0, away[own].max()))[own]
    return reach


def inner(shape: tuple[int, ...], rim_px: int) -> tuple[slice, slice]:
    """Return what is left of an image of this height and width without its rim."""
    height, width = shape
    return slice(rim_px, height - rim_px), slice(rim_px, width - rim_px)


def clear_rim(labels: NDArray[np.uint16], rim_px: int) -> NDArray[np.uint16]:
    """Return labels of shape (H, W) with nothing in the rim."""
    kept = np.zeros_like(labels)
    kept[inner(labels.shape, rim_px)] = labels[inner(labels.shape, rim_px)]
    return kept


def restyle(sample: Sample, rng: np.random.Generator) -> Planes:
    """Draw one look of a sample.

    Parameters
    ----------
    sample
        The image.
    rng
        Where the look comes from.

    Returns
    -------
    ndarray
        Shape (3, h, w), normalised as at prediction; in some looks the ER or the microtubules are missing.
    """
    planes = sample.planes.astype(np.float32)
    planes *= _cell_gains(sample.cells, rng)
    if rng.random() < 0.5:
        planes[ER] *= _thinning(sample, rng)
    planes /= np.maximum(np.percentile(planes, 99, axis=(1, 2), keepdims=True), 1e-3)
    if rng.random() < 0.5:
        planes = planes + rng.uniform(0, 0.15, size=(INPUTS, 1, 1)).astype(np.float32) * planes[_LEAKS]
    planes += _haze(planes.shape, rng)
    planes *= _texture(sample, rng)
    planes = np.clip(planes, 0, None) ** np.exp(rng.normal(0, 0.25, size=(INPUTS, 1, 1))).astype(np.float32)
    if rng.random() < 0.4:
        planes = ndimage.gaussian_filter(planes, (0, *[rng.uniform(0, 1.3)] * 2))
    if rng.random() < 0.3:
        _add_debris(planes, rng)
    planes = _noisy(planes, rng)
    planes = np.clip(planes - rng.uniform(0, 0.04, size=(INPUTS, 1, 1)), 0, rng.uniform(0.8, 3.0, size=(INPUTS, 1, 1)))
    gain = np.exp(rng.normal(0, 0.1, size=(INPUTS, 1, 1)))
    seen = inner(planes.shape[1:], sample.blank_px)
    look = np.zeros(planes.shape, dtype=np.float32)
    look[:, *seen] = normalise(planes[:, *seen].astype(np.float32)) * gain
    known = sample.planes.any(axis=(1, 2))
    if (missing := rng.choice([MICROTUBULES, ER, -1], p=_MISSING)) >= 0 and known.all():
        look[missing] = 0
    look[~known] = 0
    return look


def _cell_gains(cells: NDArray[np.uint16], rng: np.random.Generator) -> Planes:
    # Neighbours differ: expression, thickness, focus.
    spread = rng.uniform(0, [[0.7], [0.4], [0.6]])
    gains = np.exp(rng.normal(0, 1, size=(INPUTS, int(cells.max()) + 1)) * spread).astype(np.float32)
    gains[:, 0] = 1
    return ndimage.gaussian_filter(gains[:, cells], (0, 0.7, 0.7)).astype(np.float32)


def _thinning(sample: Sample, rng: np.random.Generator) -> Planes:
    # Flat cells: the ER thins out towards the edge, in some to nothing.
    steep = rng.uniform(0, 2.5) * rng.uniform(0.5, 1.5, size=int(sample.cells.max()) + 1)
    faded: Planes = np.exp(-steep[sample.cells] * sample.reach.astype(np.float32)).astype(np.float32)
    return faded


def _smooth_field(shape: tuple[int, ...], grain_px: float, rng: np.random.Generator) -> Planes:
    # Coarse noise enlarged: many times cheaper than fine noise blurred.
    coarse = rng.normal(0, 1, size=(int(shape[1] / grain_px) + 2, int(shape[2] / grain_px) + 2, shape[0]))
    field = cv2.resize(coarse.astype(np.float32), (shape[2], shape[1]), interpolation=cv2.INTER_CUBIC)
    return np.moveaxis(field, 2, 0).astype(np.float32)


def _haze(shape: tuple[int, ...], rng: np.random.Generator) -> Planes:
    strength = rng.uniform(0, 0.06, size=(INPUTS, 1, 1)) * (rng.random((INPUTS, 1, 1)) < 0.5)
    haze: Planes = (strength * np.clip(1 + _smooth_field(shape, rng.uniform(15, 80), rng), 0, None)).astype(np.float32)
    return haze


def _texture(sample: Sample, rng: np.random.Generator) -> Planes:
    # Where the ER is thin it is a loose net: its grain grows towards the edge of the cell.
    strength = rng.uniform(0, 0.4, size=(INPUTS, 1, 1)) + np.zeros(sample.planes.shape)
    strength[ER] += rng.uniform(0, 0.8) * sample.reach
    texture: Planes = np.exp(strength * _smooth_field(strength.shape, rng.uniform(1.2, 5), rng)).astype(np.float32)
    return texture


def _add_debris(planes: Planes, rng: np.random.Generator) -> None:
    spots = np.zeros(planes.shape, dtype=np.float32)
    n = int(rng.integers(1, 12))
    rows, columns = rng.integers(planes.shape[1], size=n), rng.integers(planes.shape[2], size=n)
    spots[rng.integers(INPUTS, size=n), rows, columns] = rng.uniform(3, 40, size=n)
    planes += ndimage.gaussian_filter(spots, (0, *[rng.uniform(0.6, 1.8)] * 2))


def _noisy(planes: Planes, rng: np.random.Generator) -> Planes:
    read, shot = rng.uniform(0, 0.04, size=2)
    noise = rng.normal(0, 1, size=planes.shape) * (read + shot * np.sqrt(np.clip(planes, 0, None)))
    noisy: Planes = planes + noise.astype(np.float32)
    return noisy

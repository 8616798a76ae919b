"""Randomise the appearance and orientation of synthetic images, so that a network learns shapes and not one stain."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segment.inference.preprocess import compact_input, normalise
from segment.network.compact import ER, INPUTS, JOINED, MICROTUBULES, NUCLEUS_PLANE
from segment.postprocess.labels import bounding_boxes

Planes = NDArray[np.float32]

_LEAK_FROM = [NUCLEUS_PLANE, ER, ER]  # the plane that leaks into ER, nucleus and microtubules
_VIEWS = (0.45, 0.12, 0.25, 0.18)  # of ER alone, microtubules alone, the maximum of both, and both apart


@dataclass(frozen=True)
class Sample:
    """A training image at the network's scale, with its ground truth.

    Parameters
    ----------
    planes
        Shape (3, h, w), float16: ER, nucleus, microtubules.
    cells, nuclei
        Shape (h, w), uint16, labels.
    flows
        Shape (2, h, w), float16, flow rows and flow columns.
    core
        Shape (h, w), bool, cores of nuclei.
    nucleus_distance
        Shape (h, w), float16, distance from the nucleus, relative to the farthest pixel of the cell.
    blank_px
        Width of the empty rim.
    """

    planes: NDArray[np.float16]
    cells: NDArray[np.uint16]
    nuclei: NDArray[np.uint16]
    flows: NDArray[np.float16]
    core: NDArray[np.bool_]
    nucleus_distance: NDArray[np.float16]
    blank_px: int = 0


def nucleus_distance(cells: NDArray[np.integer[Any]], nuclei: NDArray[np.integer[Any]]) -> NDArray[np.float16]:
    """Compute each pixel's distance from the nucleus of its cell, relative to the farthest pixel of the cell.

    Parameters
    ----------
    cells, nuclei
        Shape (H, W); a nucleus carries the label of its cell.

    Returns
    -------
    ndarray
        Shape (H, W), float16, in [0, 1]; 0 in the background and in cells without a nucleus.
    """
    relative = np.zeros(cells.shape, dtype=np.float16)
    for label, window in bounding_boxes(cells):
        own, nucleus = cells[window] == label, nuclei[window] == label
        if not nucleus.any():
            continue
        distance = ndimage.distance_transform_edt(~nucleus)
        relative[window][own] = (distance / max(1.0, distance[own].max()))[own]
    return relative


def inside_rim(shape: tuple[int, ...], rim_px: int) -> tuple[slice, slice]:
    """Return the window inside the rim of an image of this height and width."""
    height, width = shape
    return slice(rim_px, height - rim_px), slice(rim_px, width - rim_px)


def clear_rim(labels: NDArray[np.uint16], rim_px: int) -> NDArray[np.uint16]:
    """Return labels of shape (H, W) with the rim set to 0."""
    kept = np.zeros_like(labels)
    kept[inside_rim(labels.shape, rim_px)] = labels[inside_rim(labels.shape, rim_px)]
    return kept


def augment(sample: Sample, rng: np.random.Generator) -> tuple[Planes, Planes]:
    """Draw an appearance and an orientation of a sample.

    Returns
    -------
    planes
        Shape (3, h, w), the network input.
    target
        Shape (5, h, w): nucleus, core of a nucleus, cell, flow rows, flow columns.
    """
    planes = restyle(sample, rng)
    flags = np.stack([sample.nuclei > 0, sample.core, sample.cells > 0])
    target = np.concatenate([flags.astype(np.float32), sample.flows.astype(np.float32)])
    for axis in (1, 2):
        if rng.random() < 0.5:
            planes, target = np.flip(planes, axis), np.flip(target, axis).copy()
            target[2 + axis] *= -1  # a flow along a flipped axis reverses its sign
    if rng.random() < 0.5:
        planes, target = planes.swapaxes(1, 2), target.swapaxes(1, 2)[[0, 1, 2, 4, 3]]
    return np.ascontiguousarray(planes), np.ascontiguousarray(target)


def restyle(sample: Sample, rng: np.random.Generator) -> Planes:
    """Draw an appearance of a sample.

    Parameters
    ----------
    sample
        The image.
    rng
        Source of all random draws.

    Returns
    -------
    ndarray
        Shape (3, h, w), normalised and as the network takes them in use; the ER or the microtubules may be set to 0, or
        replaced by the maximum of both.
    """
    planes = sample.planes.astype(np.float32)
    planes *= _cell_gains(sample.cells, rng)
    if rng.random() < 0.5:
        planes[ER] *= _thinning(sample, rng)
    planes /= np.maximum(np.percentile(planes, 99, axis=(1, 2), keepdims=True), 1e-3)
    if rng.random() < 0.5:
        planes = planes + rng.uniform(0, 0.15, size=(INPUTS, 1, 1)).astype(np.float32) * planes[_LEAK_FROM]
    planes += _haze(planes.shape, rng)
    planes *= _texture(sample, rng)
    planes = np.clip(planes, 0, None) ** np.exp(rng.normal(0, 0.25, size=(INPUTS, 1, 1))).astype(np.float32)
    if rng.random() < 0.4:
        planes = ndimage.gaussian_filter(planes, (0, *[rng.uniform(0, 1.3)] * 2))
    if rng.random() < 0.3:
        _add_debris(planes, rng)
    planes = _add_noise(planes, rng)
    planes = np.clip(planes - rng.uniform(0, 0.04, size=(INPUTS, 1, 1)), 0, rng.uniform(0.8, 3.0, size=(INPUTS, 1, 1)))
    gain = np.exp(rng.normal(0, 0.1, size=(INPUTS, 1, 1)))
    window = inside_rim(planes.shape[1:], sample.blank_px)
    restyled = np.zeros(planes.shape, dtype=np.float32)
    restyled[:, *window] = normalise(planes[:, *window].astype(np.float32)) * gain
    present = sample.planes.any(axis=(1, 2))
    if present.all():
        view = rng.choice(4, p=_VIEWS)
        if view == 2:
            restyled[JOINED] = restyled[[ER, MICROTUBULES]].max(axis=0)
        if view < 3:
            restyled[MICROTUBULES if view == 0 else ER] = 0
    restyled[~present] = 0
    restyled[:, *window] = compact_input(restyled[:, *window])
    return restyled


def _cell_gains(cells: NDArray[np.uint16], rng: np.random.Generator) -> Planes:
    # Neighbouring cells differ in expression, thickness and focus.
    spread = rng.uniform(0, [[0.7], [0.4], [0.6]])
    gains = np.exp(rng.normal(0, 1, size=(INPUTS, int(cells.max()) + 1)) * spread).astype(np.float32)
    gains[:, 0] = 1
    return ndimage.gaussian_filter(gains[:, cells], (0, 0.7, 0.7)).astype(np.float32)


def _thinning(sample: Sample, rng: np.random.Generator) -> Planes:
    # In flat cells the ER thins out towards the edge, in some of them completely.
    slope = rng.uniform(0, 2.5) * rng.uniform(0.5, 1.5, size=int(sample.cells.max()) + 1)
    factor: Planes = np.exp(-slope[sample.cells] * sample.nucleus_distance.astype(np.float32)).astype(np.float32)
    return factor


def _smooth_field(shape: tuple[int, ...], grain_px: float, rng: np.random.Generator) -> Planes:
    # Enlarging coarse noise is many times cheaper than blurring fine noise.
    coarse = rng.normal(0, 1, size=(int(shape[1] / grain_px) + 2, int(shape[2] / grain_px) + 2, shape[0]))
    field = cv2.resize(coarse.astype(np.float32), (shape[2], shape[1]), interpolation=cv2.INTER_CUBIC)
    return np.moveaxis(field, 2, 0).astype(np.float32)


def _haze(shape: tuple[int, ...], rng: np.random.Generator) -> Planes:
    strength = rng.uniform(0, 0.06, size=(INPUTS, 1, 1)) * (rng.random((INPUTS, 1, 1)) < 0.5)
    haze: Planes = (strength * np.clip(1 + _smooth_field(shape, rng.uniform(15, 80), rng), 0, None)).astype(np.float32)
    return haze


def _texture(sample: Sample, rng: np.random.Generator) -> Planes:
    # Where the ER is thin, it is a loose net: its grain grows towards the edge of the cell.
    strength = rng.uniform(0, 0.4, size=(INPUTS, 1, 1)) + np.zeros(sample.planes.shape)
    strength[ER] += rng.uniform(0, 0.8) * sample.nucleus_distance
    texture: Planes = np.exp(strength * _smooth_field(strength.shape, rng.uniform(1.2, 5), rng)).astype(np.float32)
    return texture


def _add_debris(planes: Planes, rng: np.random.Generator) -> None:
    spots = np.zeros(planes.shape, dtype=np.float32)
    n = int(rng.integers(1, 12))
    rows, columns = rng.integers(planes.shape[1], size=n), rng.integers(planes.shape[2], size=n)
    spots[rng.integers(INPUTS, size=n), rows, columns] = rng.uniform(3, 40, size=n)
    planes += ndimage.gaussian_filter(spots, (0, *[rng.uniform(0.6, 1.8)] * 2))


def _add_noise(planes: Planes, rng: np.random.Generator) -> Planes:
    read, shot = rng.uniform(0, 0.04, size=2)
    noise = rng.normal(0, 1, size=planes.shape) * (read + shot * np.sqrt(np.clip(planes, 0, None)))
    noisy: Planes = planes + noise.astype(np.float32)
    return noisy

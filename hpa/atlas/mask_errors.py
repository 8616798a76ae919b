"""Disturb true masks as segmentation errs: shifted outlines, merged, divided, incomplete and missing cells."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.atlas.geometry.field import depth
from hpa.atlas.noise import smooth_noise

Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class MaskErrors:
    """How often and how far masks err. Lengths are in px of a frame of 512 px.

    Parameters
    ----------
    image_shift_px, cell_shift_px
        Standard deviation of the outward shift of all outlines of an image, and of one cell's beside that.
    rough_px
        Standard deviation of the local shift along an outline.
    merged
        Share of the pairs of touching cells that become one.
    divided
        Share of the cells that become two.
    incomplete
        Share of the cells that lose a part of 15 to 45%.
    missing
        Share of the cells without a mask.
    """

    image_shift_px: float
    cell_shift_px: float
    rough_px: float
    merged: float
    divided: float
    incomplete: float
    missing: float


MEASURED: Final = MaskErrors(
    image_shift_px=0.9, cell_shift_px=0.9, rough_px=1.6, merged=0.015, divided=0.009, incomplete=0.016, missing=0.001
)
"""Errors of the segment stage on drawn images; ``python -m bench.crops mask_errors`` compares both. Shifts are
from the median along each outline, which lost parts do not pull."""

LEAST_CONTACT_PX: Final = 8
"""Cells with so long a common border can be merged."""


def disturb_masks(
    rng: np.random.Generator, cells: Labels, nuclei: Labels, errors: MaskErrors = MEASURED
) -> tuple[Labels, Labels, list[tuple[int, ...]]]:
    """Disturb the masks of an image.

    Parameters
    ----------
    rng
        Random number generator.
    cells, nuclei
        Label images, uint16 (H, W); a nucleus carries the label of its cell.
    errors
        How often and how far masks err.

    Returns
    -------
    cells, nuclei
        The disturbed label images with labels 1..m.
    sources
        For each of the m cells, the labels of the true cells that it shows: one, or two that are merged.
    """
    scale = cells.shape[0] / 512
    number = int(cells.max())
    became, single = np.arange(number + 1), np.ones(number + 1, bool)
    for first, second in _touching(cells, LEAST_CONTACT_PX * scale):
        if rng.random() < errors.merged and single[first] and single[second]:
            became[second] = first
            single[[first, second]] = False
    became[1:][rng.random(number) < errors.missing] = 0
    labels = _shift(rng, became[cells].astype(np.uint16), number, errors, scale)
    origin = np.arange(number + 1)
    parts = np.flatnonzero(rng.random(number) < errors.divided) + 1
    cut = np.flatnonzero(rng.random(number) < errors.incomplete) + 1
    for label in parts.tolist():
        side = _side(rng, labels, label, rng.uniform(0.3, 0.5))
        labels.flat[side] = len(origin)
        origin = np.append(origin, label)
    for label in cut.tolist():
        labels.flat[_side(rng, labels, label, rng.uniform(0.15, 0.45))] = 0
    kept = np.flatnonzero(np.bincount(labels.ravel(), minlength=len(origin))[1:]) + 1
    renumber = np.zeros(len(origin), np.uint16)
    renumber[kept] = np.arange(1, len(kept) + 1)
    labels = renumber[labels]
    sources = [tuple(int(label) for label in np.flatnonzero(became == origin[k]) if label) for k in kept]
    return labels, np.where(nuclei > 0, labels, 0).astype(np.uint16), sources


def _touching(cells: Labels, contact_px: float) -> list[tuple[int, int]]:
    """Return the pairs of labels that have a common border of at least this length."""
    codes = []
    for one, two in ((cells[:-1], cells[1:]), (cells[:, :-1], cells[:, 1:])):
        meet = (one != two) & (one > 0) & (two > 0)
        low, high = np.minimum(one[meet], two[meet]), np.maximum(one[meet], two[meet])
        codes.append(low.astype(np.int64) << 16 | high)
    pairs, length = np.unique(np.concatenate(codes), return_counts=True)
    return [(int(code) >> 16, int(code) & 0xFFFF) for code in pairs[length >= contact_px]]


def _shift(rng: np.random.Generator, labels: Labels, number: int, errors: MaskErrors, scale: float) -> Labels:
    """Move outlines: locally in any direction, and each cell's inwards or outwards into the background."""
    height, width = labels.shape
    rows, columns = (
        np.float32(errors.rough_px * scale) * smooth_noise(rng, labels.shape, 14 * scale) for _ in range(2)
    )
    columns += np.arange(width, dtype=np.float32)
    rows += np.arange(height, dtype=np.float32)[:, None]
    labels = np.asarray(
        cv2.remap(labels, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE), dtype=np.uint16
    )
    outward = rng.normal(0, errors.image_shift_px) + rng.normal(0, errors.cell_shift_px, number + 1)
    outward = (outward * scale).astype(np.float32)
    inner = depth(labels.astype(np.int32))
    away, nearest = cv2.distanceTransformWithLabels(
        (labels == 0).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    if not labels.any():
        return labels
    of_pixel = np.zeros(int(nearest.max()) + 1, np.uint16)
    inside = labels > 0
    of_pixel[nearest[inside]] = labels[inside]
    grown = of_pixel[nearest]
    keeps = np.where(inside, inner >= -outward[grown], away <= outward[grown] + 0.5)
    return np.where(keeps, grown, 0).astype(np.uint16)


def _side(rng: np.random.Generator, labels: Labels, label: int, share: float) -> NDArray[np.int64]:
    """Return the pixels of a cell that lie beyond a line at a random angle, this share of them."""
    pixels = np.flatnonzero(labels == label)
    if len(pixels) == 0:
        return pixels
    rows, columns = np.divmod(pixels, labels.shape[1])
    turn = rng.uniform(0, 2 * np.pi)
    along = rows * np.sin(turn) + columns * np.cos(turn)
    return np.asarray(pixels[along > np.quantile(along, 1 - share)], dtype=np.int64)

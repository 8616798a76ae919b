"""Outlines of cells, nuclei and condensed chromosomes, as a relative distance that is 1 on the outline."""

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.atlas.geometry.field import METAPHASE, PROMETAPHASE, Population
from hpa.atlas.noise import Image
from hpa.atlas.styles import CellLine

ANGLES = 256
"""Number of directions in which the radius of an outline is given."""


def window_around(centre: NDArray[np.float32], half: float, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """Return the part of the frame within `half` px of `centre`, or None if there is none.

    Parameters
    ----------
    centre
        Row and column in px, shape (2,).
    half
        Half the side of the part, in px.
    shape
        Height and width of the frame in px.
    """
    low = np.maximum(np.floor(centre - half), 0).astype(int)
    high = np.minimum(np.ceil(centre + half) + 1, shape).astype(int)
    if (high - low < 2).any():
        return None
    return slice(low[0], high[0]), slice(low[1], high[1])


def metric(
    here: tuple[Image, Image],
    centre: NDArray[np.float32],
    radius_px: float,
    elongation: float,
    angle: float,
    outline: Image,
) -> Image:
    """Compute the relative distance of each pixel: 0 at the centre, 1 on the outline.

    Parameters
    ----------
    here
        Rows and columns of the pixels, float32, of equal shape.
    centre
        Row and column in px, shape (2,).
    radius_px
        Radius of a circle of equal area.
    elongation, angle
        Ratio of the long to the short axis, and direction of the long axis in radians.
    outline
        Relative radius in each of 256 directions, around 1.

    Returns
    -------
    ndarray
        Float32, of the shape of the pixels.
    """
    rows, columns = here[0] - centre[0], here[1] - centre[1]
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    root = np.float32(np.sqrt(elongation))
    along = (columns * cosine + rows * sine) / (root * np.float32(radius_px))
    across = (rows * cosine - columns * sine) * (root / np.float32(radius_px))
    distance, turn = cv2.cartToPolar(along, across)
    index = (turn * np.float32(ANGLES / (2 * np.pi))).astype(np.int32) % ANGLES
    return np.asarray(distance / outline[index], dtype=np.float32)


def outline_of_cell(rng: np.random.Generator, line: CellLine, dividing: bool) -> Image:
    """Draw a cell's outline as the relative radius in each of 256 directions, around 1.

    Parameters
    ----------
    rng
        Random number generator.
    line
        Cell line, which determines lobes and processes.
    dividing
        Whether the cell divides; a dividing cell is rounder and has no processes.
    """
    turn = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    amplitude = (0.25 if dividing else 1.0) * line.lobes * rng.normal(0, 1, 6) / np.array([1.2, 1.2, 1.4, 2, 2.5, 3])
    phase = rng.uniform(0, 2 * np.pi, 6)
    radius = np.exp((amplitude[:, None] * np.cos(np.arange(1, 7)[:, None] * turn + phase[:, None])).sum(axis=0))
    for _ in range(0 if dividing else rng.poisson(line.processes)):
        # thin processes extend along the long axis more often than across it
        where = rng.choice([0, np.pi]) + rng.normal(0, 0.7)
        off = np.angle(np.exp(1j * (turn - where)))
        radius += rng.uniform(0.3, 1.0) * np.exp(-(np.abs(off / rng.uniform(0.10, 0.25)) ** 1.3))
    return np.asarray(np.clip(radius, 0.45, 2.4), dtype=np.float32)


def outline_of_nucleus(rng: np.random.Generator, line: CellLine) -> Image:
    """Draw a nucleus's outline: a slightly distorted ellipse, sometimes with dents that make it lobed or a bean."""
    turn = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    amplitude = line.nucleus_lobes * rng.normal(0, 0.5, 3) / np.array([1, 1.3, 1.8])
    phase = rng.uniform(0, 2 * np.pi, 3)
    radius = np.exp((amplitude[:, None] * np.cos(np.arange(2, 5)[:, None] * turn + phase[:, None])).sum(axis=0))
    for _ in range(rng.poisson(6 * line.nucleus_lobes)):
        off = np.angle(np.exp(1j * (turn - rng.uniform(0, 2 * np.pi))))
        radius *= 1 - rng.uniform(0.05, 0.40) * np.exp(-((off / rng.uniform(0.25, 0.7)) ** 2))
    return np.asarray(np.clip(radius / np.sqrt((radius**2).mean()), 0.4, 1.6), dtype=np.float32)


def parts_of_nucleus(
    rng: np.random.Generator, line: CellLine, centre: NDArray[np.float32], radius_px: float
) -> list[tuple[NDArray[np.float32], float]]:
    """Draw the parts of a nucleus: centre and radius of each.

    Most nuclei have one part. Some cells have two or three nuclei, touching or apart; they are more frequent in lines
    with lobed nuclei.

    Parameters
    ----------
    rng
        Random number generator.
    line
        Cell line, which determines how lobed nuclei are.
    centre
        Row and column of the nucleus in px, shape (2,).
    radius_px
        Radius of the whole nucleus.
    """
    parts = [(centre, radius_px)]
    while len(parts) < 3 and rng.random() < 0.05 + 0.5 * line.nucleus_lobes:
        last, size = parts[-1]
        first, second = size * rng.uniform(0.75, 0.95), size * rng.uniform(0.45, 0.9)
        turn = rng.uniform(0, 2 * np.pi)
        apart = (first + second) * rng.uniform(0.7, 1.2) * np.array([np.sin(turn), np.cos(turn)])
        parts[-1] = ((last - apart * 0.4).astype(np.float32), float(first))
        parts.append(((last + apart * 0.6).astype(np.float32), float(second)))
    return parts


def chromosomes(here: tuple[Image, Image], cells: Population, index: int) -> Image:
    """Compute the relative distance for condensed chromosomes: a clump, a plate across the axis, or two parting plates.

    Parameters
    ----------
    here
        Rows and columns of the pixels, float32, of equal shape.
    cells
        The cells of the field.
    index
        Index of the cell.

    Returns
    -------
    ndarray
        Float32, of the shape of the pixels: 0 inside, 1 on the outline.
    """
    rows, columns = here[0] - cells.centre[index][0], here[1] - cells.centre[index][1]
    sine, cosine = np.sin(cells.angle[index]), np.cos(cells.angle[index])
    along, across = columns * cosine + rows * sine, rows * cosine - columns * sine
    size = np.float32(cells.nucleus_px[index])
    if cells.stage[index] == PROMETAPHASE:
        return np.asarray(np.hypot(along, across) / (0.8 * size), dtype=np.float32)
    if cells.stage[index] == METAPHASE:
        return np.asarray(np.hypot(along / (0.30 * size), across / (0.95 * size)), dtype=np.float32)
    apart = np.abs(along) - 0.62 * size + 0.25 * across**2 / size
    return np.asarray(np.hypot(apart / (0.22 * size), across / (0.80 * size)), dtype=np.float32)

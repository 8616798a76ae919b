"""Outlines of cells, nuclei and condensed chromosomes, as a relative distance that is 1 on the outline."""

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.atlas.geometry.field import FAN, LOBED, METAPHASE, POLYGON, PROMETAPHASE, SPINDLE, Population
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


def outline_of_cell(rng: np.random.Generator, line: CellLine, form: int, dividing: bool) -> Image:
    """Draw a cell's outline as the relative radius in each of 256 directions, around 1.

    Parameters
    ----------
    rng
        Random number generator.
    line
        Cell line, which determines lobes and processes.
    form
        Form of the cell, as in `hpa.atlas.geometry.field`.
    dividing
        Whether the cell divides; a dividing cell is rounder and has no processes.
    """
    turn = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    calm = 0.25 if dividing else 1.0 if form == LOBED else 0.5
    amplitude = calm * line.lobes * rng.normal(0, 1, 6) / np.array([1.2, 1.2, 1.4, 2, 2.5, 3])
    phase = rng.uniform(0, 2 * np.pi, 6)
    radius = np.exp((amplitude[:, None] * np.cos(np.arange(1, 7)[:, None] * turn + phase[:, None])).sum(axis=0))
    if form == POLYGON:
        radius *= polygon(rng, turn)
    elif form == SPINDLE:
        power = rng.uniform(1.1, 1.8)
        radius *= (np.abs(np.cos(turn)) ** power + np.abs(np.sin(turn)) ** power) ** (-1 / power)
    elif form == FAN:
        width, power = rng.uniform(0.7, 1.1), rng.uniform(2, 5)
        radius *= 0.75 + rng.uniform(0.4, 0.8) * np.exp(-((np.abs(np.angle(np.exp(1j * turn))) / width) ** power))
    radius /= np.sqrt((radius**2).mean())
    for _ in range(0 if dividing else rng.poisson(line.processes)):
        # thin processes extend along the long axis more often than across it
        where = rng.choice([0, np.pi]) + rng.normal(0, 0.7)
        off = np.angle(np.exp(1j * (turn - where)))
        radius += rng.uniform(0.3, 1.0) * np.exp(-(np.abs(off / rng.uniform(0.10, 0.25)) ** 1.3))
    return np.asarray(np.clip(radius, 0.4, 2.4), dtype=np.float32)


def polygon(rng: np.random.Generator, turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw the relative radius of a polygon of three to six corners, whose sides are straight, hollow or bulging.

    Parameters
    ----------
    rng
        Random number generator.
    turn
        Directions in radians, in rising order from 0, float64 (A,).

    Returns
    -------
    ndarray
        Float64 (A,).
    """
    number = int(rng.integers(3, 7))
    corner = (np.arange(number) + rng.uniform(-0.2, 0.2, number)) * (2 * np.pi / number)
    inverse = rng.lognormal(0, 0.22, number)
    hollow = rng.uniform(-0.45, 0.15, number)
    side = np.searchsorted(corner, turn, side="right") - 1
    first, last = corner[side], np.append(corner[1:], corner[0] + 2 * np.pi)[side]
    from_first = (turn - first) % (2 * np.pi)
    width = (last - first) % (2 * np.pi)
    # a straight line in polar coordinates is a sinusoid in 1 / radius
    straight = inverse[side] * np.sin(width - from_first) + inverse[(side + 1) % number] * np.sin(from_first)
    return np.asarray(
        np.sin(width) / (straight * (1 + hollow[side] * np.sin(np.pi * from_first / width))), dtype=np.float64
    )


def outline_of_nucleus(rng: np.random.Generator, line: CellLine) -> Image:
    """Draw a nucleus's outline: a slightly distorted ellipse; in some lines often a kidney, lobed or folded."""
    turn = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    amplitude = (0.02 + 0.7 * line.nucleus_lobes) * rng.normal(0, 0.5, 3) / np.array([1, 1.3, 1.8])
    phase = rng.uniform(0, 2 * np.pi, 3)
    radius = np.exp((amplitude[:, None] * np.cos(np.arange(2, 5)[:, None] * turn + phase[:, None])).sum(axis=0))
    dents = [(rng.uniform(0.05, 0.35), rng.uniform(0.12, 0.6)) for _ in range(rng.poisson(4 * line.nucleus_lobes))]
    if rng.random() < 0.01 + 0.6 * line.nucleus_lobes:
        dents.append((rng.uniform(0.35, 0.7), rng.uniform(0.3, 0.7)))
    for depth, width in dents:
        off = np.angle(np.exp(1j * (turn - rng.uniform(0, 2 * np.pi))))
        radius *= 1 - depth * np.exp(-((off / width) ** 2))
    return np.asarray(np.clip(radius / np.sqrt((radius**2).mean()), 0.3, 1.6), dtype=np.float32)


def parts_of_nucleus(
    rng: np.random.Generator, line: CellLine, centre: NDArray[np.float32], radius_px: float
) -> list[tuple[NDArray[np.float32], float]]:
    """Draw the parts of a nucleus: centre and radius of each.

    Most nuclei have one part. Some consist of two or three lobes, some cells have two nuclei side by side, and a few a
    micronucleus. Lobes are more frequent in lines with lobed nuclei.

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

    def beside(size: float, gap: float, turn: float) -> NDArray[np.float64]:
        return (size + gap) * np.array([np.sin(turn), np.cos(turn)])

    draw, turn = rng.random(), float(rng.uniform(0, 2 * np.pi))
    if draw < line.double:  # two nuclei
        first, second = radius_px * rng.uniform(0.75, 0.9), radius_px * rng.uniform(0.6, 0.9)
        apart = beside(first + second, float(rng.uniform(-0.05, 0.6)) * radius_px, turn)
        return [((centre - 0.5 * apart).astype(np.float32), first), ((centre + 0.5 * apart).astype(np.float32), second)]
    if draw < line.double + 0.02 + 0.9 * line.nucleus_lobes:  # lobes
        parts = [(centre, radius_px * float(rng.uniform(0.65, 0.85)))]
        for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
            last, size = parts[-1]
            lobe = radius_px * float(rng.uniform(0.4, 0.75))
            turn += float(rng.normal(0, 0.9))
            parts.append(
                ((last + beside((size + lobe) * float(rng.uniform(0.6, 0.85)), 0, turn)).astype(np.float32), lobe)
            )
        shift = np.mean([at for at, _ in parts], axis=0) - centre
        return [((at - shift).astype(np.float32), size) for at, size in parts]
    if draw > 0.98:  # a micronucleus
        small = radius_px * float(rng.uniform(0.15, 0.3))
        return [
            (centre, radius_px),
            ((centre + beside(radius_px + small, 0.1 * radius_px, turn)).astype(np.float32), small),
        ]
    return [(centre, radius_px)]


def join(first: Image, second: Image) -> Image:
    """Unite two shapes given as relative distances, with a rounded notch where they meet."""
    apart = np.clip(0.5 + (second - first) / 0.3, 0, 1)
    return np.asarray(second + (first - second) * apart - 0.075 * apart * (1 - apart), dtype=np.float32)


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

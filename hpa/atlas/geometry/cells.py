"""Fill a field of view with cells: positions, divisions, and the outlines of cells and nuclei."""

from dataclasses import replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected

from hpa.atlas.geometry import outlines
from hpa.atlas.geometry.field import (
    ANAPHASE,
    FAN,
    INTERPHASE,
    LOBED,
    METAPHASE,
    POLYGON,
    PROMETAPHASE,
    SPINDLE,
    TELOPHASE,
    Field,
    Population,
)
from hpa.atlas.noise import smooth_noise
from hpa.atlas.styles import CellLine, as_imaged

ENSURED_ABOVE = 0.05
"""Above this share of dividing cells, at least one cell near the middle is made to divide."""


def grow_field(
    rng: np.random.Generator, line: CellLine, shape: tuple[int, int], *, dividing: float, telophase: float
) -> Field:
    """Fill a frame with cells of one line.

    Parameters
    ----------
    rng
        Random number generator.
    line
        Style of the cells.
    shape
        Height and width in px; the field of view is the same at every size.
    dividing, telophase
        Share of the cells in mitosis, and of those that have just divided.

    Returns
    -------
    Field
        The cells and their outlines.
    """
    scale = shape[0] / 512
    line = as_imaged(rng, line)
    population = _place(rng, line, shape, scale)
    population = _pair(rng, line, population)
    middle = np.linalg.norm(population.centre - np.array(shape) / 2, axis=1)
    population = _divide(rng, population, dividing, telophase, np.argsort(middle))
    owner, nuclei = _outline(rng, line, population, shape, scale)
    owner = _keep_nucleated_piece(owner, nuclei)
    nuclei = np.where(nuclei == owner, nuclei, 0).astype(np.int32)
    return Field(line, scale, population, owner, nuclei)


def _place(rng: np.random.Generator, line: CellLine, shape: tuple[int, int], scale: float) -> Population:
    """Place cells in the frame and a margin around it, each at the best of 24 random positions away from the others."""
    diameter = line.diameter_px * scale
    margin = 0.7 * diameter * np.sqrt(line.elongation)
    extent = np.array(shape) + 2 * margin
    count = max(2, int(line.coverage * extent.prod() / (np.pi / 4 * diameter**2 * np.exp(2 * line.spread**2))))
    islands = smooth_noise(rng, (64, 64), 26)
    radius = (diameter / 2 * rng.lognormal(0, line.spread, count)).astype(np.float32)
    centre = np.zeros((count, 2), np.float32)
    for index in range(count):
        tries = rng.random((24, 2)) * extent - margin
        grid = np.clip((tries + margin) / extent * 64, 0, 63).astype(int)
        score = 0.105 * line.clumping * islands[grid[:, 0], grid[:, 1]]
        if index:
            gap = np.linalg.norm(tries[:, None] - centre[None, :index], axis=2) / (radius[:index] + radius[index])
            score = score + 3.5 * np.minimum(gap.min(axis=1), 1.6)
        centre[index] = tries[score.argmax()]
    drift = smooth_noise(rng, (64, 64), 40)
    grid = np.clip((centre + margin) / extent * 64, 0, 63).astype(int)
    common = rng.uniform(0, np.pi) + 0.5 * drift[grid[:, 0], grid[:, 1]]
    angle = common + (1 - line.alignment) * rng.uniform(-np.pi / 2, np.pi / 2, count)
    elongation = 1 + (line.elongation - 1) * rng.lognormal(0, 0.45, count)
    draw = rng.random(count)
    form = np.where(draw < line.angular, POLYGON, LOBED).astype(np.int8)
    form[elongation > 2.5] = SPINDLE
    form[draw > 1 - line.fans] = FAN
    elongation[form == FAN] = rng.uniform(1, 1.3, int((form == FAN).sum()))
    nucleus_px = 0.79 * radius * line.nucleus * rng.lognormal(0, 0.10, count) * (radius / np.median(radius)) ** -0.5
    shift = rng.normal(0, 0.13, (count, 2)) * radius[:, None]
    # the nucleus of a fan lies away from its lamella
    shift -= (0.3 * radius * (form == FAN))[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return Population(
        centre=centre,
        nucleus=(centre + shift).astype(np.float32),
        radius_px=radius,
        nucleus_px=nucleus_px.astype(np.float32),
        angle=angle.astype(np.float32),
        elongation=elongation.astype(np.float32),
        stage=np.zeros(count, np.int8),
        form=form,
        sister=np.full(count, -1, np.int32),
    )


def _pair(rng: np.random.Generator, line: CellLine, cells: Population) -> Population:
    """Replace some cells by two small ones side by side, whose nuclei are close but apart."""
    mothers = rng.random(len(cells)) < line.pairs
    index = np.concatenate([np.arange(len(cells)), np.flatnonzero(mothers)])
    pair = mothers[index]
    side = np.where(np.arange(len(index)) < len(cells), -1.0, 1.0) * pair
    turn = (cells.angle + np.pi / 2 + rng.normal(0, 0.4, len(cells)))[index]
    axis = np.stack([np.sin(turn), np.cos(turn)], axis=1)
    radius = cells.radius_px[index] * np.where(pair, rng.uniform(0.62, 0.8, len(index)), 1)
    nucleus_px = cells.nucleus_px[index] * np.where(pair, rng.uniform(0.72, 0.9, len(index)), 1)
    gap = rng.uniform(0.08, 0.9, len(cells))[index]
    apart = (side * nucleus_px * (1 + gap / 2))[:, None] * axis
    elongation = np.where(pair, 1 + 0.5 * (cells.elongation[index] - 1), cells.elongation[index])
    return Population(
        # the cytoplasm lies around the nucleus and away from the sister
        centre=(cells.centre[index] + apart + (0.25 * side * (radius - nucleus_px))[:, None] * axis).astype(np.float32),
        nucleus=(np.where(pair[:, None], cells.centre[index], cells.nucleus[index]) + apart).astype(np.float32),
        radius_px=radius.astype(np.float32),
        nucleus_px=nucleus_px.astype(np.float32),
        angle=cells.angle[index],
        elongation=elongation.astype(np.float32),
        stage=cells.stage[index],
        form=np.where(pair, LOBED, cells.form[index]).astype(np.int8),
        sister=cells.sister[index],
    )


def _divide(
    rng: np.random.Generator, cells: Population, dividing: float, telophase: float, innermost: NDArray[np.int64]
) -> Population:
    """Round up some cells and condense their chromosomes, and place some pairs of sister cells side by side.

    If the requested share is above `ENSURED_ABOVE`, one of the `innermost` cells always divides.
    """
    stage, sister = cells.stage.copy(), cells.sister.copy()
    centre, nucleus = cells.centre.copy(), cells.nucleus.copy()
    radius, elongation, angle = cells.radius_px.copy(), cells.elongation.copy(), cells.angle.copy()
    nucleus_px, form = cells.nucleus_px.copy(), cells.form.copy()
    mitotic = rng.random(len(cells)) < dividing
    stage[mitotic] = rng.choice([PROMETAPHASE, METAPHASE, METAPHASE, ANAPHASE], int(mitotic.sum()))
    if dividing > ENSURED_ABOVE:
        mitotic[innermost[:1]] = True
        stage[innermost[:1]] = METAPHASE
    radius[mitotic] *= 0.72
    elongation[mitotic] = 1.08
    nucleus[mitotic] = centre[mitotic]
    form[mitotic] = LOBED
    angle[mitotic] = rng.uniform(0, np.pi, int(mitotic.sum()))
    mothers = (rng.random(len(cells)) < telophase) & ~mitotic
    if telophase > ENSURED_ABOVE:
        mothers[innermost[1:2]] = True
    for mother in np.flatnonzero(mothers):
        others = np.linalg.norm(centre - centre[mother], axis=1)
        others[(stage != INTERPHASE) | (np.arange(len(cells)) == mother)] = np.inf
        other = int(others.argmin())
        if stage[mother] != INTERPHASE or not np.isfinite(others[other]):
            continue
        pair = [int(mother), other]
        stage[pair], sister[pair] = TELOPHASE, pair[::-1]
        radius[pair] = radius[mother] * 0.75
        nucleus_px[pair] = nucleus_px[mother] * 0.82
        elongation[pair], form[pair] = 1.15, LOBED
        turn = float(rng.uniform(0, np.pi))
        apart = 2.25 * radius[mother] * np.array([np.sin(turn), np.cos(turn)])
        centre[other] = centre[mother] + apart
        nucleus[pair] = centre[pair]
        angle[pair] = turn + np.pi / 2
    return replace(
        cells, centre=centre, nucleus=nucleus, radius_px=radius, nucleus_px=nucleus_px,
        elongation=elongation, angle=angle, stage=stage, form=form, sister=sister,
    )  # fmt: skip


def _outline(
    rng: np.random.Generator, line: CellLine, cells: Population, shape: tuple[int, int], scale: float
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Draw every outline, where each pixel belongs to the nearest cell: owner and nuclei of `Field`."""
    rows, columns = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    # wide bends of whole cells that leave their nuclei in place, and finer folds of the outline
    bend = [6 * scale * smooth_noise(rng, shape, 80 * scale) for _ in range(2)]
    rows += bend[0]
    columns += bend[1]
    slow = [2.0 * scale * smooth_noise(rng, shape, 22 * scale) for _ in range(2)]
    fine = [0.8 * scale * smooth_noise(rng, shape, 7 * scale) for _ in range(2)]
    smooth_rows, smooth_columns = rows + 0.1 * slow[0], columns + 0.1 * slow[1]
    rows += np.float32(line.ruffle) * (slow[0] + fine[0])
    columns += np.float32(line.ruffle) * (slow[1] + fine[1])
    owner, nuclei = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    nearest, core = np.ones(shape, np.float32), np.ones(shape, np.float32)
    for index in range(len(cells)):
        elongation, angle = float(cells.elongation[index]), float(cells.angle[index])
        outline = outlines.outline_of_cell(rng, line, int(cells.form[index]), bool(cells.stage[index] != INTERPHASE))
        radius = float(cells.radius_px[index]) * line.fill
        half = 1.15 * radius * float(np.sqrt(elongation)) * float(outline.max()) + 12 * scale
        window = outlines.window_around(cells.centre[index], half, shape)
        if window is None:
            continue
        at = tuple(np.clip(cells.nucleus[index].astype(int), 0, np.array(shape) - 1))
        here = rows[window] - bend[0][at], columns[window] - bend[1][at]
        metric = outlines.metric(here, cells.centre[index], radius, elongation, angle, outline)
        first = metric < nearest[window]
        owner[window][first] = index + 1
        nearest[window][first] = metric[first]
        stretch = 1 + rng.uniform(0.2, 0.6) * (elongation - 1) ** 0.6
        parts = outlines.parts_of_nucleus(rng, line, cells.nucleus[index], float(cells.nucleus_px[index]))
        half = (1.7 if len(parts) == 1 else 2.6) * float(cells.nucleus_px[index] * np.sqrt(stretch)) + 3 * scale
        window = outlines.window_around(cells.nucleus[index], half, shape)
        if window is None:
            continue
        if PROMETAPHASE <= cells.stage[index] <= ANAPHASE:
            here = rows[window] - bend[0][at], columns[window] - bend[1][at]
            kernel = outlines.chromosomes(here, cells, index)
        else:
            here = smooth_rows[window] - bend[0][at], smooth_columns[window] - bend[1][at]
            shapes = [
                outlines.metric(here, centre, size, stretch, angle, outlines.outline_of_nucleus(rng, line))
                for centre, size in parts
            ]
            kernel = reduce(outlines.join, shapes)
            # some cytoplasm around every nucleus
            first = kernel / 1.18 < nearest[window]
            owner[window][first] = index + 1
            nearest[window][first] = kernel[first] / 1.18
        inner = kernel < core[window]
        nuclei[window][inner] = index + 1
        core[window][inner] = kernel[inner]
        owner[window][inner] = index + 1
        nearest[window][inner] = 0.5 * kernel[inner]
    # the middle of a cell drawn later may lie in a nucleus drawn before
    return np.where(nuclei > 0, nuclei, owner), nuclei


def _keep_nucleated_piece(owner: NDArray[np.int32], nuclei: NDArray[np.int32]) -> NDArray[np.int32]:
    """Drop the pieces of a cell that a neighbour separates from the rest."""
    pieces = connected(owner, connectivity=1)  # type: ignore[no-untyped-call]
    sizes = np.bincount(pieces.ravel())
    weight = sizes + 1_000_000 * (np.bincount(pieces.ravel(), (nuclei == owner).ravel() & (owner > 0).ravel()) > 0)
    first = np.zeros(len(sizes), np.int64)
    first[pieces.ravel()] = owner.ravel()
    best = np.zeros(int(owner.max()) + 1)
    np.maximum.at(best, first, weight)
    keep = (weight == best[first]) & (first > 0)
    return np.where(keep[pieces], owner, 0).astype(np.int32)

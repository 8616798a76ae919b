"""Filaments: curved lines that grow from a start with persistent direction, bend, and turn back at the cell's edge."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.atlas.geometry.field import Field
from hpa.atlas.noise import Image, blur, smooth_noise, splat


@dataclass(frozen=True)
class Filaments:
    """F filaments of T steps each.

    Parameters
    ----------
    points
        Rows and columns in px, float32 (T, F, 2).
    alive
        Whether a filament still grows at a step, bool (T, F).
    cell
        Cell of each filament, 1..N, int32 (F,).
    """

    points: NDArray[np.float32]
    alive: NDArray[np.bool_]
    cell: NDArray[np.int32]

    def ends(self) -> NDArray[np.float32]:
        """Return the last point of every filament, float32 (F, 2)."""
        last = np.maximum(self.alive.sum(axis=0) - 1, 0)
        return np.asarray(self.points[last, np.arange(len(last))], dtype=np.float32)

    def draw(self, weights: NDArray[np.float32], field: Field, taper: NDArray[np.float32] | None = None) -> Image:
        """Sum the light of all filaments; the brightness after a proportional blur does not depend on the scale.

        Parameters
        ----------
        weights
            Light of each filament, float32 (F,).
        field
            Gives the frame and its scale.
        taper
            Factor along the filament, float32 (T,).
        """
        light = np.broadcast_to(weights, self.alive.shape)
        if taper is not None:
            light = light * taper[:, None]
        light = np.ascontiguousarray(light[self.alive]) * np.float32(field.scale**2)
        parts = max(1, round(field.scale))
        if parts == 1:
            return splat(self.points[self.alive], light, field.shape)
        forward = np.diff(self.points, axis=0, append=self.points[-1:])[self.alive] / parts
        between = [self.points[self.alive] + np.float32(part) * forward for part in range(parts)]
        return splat(np.concatenate(between), np.tile(light / parts, parts), field.shape)


def _what_is_met(field: Field, margin_px: float, flow: Image | None) -> NDArray[np.float32]:
    """Return what a filament meets at each pixel, float32 (H W, 4 or 6), side by side: one read of memory per step.

    It is the cell, how near the edge is, the direction inwards (rows, columns), and the sine and cosine of `flow`.
    """
    away = blur(field.edge_px, 2.0 * field.scale)
    away_rows = cv2.Sobel(away, cv2.CV_32F, 0, 1, ksize=3)
    away_columns = cv2.Sobel(away, cv2.CV_32F, 1, 0, ksize=3)
    steep = np.sqrt(away_rows**2 + away_columns**2) + np.float32(1e-6)
    near_edge = np.clip(1 - away / np.float32(margin_px * field.scale), 0, 1)
    maps = [field.owner, near_edge, away_rows / steep, away_columns / steep]
    if flow is not None:
        maps += [np.sin(flow), np.cos(flow)]
    return np.stack(maps, axis=-1).astype(np.float32).reshape(away.size, -1)


def _turn(
    curvature: NDArray[np.float32],
    here: NDArray[np.float32],
    up: NDArray[np.float32],
    along: NDArray[np.float32],
    turns_back: NDArray[np.float32],
    rim: float,
    bundle: float,
) -> NDArray[np.float32]:
    """Return by how much each filament turns in a step, by its curvature, the edge and the flow, float32 (F,)."""
    _, near, inward_row, inward_column, *stream = here.T
    # the sine and the cosine of the angle from a filament to a direction
    sine, cosine = inward_row * along - inward_column * up, inward_row * up + inward_column * along
    turn: NDArray[np.float32] = curvature + near * sine * (turns_back - np.float32(2 * rim) * cosine)
    if stream:
        sine, cosine = stream[0] * along - stream[1] * up, stream[0] * up + stream[1] * along
        turn += np.float32(2 * bundle) * sine * cosine
    return turn


def grow(
    rng: np.random.Generator,
    field: Field,
    start: NDArray[np.float32],
    heading: NDArray[np.float32],
    cell: NDArray[np.int32],
    *,
    steps: int,
    step_px: float,
    bend: float,
    follow: float = 0.0,
    margin_px: float = 5.0,
    lives: NDArray[np.int32] | None = None,
    flow: Image | None = None,
    bundle: float = 0.0,
    rim: float = 0.0,
) -> Filaments:
    """Grow filaments side by side until they end or leave their cell.

    Parameters
    ----------
    rng, field
        Random number generator and the cells.
    start, heading, cell
        Start position (F, 2), direction in radians (F,) and cell 1..N (F,) of each filament.
    steps, step_px
        Maximum number of steps, and length of a step.
    bend
        Standard deviation of the turn in a step, in radians; a filament keeps half of its curvature.
    follow
        How strongly filaments curve around the nucleus, 0 to 1.
    margin_px
        Distance from the edge of the cell at which filaments turn back or along it, for a frame of 512 px.
    lives
        Number of steps of each filament (F,); None: all steps.
    flow, bundle
        Directions in radians, float32 (H, W), and how strongly filaments turn into them, 0 to 1: a bundle is many
        filaments that follow one smooth field.
    rim
        How strongly filaments near the edge turn along it, 0 to 1.
    """
    height, width = field.shape
    met = _what_is_met(field, margin_px, flow)
    number = len(start)
    turns_back = np.where(rng.random(number) < 0.5, np.float32(0.6), 0).astype(np.float32)
    turns = rng.standard_normal((steps, number), dtype=np.float32) * np.float32(bend)
    points = np.zeros((steps, number, 2), np.float32)
    alive = np.zeros((steps, number), bool)
    left = np.arange(number)
    row, column = start[:, 0].astype(np.float32), start[:, 1].astype(np.float32)
    up, along = np.sin(heading).astype(np.float32), np.cos(heading).astype(np.float32)
    curvature = np.zeros(number, np.float32)
    for step in range(steps):
        at_row, at_column = row.astype(np.int32), column.astype(np.int32)
        outside = (at_row < 0) | (at_row >= height) | (at_column < 0) | (at_column >= width)
        at = np.clip(at_row, 0, height - 1) * width + np.clip(at_column, 0, width - 1)
        here = met.take(at, axis=0)
        # the outline of the cell is not known outside the frame
        living = outside | (here[:, 0] == cell[left])
        if lives is not None:
            living &= step < lives[left]
        if not living.all():
            still = np.flatnonzero(living)
            left, row, column, here = left[still], row[still], column[still], here.take(still, axis=0)
            up, along, curvature = up[still], along[still], curvature[still]
        if len(left) == 0:
            break
        points[step, left, 0], points[step, left, 1], alive[step, left] = row, column, True
        curvature = np.float32(0.6) * curvature + turns[step, left]
        turn = _turn(curvature, here, up, along, turns_back[left], rim, bundle)
        if follow:
            middle = field.population.nucleus[cell[left] - 1]
            out_row, out_column = row - middle[:, 0], column - middle[:, 1]
            far = out_row**2 + out_column**2 + np.float32(1e-6)
            sine, cosine = out_column * along + out_row * up, out_column * up - out_row * along
            turn += np.float32(follow) * sine * cosine / far
        shorten = 1 / np.sqrt(1 + turn * turn)
        up, along = (up + turn * along) * shorten, (along - turn * up) * shorten
        row = row + np.float32(step_px) * up
        column = column + np.float32(step_px) * along
    return Filaments(points, alive, cell)


def organising_centres(rng: np.random.Generator, field: Field) -> NDArray[np.float32]:
    """Place each cell's organising centre just outside its nucleus, on the side with most cytoplasm; float32 (N, 2)."""
    cells = field.population
    toward = cells.centre - cells.nucleus + rng.normal(0, 0.25, (len(cells), 2)) * cells.radius_px[:, None]
    toward /= np.linalg.norm(toward, axis=1, keepdims=True) + 1e-6
    return np.asarray(cells.nucleus + 1.12 * toward * cells.nucleus_px[:, None], dtype=np.float32)


def microtubules(rng: np.random.Generator, field: Field, centres: NDArray[np.float32]) -> Filaments:
    """Grow the microtubules of every cell that is not in mitosis.

    A sixth start around the organising centre, a sixth at the surface of the nucleus, and the others, which enter
    the plane in focus from above or below, anywhere in the cytoplasm. A share of them runs around the nucleus.

    Parameters
    ----------
    rng, field
        Random number generator and the cells.
    centres
        Organising centre of each cell, rows and columns in px, shape (N, 2).
    """
    line, cells = field.line, field.population
    visible = np.bincount(field.owner.ravel(), minlength=len(cells) + 1)[1:]
    size = np.sqrt(visible * 4 / np.pi) / (100 * field.scale)
    number = np.where(
        (cells.stage == 0) | (cells.stage == 4), np.minimum(1.9 * line.filaments * size**1.6, 1800), 0
    ).astype(int)
    cell = np.repeat(np.arange(1, len(cells) + 1, dtype=np.int32), number)
    index = cell - 1
    total = len(cell)
    turn = rng.uniform(0, 2 * np.pi, total)
    spread = np.where(rng.random(total) < 0.45, 0.35, 1.0) * cells.nucleus_px[index]
    spokes = np.stack([np.sin(turn), np.cos(turn)], axis=1)
    from_centre = rng.random(total) < 0.5
    origin = np.where(from_centre[:, None], centres[index], cells.nucleus[index])
    reach = np.where(from_centre, spread * rng.random(total), cells.nucleus_px[index] * rng.uniform(0.85, 1.5, total))
    start = origin + spokes * reach[:, None]
    anywhere = _anywhere(rng, field, index)
    inside = (rng.random(total) < 0.65) & (anywhere >= 0).all(axis=1)
    start[inside] = anywhere[inside]
    heading_inside = cells.angle[index] + np.pi * rng.integers(0, 2, total) + rng.normal(0, 0.7, total)
    aim = cells.angle[index] + np.pi * rng.integers(0, 2, total)
    pull = np.clip((cells.elongation[index] - 1) / 2, 0, 0.8)
    heading = turn + pull * np.sin(2 * (aim - turn)) / 2 * 1.5 + rng.normal(0, 0.35, total)
    ringed = rng.random(total) < line.ring
    heading = np.where(ringed, turn + np.pi / 2 * rng.choice([-1, 1], total), heading)
    heading = np.where(inside, heading_inside, heading)
    step_px = 1.25 * field.scale
    steps = int(np.clip(np.percentile(cells.radius_px, 70) * 1.6 / step_px, 24, 112))
    # filaments of one region run side by side, in long cells along the cell
    along = field.of_cells(cells.angle) + rng.uniform(0.3, 1.2) * smooth_noise(rng, field.shape, 45 * field.scale)
    return grow(
        rng, field, start.astype(np.float32), heading.astype(np.float32), cell,
        steps=steps, step_px=step_px, bend=line.bend * rng.uniform(0.2, 0.4), follow=0.10 * line.ring,
        margin_px=float(rng.uniform(3, 9)), lives=(steps * rng.beta(2, 1, total)).astype(np.int32),
        flow=along.astype(np.float32), bundle=float(rng.uniform(0.0, 0.06)), rim=float(rng.uniform(0, 0.25)),
    )  # fmt: skip


def _anywhere(rng: np.random.Generator, field: Field, index: NDArray[np.int32]) -> NDArray[np.float64]:
    """Draw a position in the cell of each filament, rows and columns (F, 2); -1 where a draw misses the cell."""
    cells, shape = field.population, np.array(field.shape)
    far, turn = np.sqrt(rng.random(len(index))) * cells.radius_px[index], rng.uniform(0, 2 * np.pi, len(index))
    long, short = np.cos(turn) * np.sqrt(cells.elongation[index]), np.sin(turn) / np.sqrt(cells.elongation[index])
    sine, cosine = np.sin(cells.angle[index]), np.cos(cells.angle[index])
    at = cells.centre[index] + far[:, None] * np.stack([long * sine + short * cosine, long * cosine - short * sine], 1)
    pixel = np.clip(at.astype(int), 0, shape - 1)
    inside = ((at >= 0) & (at < shape)).all(axis=1) & (field.owner[pixel[:, 0], pixel[:, 1]] == index + 1)
    return np.where(inside[:, None], at, -1)

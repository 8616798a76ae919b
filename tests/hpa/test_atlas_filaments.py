"""Filaments that leave the frame go on; those that leave their cell end."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from hpa.atlas.filaments import Filaments, grow
from hpa.atlas.geometry.field import Field

SIDE = 64


def _straight(owner: NDArray[np.int32], start: NDArray[np.float32], toward: NDArray[np.float64]) -> Filaments:
    """Grow one filament of 40 px in the cell in which it starts, from (row, column) in a direction."""
    far_inside = np.full(owner.shape, 100, np.float32)
    field = cast(Field, SimpleNamespace(shape=owner.shape, owner=owner, edge_px=far_inside, scale=1.0))
    heading = np.array([np.arctan2(*toward)], np.float32)
    cell = np.array([owner[tuple(start.astype(int))]], np.int32)
    return grow(np.random.default_rng(0), field, start[None], heading, cell, steps=40, step_px=1.0, bend=0.0)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("upside_down", [False, True])
def test_a_filament_outside_the_frame_meets_no_other_cell(turned: bool, upside_down: bool) -> None:
    """Cell 1 is left of column 32, cell 2 right of it."""
    owner = np.ones((SIDE, SIDE), np.int32)
    owner[:, 32:] = 2

    def oriented(point: tuple[float, float], flip: float) -> NDArray[np.float64]:
        row, column = (flip - point[0] if upside_down else point[0]), point[1]
        return np.array([column, row] if turned else [row, column], dtype=np.float64)

    frame = owner[::-1] if upside_down else owner
    frame = np.ascontiguousarray(frame.T if turned else frame)
    start = oriented((5, 20), SIDE - 1).astype(np.float32)
    across = _straight(frame, start, oriented((0, 1), 0))
    assert across.alive[:, 0].sum() == 12, "it ends where the other cell begins"
    leaving = _straight(frame, start, oriented((-1, 1), 0))
    assert leaving.alive.all()
    moved = leaving.points[-1, 0] - leaving.points[0, 0]
    np.testing.assert_allclose(moved, 39 * oriented((-1, 1), 0) / np.sqrt(2), atol=1e-3)

"""Cells drawn in no time, in the form of `crops.synthesize.draw_crops`: some classes are a bright square."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hpa.vocabulary import HPA28


def draw_squares(
    seed: int, n_cells: int, size_px: int, *, part: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield fields of seven cells; class 3 k is a square of the protein at place k of a grid of three by three."""
    rng, side = np.random.default_rng((seed, part)), size_px // 4
    for _ in range(-(-n_cells // 7)):
        targets = np.zeros((7, len(HPA28)), dtype=bool)
        targets[:, :27:3] = rng.random((7, 9)) < 0.3
        pixels = rng.integers(0, 60, (7, 4, size_px, size_px), dtype=np.uint8)
        for cell, label in np.argwhere(targets):
            top, left = side // 2 + side * (label // 3 // 3), side // 2 + side * (label // 3 % 3)
            pixels[cell, 1, top : top + side, left : left + side] += 150
        own = np.zeros((7, size_px, size_px), dtype=bool)
        own[:, 2:-2, 2:-2] = True
        yield pixels, own, targets

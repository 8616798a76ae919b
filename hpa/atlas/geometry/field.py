"""The geometry of one field of view: positions of cells and nuclei, and distances of pixels to their outlines."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.atlas.noise import Image
from hpa.atlas.styles import CellLine

INTERPHASE: Final = 0
PROMETAPHASE: Final = 1
METAPHASE: Final = 2
ANAPHASE: Final = 3
TELOPHASE: Final = 4
"""Stages of the cell cycle. A cell in telophase has a sister, with which it shares a bridge."""

LOBED: Final = 0
POLYGON: Final = 1
SPINDLE: Final = 2
FAN: Final = 3
"""Forms of a cell: an ellipse with broad lobes, a polygon with straight or hollow sides, a spindle that tapers to both
ends, and a fan, whose lamella spreads to one side of the nucleus."""


@dataclass(frozen=True)
class Population:
    """The N cells that reach into the frame, one row per cell, all lengths in px.

    Parameters
    ----------
    centre, nucleus
        Row and column of the centre of the cell and of its nucleus, float32 (N, 2).
    radius_px, nucleus_px
        Radius of the disc of equal area, float32 (N,).
    angle
        Direction of the long axis, in radians from the columns towards the rows, float32 (N,).
    elongation
        Ratio of the long to the short axis, float32 (N,).
    stage
        Interphase or a stage of division, int8 (N,).
    form
        Form of the outline, int8 (N,).
    sister
        Index of the other daughter for a cell in telophase, -1 for all other cells, int32 (N,).
    """

    centre: NDArray[np.float32]
    nucleus: NDArray[np.float32]
    radius_px: NDArray[np.float32]
    nucleus_px: NDArray[np.float32]
    angle: NDArray[np.float32]
    elongation: NDArray[np.float32]
    stage: NDArray[np.int8]
    form: NDArray[np.int8]
    sister: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.radius_px)


@dataclass(frozen=True)
class Field:
    """A field of view, of height H and width W.

    Parameters
    ----------
    line
        Style of its cells.
    scale
        Pixels of this frame per pixel of a 512 px frame; every length is multiplied by it.
    population
        The N cells that reach into the frame.
    owner
        Cell of each pixel, 0 for none and 1..N, int32 (H, W).
    nuclei
        Nucleus of each pixel, numbered like the cells, int32 (H, W).
    """

    line: CellLine
    scale: float
    population: Population
    owner: NDArray[np.int32]
    nuclei: NDArray[np.int32]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.owner.shape[0], self.owner.shape[1]

    @cached_property
    def edge_px(self) -> Image:
        """Distance to the outline of the pixel's cell, 0 outside of cells, float32 (H, W)."""
        return depth(self.owner)

    @cached_property
    def rim_px(self) -> Image:
        """Distance to the outline of the pixel's nucleus, 0 outside of nuclei, float32 (H, W)."""
        return depth(self.nuclei)

    @cached_property
    def off_nucleus_px(self) -> Image:
        """Distance to the nearest nucleus, 0 inside, float32 (H, W)."""
        outside = (self.nuclei == 0).astype(np.uint8)
        return np.asarray(cv2.distanceTransform(outside, cv2.DIST_L2, 3), dtype=np.float32)

    @cached_property
    def cytoplasm(self) -> Image:
        """1 inside a cell and outside its nucleus, else 0, float32 (H, W)."""
        return np.asarray((self.owner > 0) & (self.nuclei == 0), dtype=np.float32)

    @cached_property
    def karyoplasm(self) -> Image:
        """1 inside a nucleus, else 0, float32 (H, W)."""
        return (self.nuclei > 0).astype(np.float32)

    @cached_property
    def nearness(self) -> Image:
        """1 at the nucleus, decreasing to 0 at the outline of the cell; 0 in nucleus and background, float32 (H, W)."""
        share = self.edge_px / (self.edge_px + self.off_nucleus_px + 1e-3)
        return np.asarray(share * self.cytoplasm, dtype=np.float32)

    def of_cells(self, values: NDArray[np.float32]) -> Image:
        """Assign one value per cell, shape (N,), to the pixels of the cells; 0 in the background."""
        return np.concatenate([np.zeros(1, np.float32), values])[self.owner]


def depth(labels: NDArray[np.int32]) -> Image:
    """Return each pixel's distance in px to the nearest pixel of another label, 0 in the background.

    The frame crops cells, so its border is not an outline.
    """
    inner = labels > 0
    inner[:-1] &= labels[:-1] == labels[1:]
    inner[:, :-1] &= labels[:, :-1] == labels[:, 1:]
    return np.asarray(cv2.distanceTransform(inner.astype(np.uint8), cv2.DIST_L2, 3), dtype=np.float32)

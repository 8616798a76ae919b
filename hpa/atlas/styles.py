"""Cell lines, each with its style of size, shape, crowding, texture and stain contrast."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np


@dataclass(frozen=True)
class CellLine:
    """Appearance of the cells of one line. Lengths are for a frame of 512 px; all other values are ratios.

    Parameters
    ----------
    name
        The real cell line that it models.
    diameter_px, spread
        Median equivalent diameter before cells compete for space, and the sigma of its logarithm.
    elongation
        Median ratio of the long to the short axis.
    lobes, ruffle
        Deviation of the outline from an ellipse, in broad lobes and in fine folds.
    processes
        Mean number of thin processes per cell.
    coverage
        Share of the frame that cells aim to cover; above 1 they form a dense sheet.
    clumping
        0: evenly spread, 1: islands with wide gaps.
    alignment
        0: random directions, 1: all cells are aligned.
    nucleus
        Diameter of the nucleus as a share of the cell's.
    nucleus_lobes
        Deviation of nuclei from ellipses.
    nucleoli
        Mean number of nucleoli.
    chromocentres
        Mean number of bright spots of dense DNA (the mouse lines have many).
    er_reach
        Extent of the ER from the nucleus towards the edge (1: up to the edge).
    er_grain
        Contrast of the ER's texture.
    filaments
        Number of microtubules in a cell of 100 px.
    bend
        Bending of microtubules, in radians per step.
    ring
        Share of microtubules that run around the nucleus instead of outwards.
    haze
        Diffuse tubulin between the filaments, relative to them.
    angular, fans
        Share of cells with a polygonal outline, and of cells with a wide flat lamella on one side.
    pairs
        Share of cells that are two small cells side by side, as after a division.
    double
        Share of cells with two nuclei.
    fill
        Factor on the size of outlines that leaves the positions as they are; above 1 neighbours grow into each other
        and leave few gaps.
    """

    name: str
    diameter_px: float
    spread: float
    elongation: float
    lobes: float
    ruffle: float
    processes: float
    coverage: float
    clumping: float
    alignment: float
    nucleus: float
    nucleus_lobes: float
    nucleoli: float
    chromocentres: float
    er_reach: float
    er_grain: float
    filaments: float
    bend: float
    ring: float
    haze: float
    angular: float = 0.6
    fans: float = 0.08
    pairs: float = 0.08
    double: float = 0.04
    fill: float = 1.0


CELL_LINES: Final[tuple[CellLine, ...]] = (
    # name, diameter, spread, elongation, lobes, ruffle, processes, coverage, clumping, alignment, nucleus, its lobes,
    # nucleoli, chromocentres, ER reach, ER grain, filaments, bend, ring, haze
    CellLine("U-2 OS", 127, .26, 1.66, .16, .9, .5, .72, .2, .2, .47, .06, 3.0, .0, .75, .8, 150, .16, .15, .15),
    CellLine("A-431", 112, .26, 1.52, .12, .6, .2, .95, .6, .1, .55, .05, 3.0, .0, .95, .6, 120, .20, .30, .25),
    CellLine("U-251 MG", 131, .30, 2.26, .22, 1.0, 1.0, .62, .1, .3, .43, .06, 3.5, .0, .65, .9, 150, .12, .15, .10),
    CellLine("HEK 293", 95, .21, 1.52, .18, 1.0, .6, .90, .8, .1, .60, .08, 2.5, .0, 1.00, .5, 60, .25, .45, .40),
    CellLine("A549", 116, .24, 1.86, .15, .8, .4, .70, .3, .2, .48, .05, 2.5, .0, .80, .8, 130, .17, .25, .15),
    CellLine("SH-SY5Y", 95, .24, 2.4, .22, .8, 1.6, .60, .6, .2, .58, .10, 3.0, .0, .95, .5, 70, .14, .35, .30),
    CellLine("RH-30", 125, .27, 2.67, .18, .8, .9, .68, .1, .5, .42, .05, 3.0, .0, .75, .8, 140, .11, .15, .15),
    CellLine("SK-MEL-30", 108, .26, 2.26, .22, .8, 1.2, .52, .3, .3, .46, .07, 2.5, .0, .85, .7, 120, .15, .25, .20),
    CellLine("HAP1", 98, .19, 1.66, .16, .9, .5, .80, .7, .1, .55, .06, 3.0, .0, .90, .6, 80, .20, .30, .30),
    CellLine("PC-3", 114, .30, 1.86, .20, 1.2, .8, .60, .3, .1, .50, .20, 3.0, .0, .80, .8, 130, .18, .20, .15),
    CellLine("HeLa", 112, .22, 1.79, .16, .9, .6, .66, .3, .1, .50, .10, 3.5, .0, .85, .7, 120, .18, .25, .15),
    CellLine("HaCaT", 110, .26, 1.46, .10, .5, .1, 1.05, .5, .1, .45, .05, 3.0, .0, .90, .6, 140, .16, .15, .15),
    CellLine("hTCEpi", 166, .21, 1.39, .10, .5, .1, .85, .2, .1, .38, .04, 3.0, .0, .70, .7, 260, .14, .10, .10),
    CellLine("NIH 3T3", 125, .26, 2.26, .24, .9, 1.4, .55, .1, .2, .42, .04, 1.0, 14.0, .70, .8, 130, .12, .15, .10),
    CellLine("BJ", 177, .24, 4.02, .14, .7, .8, .70, .1, .9, .34, .04, 2.5, .0, .70, .8, 220, .07, .10, .10),
    CellLine("REH", 68, .15, 1.12, .06, .6, .1, .34, .4, .0, .74, .12, 2.0, .0, 1.00, .5, 40, .25, .70, .50),
    CellLine("CACO-2", 104, .26, 1.46, .10, .5, .1, 1.10, .4, .1, .55, .08, 2.5, .0, .95, .5, 80, .20, .35, .35),
)  # fmt: skip
"""The cell lines of the atlas. The first eleven are ordered by their share of hand-labelled real cells."""

SHARES: Final[tuple[float, ...]] = (
    0.25, 0.16, 0.15, 0.05, 0.06, 0.03, 0.06, 0.05, 0.02, 0.04, 0.04, 0.03, 0.02, 0.02, 0.02, 0.01, 0.01,
)  # fmt: skip
"""Relative frequency of each line: the real atlas images U-2 OS, A-431 and U-251 MG far more often than the others."""


def as_imaged(rng: np.random.Generator, line: CellLine) -> CellLine:
    """Return a line as one image shows it: sizes, crowding and shapes of cells vary from image to image.

    Some images show a field of small cells, cells of very different sizes, a sheet without gaps, many pairs of cells or
    of nuclei, or mostly lobed nuclei.
    """
    size, spread = float(rng.lognormal(0.05, 0.16)), float(rng.uniform(0.75, 1.3))
    coverage, clumping, fill = line.coverage * float(rng.uniform(0.95, 1.7)), line.clumping, 1.0
    kind = rng.random()
    if kind < 0.07:
        size *= float(rng.uniform(0.55, 0.75))
        coverage *= float(rng.uniform(0.7, 1.2))
    elif kind < 0.15:
        spread *= 1.6
    elif kind < 0.22:
        coverage, clumping, fill = float(rng.uniform(0.95, 1.25)), 0.0, float(rng.uniform(1.35, 1.7))
    lobes = line.nucleus_lobes * float(rng.lognormal(-0.8, 0.5))
    return replace(
        line,
        diameter_px=line.diameter_px * size,
        spread=line.spread * spread,
        elongation=1 + (line.elongation - 1) * float(rng.lognormal(0, 0.25)),
        coverage=coverage,
        clumping=clumping,
        fill=fill,
        ruffle=line.ruffle * float(rng.lognormal(-0.7, 0.5)),
        angular=float(np.clip(line.angular * rng.lognormal(0, 0.6), 0, 1)),
        fans=line.fans * float(rng.choice([0, 1, 3])),
        pairs=line.pairs * float(rng.choice([0.3, 1, 4], p=[0.55, 0.33, 0.12])),
        double=line.double * float(rng.choice([0.5, 1, 5], p=[0.5, 0.38, 0.12])),
        nucleus_lobes=max(lobes, float(rng.uniform(0.12, 0.3))) if rng.random() < 0.05 else lobes,
    )

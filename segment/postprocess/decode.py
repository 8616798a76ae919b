"""From the network's answer for one image to its cells and nuclei at the size of the source."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.errors import ImageError
from hpa.pixels import MAX_LABELS
from segment.config import SegmentSection
from segment.network.cellpose import follow_flows, masks_from_flows
from segment.network.compact import NUCLEUS, NUCLEUS_CORE, OUTPUTS
from segment.postprocess.cells import (
    assign_nuclei_to_cells,
    cells_without_nucleus,
    grow_nuclei,
    make_connected,
    merge_nuclei,
    reassign_by_flows,
    truncated_nuclei,
)
from segment.postprocess.labels import TYPICAL_CELL_PX2, Labels, drop_small, enlarge_labels
from segment.postprocess.nuclei import nuclei_from_channel, nuclei_from_logits

_MIN_CELL_WITHOUT_NUCLEUS: Final = 0.2  # a share of a typical cell's area
_THRESHOLD: Final = 0.6  # at 0.5 outlines lie too far out: synthetic AP@0.9 is 0.35 instead of 0.44
_CELLPOSES_THRESHOLD: Final = 0.5
_STEPS: Final = 60  # the flow of a pixel two typical diameters away has arrived


@dataclass(frozen=True)
class Masks:
    """The cells and nuclei of one image.

    Parameters
    ----------
    cells
        Shape (H, W), uint16, 0 background, 1..n.
    nuclei
        Shape (H, W), uint16; a nucleus carries the label of the cell that owns it.
    """

    cells: NDArray[np.uint16]
    nuclei: NDArray[np.uint16]


def decode(
    answer: NDArray[np.float32], nucleus_plane: NDArray[np.float32], section: SegmentSection, shape: tuple[int, int]
) -> Masks:
    """Make cells and nuclei from the outputs of a network.

    Parameters
    ----------
    answer
        Shape (K, h, w) at the size the network works at; the last three are flow rows, flow columns, cell logit.
        K is 5 for the compact network (`segment.network.compact`), which finds nuclei too, and 3 for the big ones.
    nucleus_plane
        Shape (h, w), the nucleus channel that the network saw.
    section
        How masks are made.
    shape
        Height and width of the source.

    Raises
    ------
    ImageError
        If there are more cells than a label image can number.
    """
    own_nuclei = section.postprocess == "nuclei" or (section.postprocess == "auto" and len(answer) == OUTPUTS)
    level = _logit(section.cell_threshold or (_THRESHOLD if own_nuclei else _CELLPOSES_THRESHOLD))
    flows, cell = answer[-3:-1], answer[-1]
    nuclei, nucleus, nucleus_level = _nuclei(answer, nucleus_plane, section)
    elsewhere = np.zeros(cell.shape, dtype=bool)
    if own_nuclei:
        cells, elsewhere = _cells_of_nuclei(flows, cell, nuclei, level, section.min_visible_nucleus)
    else:
        min_px = max(1, round(section.min_cell_area * TYPICAL_CELL_PX2))
        masks = masks_from_flows(flows, cell, level=level, flow_error=section.flow_error, min_px=min_px)
        cells, nuclei = masks.astype(np.int32), assign_nuclei_to_cells(nuclei, masks)
    cells = drop_small(cells, section.min_cell_area)
    if cells.max() > MAX_LABELS:
        raise ImageError(f"expected at most {MAX_LABELS} cells, found {cells.max()}")
    nuclei = np.where(nuclei > 0, cells, 0)
    # Cells that are none of the image's stay until here, so that the lines between them and others are smooth too.
    dropped = np.unique(cells[elsewhere])
    return _consecutive(
        enlarge_labels(cells, cell, level, shape), enlarge_labels(nuclei, nucleus, nucleus_level, shape), dropped
    )


def decode_nuclei(
    answer: NDArray[np.float32], nucleus_plane: NDArray[np.float32], section: SegmentSection, shape: tuple[int, int]
) -> NDArray[np.uint16]:
    """Label the nuclei alone, 1..n, whatever the cells are; arguments as of `decode`."""
    nuclei, logit, level = _nuclei(answer, nucleus_plane, section)
    return enlarge_labels(nuclei, logit, level, shape)


def _nuclei(
    answer: NDArray[np.float32], nucleus_plane: NDArray[np.float32], section: SegmentSection
) -> tuple[Labels, NDArray[np.float32], float]:
    """Return labels of nuclei, and the logits and the level at which their outlines lie."""
    if len(answer) == OUTPUTS:
        logit, level = answer[NUCLEUS], _logit(section.nucleus_threshold)
        return (
            nuclei_from_logits(logit, answer[NUCLEUS_CORE], level=level, min_area=section.min_nucleus_area),
            logit,
            level,
        )
    nuclei = nuclei_from_channel(nucleus_plane, min_area=section.min_nucleus_area)
    return nuclei, np.where(nuclei > 0, 1, -1).astype(np.float32), 0.0


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def _cells_of_nuclei(
    flows: NDArray[np.float32], cell: NDArray[np.float32], nuclei: Labels, level: float, min_visible_nucleus: float
) -> tuple[Labels, NDArray[np.bool_]]:
    """Return cells, and where those are whose nucleus is not in the frame, or hardly."""
    # Where the network is unsure its answer is a chequerboard: the majority of nine pixels decides.
    inside = (cv2.medianBlur((cell > level).astype(np.uint8), 3) > 0) | (nuclei > 0)
    if not nuclei.any():
        return nuclei, nuclei > 0
    ends = follow_flows(flows, inside, _STEPS)
    nuclei = merge_nuclei(nuclei, ends, inside)
    others = cells_without_nucleus(nuclei, ends, inside, min_area=_MIN_CELL_WITHOUT_NUCLEUS)
    n = int(nuclei.max())
    seeds = np.where(others > 0, n + others, nuclei)
    cells = grow_nuclei(cell, seeds, inside)
    cells = make_connected(reassign_by_flows(cells, ends[:, cells[inside] > 0]), seeds)
    return cells, (cells > n) | np.isin(cells, truncated_nuclei(cells, nuclei, min_visible_nucleus))


def _consecutive(cells: NDArray[np.uint16], nuclei: NDArray[np.uint16], dropped: Labels) -> Masks:
    # A sliver between neighbours can vanish on the finer grid, so the numbers are given at the end.
    present = np.bincount(cells.ravel(), minlength=int(dropped.max(initial=0)) + 1) > 0
    present[0] = False
    present[dropped] = False
    number = (np.cumsum(present) * present).astype(np.uint16)
    owned = np.where(nuclei == cells, nuclei, 0)
    return Masks(number[cells], number[owned])

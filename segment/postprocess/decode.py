"""Turn the network output of one image into cell and nucleus masks at source resolution."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.errors import ImageError
from hpa.pixels import MAX_LABELS
from segment.config import SegmentSection
from segment.masks import Masks
from segment.network.cellpose import masks_from_flows
from segment.network.compact import NUCLEUS, NUCLEUS_CORE, OUTPUTS
from segment.postprocess.cells import (
    assign_nuclei_to_cells,
    cells_without_nucleus,
    flow_divergence,
    flow_ends,
    grow_nuclei,
    merge_nuclei,
    truncated_nuclei,
)
from segment.postprocess.labels import TYPICAL_CELL_PX2, Labels, drop_small, enlarge_labels
from segment.postprocess.nuclei import nuclei_from_channel, nuclei_from_logits

_MIN_CELL_WITHOUT_NUCLEUS: Final = 0.2  # share of a typical cell's area


def decode(
    output: NDArray[np.float32], nucleus_plane: NDArray[np.float32], section: SegmentSection, shape: tuple[int, int]
) -> Masks:
    """Turn the network output of one image into cells and nuclei.

    Parameters
    ----------
    output
        Shape (K, h, w) at the network's scale; the last three planes are flow rows, flow columns and cell logit.
        K is 5 for the compact network (`segment.network.compact`), which also detects nuclei, and 3 for Cellpose.
    nucleus_plane
        Shape (h, w), the nucleus channel of the network input.
    section
        How to make masks.
    shape
        Height and width of the source.

    Raises
    ------
    ImageError
        If there are more cells than a label image can hold.
    """
    from_nuclei = section.postprocess == "nuclei" or (section.postprocess == "auto" and len(output) == OUTPUTS)
    level = _logit(section.cell_threshold)
    flows, cell_logit = output[-3:-1], output[-1]
    nuclei, nucleus_logit, nucleus_level = _find_nuclei(output, nucleus_plane, section)
    to_drop = np.zeros(cell_logit.shape, dtype=bool)
    if from_nuclei:
        cells, to_drop = _cells_from_nuclei(
            flows, cell_logit, nuclei, nucleus_plane, level, section.min_visible_nucleus
        )
    else:
        min_px = max(1, round(section.min_cell_area * TYPICAL_CELL_PX2))
        masks = masks_from_flows(flows, cell_logit, level=level, flow_error=section.flow_error, min_px=min_px)
        cells, nuclei = masks.astype(np.int32), assign_nuclei_to_cells(nuclei, masks)
    cells = drop_small(cells, section.min_cell_area)
    if cells.max() > MAX_LABELS:
        raise ImageError(f"expected at most {MAX_LABELS} cells, found {cells.max()}")
    nuclei = np.where(nuclei > 0, cells, 0)
    # Cells with their nucleus outside the frame are dropped only after enlarging: borders with them stay smooth.
    dropped = np.unique(cells[to_drop])
    return _drop_and_renumber(
        enlarge_labels(cells, cell_logit, level, shape),
        enlarge_labels(nuclei, nucleus_logit, nucleus_level, shape),
        dropped,
    )


def decode_nuclei(
    output: NDArray[np.float32], nucleus_plane: NDArray[np.float32], section: SegmentSection, shape: tuple[int, int]
) -> NDArray[np.uint16]:
    """Label only the nuclei, 1..n, independently of any cells; same arguments as `decode`."""
    nuclei, logit, level = _find_nuclei(output, nucleus_plane, section)
    return enlarge_labels(nuclei, logit, level, shape)


def _find_nuclei(
    output: NDArray[np.float32], nucleus_plane: NDArray[np.float32], section: SegmentSection
) -> tuple[Labels, NDArray[np.float32], float]:
    """Return labels of nuclei, their logits, and the logit at their outlines."""
    if len(output) == OUTPUTS:
        logit, level = output[NUCLEUS], _logit(section.nucleus_threshold)
        nuclei = nuclei_from_logits(logit, output[NUCLEUS_CORE], level=level, min_area=section.min_nucleus_area)
        return nuclei, logit, level
    nuclei = nuclei_from_channel(nucleus_plane, min_area=section.min_nucleus_area)
    return nuclei, np.where(nuclei > 0, 1, -1).astype(np.float32), 0.0


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def _cells_from_nuclei(
    flows: NDArray[np.float32],
    cell_logit: NDArray[np.float32],
    nuclei: Labels,
    nucleus_plane: NDArray[np.float32],
    level: float,
    min_visible_nucleus: float,
) -> tuple[Labels, NDArray[np.bool_]]:
    """Return the cells, and the pixels of those whose nucleus lies outside the frame, entirely or mostly."""
    # Where the network is unsure, its output is a chequerboard: take the majority of 3 x 3 pixels.
    inside = (cv2.medianBlur((cell_logit > level).astype(np.uint8), 3) > 0) | (nuclei > 0)
    if not nuclei.any():
        return nuclei, nuclei > 0
    divergence = flow_divergence(flows)
    ends = flow_ends(flows, inside)
    nuclei = merge_nuclei(nuclei, ends, divergence, nucleus_plane)
    without_nucleus = cells_without_nucleus(nuclei, ends, inside, min_area=_MIN_CELL_WITHOUT_NUCLEUS)
    n = int(nuclei.max())
    seeds = np.where(without_nucleus > 0, n + without_nucleus, nuclei)
    cells = grow_nuclei(seeds, cell_logit, divergence, inside)
    return cells, (cells > n) | np.isin(cells, truncated_nuclei(cells, nuclei, min_visible_nucleus))


def _drop_and_renumber(cells: NDArray[np.uint16], nuclei: NDArray[np.uint16], dropped: Labels) -> Masks:
    # Cells are renumbered last because a sliver between neighbours can vanish when enlarged.
    present = np.bincount(cells.ravel(), minlength=int(dropped.max(initial=0)) + 1) > 0
    present[0] = False
    present[dropped] = False
    number = (np.cumsum(present) * present).astype(np.uint16)
    numbered = number.take(cells)
    return Masks(numbered, numbered * (nuclei == cells))

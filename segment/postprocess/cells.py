"""Make cells from nuclei, flows and cell probability: every nucleus becomes one cell."""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from segment.postprocess.labels import TYPICAL_CELL_PX2, Labels, drop_small, edge_labels, flood

# Distances at the network's scale, where a typical cell is 30 px wide:
_SAME_CENTRE_PX: Final = 5.0
_OTHER_CENTRE_PX: Final = 12.0
_STEP_PX: Final = 2.0
_VALLEY_BLUR_PX: Final = 0.7

_DOUBLINGS: Final = 6
_VALLEY: Final = 3.0  # weight of the divergence beside the logit; 3 to 12 differ by less than 0.01 of AP
_NEIGHBOURS: Final = ((0, 1), (1, -1), (1, 0), (1, 1))  # each pair of touching pixels once

_TYPICAL_NUCLEUS: Final = 0.22  # share of its cell's area
_MIN_COMPLETE_NUCLEI: Final = 3  # with fewer, a typical nucleus is assumed instead of their median


def cell_landscape(flows: NDArray[np.float32], cell_logit: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a landscape that is high within cells and has a valley where two cells touch.

    The cell probability is as high between touching cells as within them, but their flows part there: the divergence
    of the flows is positive at borders and negative at centres.

    Parameters
    ----------
    flows
        Shape (2, H, W), rows and columns, unit length.
    cell_logit
        Shape (H, W).
    """
    divergence = np.gradient(flows[0], axis=0) + np.gradient(flows[1], axis=1)
    valley = cv2.GaussianBlur(divergence.astype(np.float32), (0, 0), _VALLEY_BLUR_PX)
    landscape: NDArray[np.float32] = cell_logit - np.float32(_VALLEY) * valley
    return landscape


def grow_nuclei(landscape: NDArray[np.float32], nuclei: Labels, inside: NDArray[np.bool_]) -> Labels:
    """Grow nuclei into cells, from high to low, until they meet.

    Parameters
    ----------
    landscape
        Shape (H, W), high within cells and low between them.
    nuclei
        Shape (H, W), labels.
    inside
        Shape (H, W), the pixels that belong to cells.

    Returns
    -------
    ndarray
        Shape (H, W), each cell with the label of its nucleus; pixels that no nucleus reaches are 0.
    """
    return flood(-landscape, nuclei, inside | (nuclei > 0))


def flow_ends(flows: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Follow the flows from every pixel, and return where they end.

    A step covers two pixels at most and is rounded to a pixel; doubling the steps six times covers four typical
    diameters. Cellpose's own function, which interpolates, gives the same cells and took a third of the mask step.

    Parameters
    ----------
    flows
        Shape (2, H, W), rows and columns, unit length.
    inside
        Shape (H, W), bool; a flow that leaves it ends there.

    Returns
    -------
    ndarray
        Shape (H, W), index of the pixel (row * W + column) at which the flow of each pixel ends.
    """
    height, width = inside.shape
    steps = np.rint(_STEP_PX * flows * inside).astype(np.intp)
    rows = np.clip(np.arange(height)[:, None] + steps[0], 0, height - 1)
    columns = np.clip(np.arange(width) + steps[1], 0, width - 1)
    ends = (rows * width + columns).ravel()
    for _ in range(_DOUBLINGS):
        ends = ends[ends]
    return ends.reshape(inside.shape)


def merge_pieces(nuclei: Labels, ends: NDArray[np.intp]) -> Labels:
    """Merge touching pieces of a nucleus: those whose flows end at the same place.

    Parameters
    ----------
    nuclei
        Shape (H, W), labels 1..n.
    ends
        Shape (H, W), where flows end (`flow_ends`).

    Returns
    -------
    ndarray
        Shape (H, W), labels 1..k.
    """
    n = int(nuclei.max())
    around = np.pad(nuclei, 1)
    neighbours = [around[1 + r : 1 + r + nuclei.shape[0], 1 + c : 1 + c + nuclei.shape[1]] for r, c in _NEIGHBOURS]
    pairs = np.concatenate([np.stack([nuclei, other], axis=-1).reshape(-1, 2) for other in neighbours])
    pairs = np.unique(pairs[(pairs[:, 0] != pairs[:, 1]) & (pairs > 0).all(axis=1)], axis=0) - 1
    centres = _mean_ends(nuclei, ends)
    pairs = pairs[np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1) <= _SAME_CENTRE_PX]
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    merged = np.concatenate([[0], connected_components(graph, directed=False)[1] + 1])
    return merged[nuclei].astype(np.int32)


def cells_without_nucleus(
    nuclei: Labels, ends: NDArray[np.intp], inside: NDArray[np.bool_], *, min_area: float
) -> Labels:
    """Label the cells whose nucleus lies outside the frame.

    Their pixels flow to a place far from where the pixels of any nucleus flow to, and they touch the edge of the
    frame. Such a region away from the edge has its nucleus in the frame: it is part of a large cell in which the flows
    meet at two places.

    Parameters
    ----------
    nuclei
        Shape (H, W), labels 1..n with n > 0.
    ends
        Shape (H, W), where flows end (`flow_ends`).
    inside
        Shape (H, W), the pixels that belong to cells, including all nuclei.
    min_area
        Smaller regions are taken for parts of a neighbouring cell; a share of a typical cell's area.

    Returns
    -------
    ndarray
        Shape (H, W), labels 1..k.
    """
    reached = np.flatnonzero(np.bincount(ends[inside], minlength=inside.size))
    distance, _ = cKDTree(_mean_ends(nuclei, ends)).query(np.stack(np.divmod(reached, inside.shape[1]), axis=1))
    from_centre = np.zeros(inside.size)
    from_centre[reached] = distance
    far = inside & (from_centre[ends] > _OTHER_CENTRE_PX) & (nuclei == 0)
    regions, _ = ndimage.label(far)
    at_edge = np.isin(regions, edge_labels(regions)) & far
    return drop_small(np.where(at_edge, regions, 0).astype(np.int32), min_area)


def truncated_nuclei(cells: Labels, nuclei: Labels, min_share: float) -> list[int]:
    """Return the labels of cells whose nucleus lies mostly outside the frame.

    Parameters
    ----------
    cells, nuclei
        Shape (H, W); a nucleus carries the label of its cell.
    min_share
        Minimum visible area of a nucleus, as a share of the median area of the nuclei that do not touch the edge of
        the frame.
    """
    own = np.where(nuclei == cells, nuclei, 0)
    areas = np.bincount(own.ravel())
    at_edge = edge_labels(own)
    complete = np.setdiff1d(np.flatnonzero(areas), [0, *at_edge])
    enough = len(complete) >= _MIN_COMPLETE_NUCLEI
    typical = np.median(areas[complete]) if enough else _TYPICAL_NUCLEUS * TYPICAL_CELL_PX2
    return [int(label) for label in at_edge if areas[label] < min_share * typical]


def _mean_ends(nuclei: Labels, ends: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the mean place at which the flows of each nucleus's pixels end, shape (n, 2)."""
    own = nuclei > 0
    labels = nuclei[own] - 1
    areas = np.bincount(labels)
    return np.stack([np.bincount(labels, place) / areas for place in np.divmod(ends[own], nuclei.shape[1])], axis=1)


def assign_nuclei_to_cells(nuclei: Labels, cells: NDArray[np.integer[Any]]) -> Labels:
    """Give each nucleus the label of the cell that contains most of it, and clip it to that cell.

    Parameters
    ----------
    nuclei
        Shape (H, W), labels.
    cells
        Shape (H, W), labels that were made independently of the nuclei.

    Returns
    -------
    ndarray
        Shape (H, W), nuclei with the labels of their cells; a nucleus outside all cells is 0.

    Examples
    --------
    >>> nuclei = np.array([[1, 1, 2, 2, 2, 3]], dtype=np.int32)
    >>> assign_nuclei_to_cells(nuclei, np.array([[4, 4, 4, 9, 9, 0]]))
    array([[4, 4, 0, 9, 9, 0]], dtype=int32)
    """
    shared = np.zeros((nuclei.max() + 1, int(cells.max()) + 1), dtype=np.int64)
    np.add.at(shared, (nuclei, cells), 1)
    shared[:, 0] = 0
    cell_of = np.where(shared.max(axis=1) > 0, shared.argmax(axis=1), 0)
    cell_of[0] = 0
    assigned: Labels = np.where(cell_of[nuclei] == cells, cells, 0).astype(np.int32)
    return assigned

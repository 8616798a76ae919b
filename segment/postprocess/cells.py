"""Make cells from nuclei, flows and cell probability: every nucleus becomes one cell."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from segment.postprocess.labels import TYPICAL_CELL_PX2, Labels, bounding_boxes, drop_small, edge_labels, flood

# Distances at the network's scale, where a typical cell is 30 px wide:
_SAME_CENTRE_PX: Final = 5.0
_OTHER_CENTRE_PX: Final = 12.0

_TYPICAL_NUCLEUS: Final = 0.22  # share of its cell's area
_MIN_COMPLETE_NUCLEI: Final = 3  # with fewer, a typical nucleus is assumed instead of their median


def grow_nuclei(probability: NDArray[np.float32], nuclei: Labels, inside: NDArray[np.bool_]) -> Labels:
    """Grow nuclei into cells, from high to low probability, until they meet.

    Parameters
    ----------
    probability
        Shape (H, W), high within cells and low between them; any increasing function of a probability.
    nuclei
        Shape (H, W), labels.
    inside
        Shape (H, W), the pixels that belong to cells.

    Returns
    -------
    ndarray
        Shape (H, W), each cell with the label of its nucleus; pixels that no nucleus reaches are 0.
    """
    return flood(-probability, nuclei, inside | (nuclei > 0))


def reassign_by_flows(cells: Labels, ends: NDArray[np.intp]) -> Labels:
    """Assign each pixel to the cell in which its flow ends.

    Parameters
    ----------
    cells
        Shape (H, W), cells grown from nuclei.
    ends
        Shape (2, n), row and column at which the flow of each of the n cell pixels ends
        (`segment.network.cellpose.follow_flows`).

    Returns
    -------
    ndarray
        Shape (H, W); a pixel whose flow ends in the background keeps its label.

    Examples
    --------
    The third pixel flows into the second cell, the last into the background.

    >>> cells = np.array([[1, 1, 1, 2, 2, 0]], dtype=np.int32)
    >>> ends = np.array([[0, 0, 0, 0, 0], [0, 0, 4, 4, 5]])
    >>> reassign_by_flows(cells, ends)
    array([[1, 1, 2, 2, 2, 0]], dtype=int32)
    """
    target = cells[tuple(ends)]
    reassigned = cells.copy()
    reassigned[cells > 0] = np.where(target > 0, target, cells[cells > 0])
    return reassigned


def merge_nuclei(nuclei: Labels, ends: NDArray[np.intp], inside: NDArray[np.bool_]) -> Labels:
    """Merge nuclei, or pieces of one nucleus, whose flows end at the same place: the network sees one cell there.

    Parameters
    ----------
    nuclei
        Shape (H, W), labels 1..n.
    ends
        Shape (2, m), row and column at which the flow of each of the m pixels of `inside` ends.
    inside
        Shape (H, W), the pixels that belong to cells, including all nuclei.

    Returns
    -------
    ndarray
        Shape (H, W), labels 1..k; an object may consist of several pieces.
    """
    n = int(nuclei.max())
    pairs = (
        cKDTree(_median_ends(nuclei, ends, inside)).query_pairs(_SAME_CENTRE_PX, output_type="ndarray")
        if n
        else np.empty((0, 2), dtype=int)
    )
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    merged = np.concatenate([[0], connected_components(graph, directed=False)[1] + 1]) if n else np.zeros(1)
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
        Shape (2, m), row and column at which the flow of each of the m pixels of `inside` ends.
    inside
        Shape (H, W), the pixels that belong to cells, including all nuclei.
    min_area
        Smaller regions are taken for parts of a neighbouring cell; a share of a typical cell's area.

    Returns
    -------
    ndarray
        Shape (H, W), labels 1..k.
    """
    distance, _ = cKDTree(_median_ends(nuclei, ends, inside)).query(ends.T)
    far = np.zeros(inside.shape, dtype=bool)
    far[inside] = (distance > _OTHER_CENTRE_PX) & (nuclei[inside] == 0)
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


def _median_ends(nuclei: Labels, ends: NDArray[np.intp], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the median place at which the flows of each nucleus's pixels end, shape (n, 2)."""
    labels = nuclei[inside]
    return np.array([np.median(ends[:, labels == label], axis=1) for label in range(1, int(nuclei.max()) + 1)])


def make_connected(cells: Labels, nuclei: Labels) -> Labels:
    """Keep the piece of each cell that contains its nucleus, and give the other pieces to touching cells.

    Parameters
    ----------
    cells, nuclei
        Shape (H, W); a nucleus carries the label of its cell.

    Returns
    -------
    ndarray
        Shape (H, W); a piece that touches no cell is 0.

    Examples
    --------
    >>> cells = np.array([[1, 1, 2, 1, 2, 2, 0, 1]], dtype=np.int32)
    >>> nuclei = np.array([[1, 0, 0, 0, 2, 2, 0, 0]], dtype=np.int32)
    >>> make_connected(cells, nuclei)
    array([[1, 1, 1, 2, 2, 2, 0, 0]], dtype=int32)
    """
    cells = np.where(nuclei > 0, nuclei, cells)
    kept = np.zeros_like(cells)
    for label, window in bounding_boxes(cells):
        pieces, _ = ndimage.label(cells[window] == label)
        with_nucleus = np.unique(pieces[nuclei[window] == label])
        kept[window][np.isin(pieces, with_nucleus[with_nucleus > 0])] = label
    return flood(np.zeros(cells.shape), kept, cells > 0)


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

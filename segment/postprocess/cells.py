"""Cells from nuclei and the network's answer: one nucleus, one cell."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from segment.postprocess.labels import TYPICAL_CELL_PX2, Labels, bounding_boxes, drop_small, edge_labels, flood

# At the size the network works at, where a typical cell is 30 px wide:
_SAME_PLACE_PX: Final = 5.0
_OTHER_PLACE_PX: Final = 12.0

_TYPICAL_NUCLEUS: Final = 0.22  # share of its cell's area
_FEW: Final = 3


def grow_nuclei(probability: NDArray[np.float32], nuclei: Labels, inside: NDArray[np.bool_]) -> Labels:
    """Let nuclei grow over the cells, from high probability to low, until they meet.

    Parameters
    ----------
    probability
        Shape (H, W), high within cells and low between them; any increasing function of a probability.
    nuclei
        Shape (H, W), labels.
    inside
        Shape (H, W), where there are cells.

    Returns
    -------
    ndarray
        Shape (H, W), every cell with the label of its nucleus; what no nucleus reaches is 0.
    """
    return flood(-probability, nuclei, inside | (nuclei > 0))


def reassign_by_flows(cells: Labels, ends: NDArray[np.intp]) -> Labels:
    """Give every pixel the cell to which its flow leads.

    Parameters
    ----------
    cells
        Shape (H, W), cells grown from nuclei.
    ends
        Shape (2, n), where the flows of the n pixels of cells end (`segment.network.cellpose.follow`).

    Returns
    -------
    ndarray
        Shape (H, W); a pixel whose flow ends outside all cells keeps its label.
    """
    there = cells[tuple(ends)]
    followed = cells.copy()
    followed[cells > 0] = np.where(there > 0, there, cells[cells > 0])
    return followed


def merge_nuclei(nuclei: Labels, ends: NDArray[np.intp], inside: NDArray[np.bool_]) -> Labels:
    """Join nuclei, or pieces of one, whose flows end in the same place: the network sees one cell there.

    Parameters
    ----------
    nuclei
        Shape (H, W), labels 1..n.
    ends
        Shape (2, m), where the flows of the m pixels of `inside` end.
    inside
        Shape (H, W), with all nuclei.

    Returns
    -------
    ndarray
        Shape (H, W), labels 1..k; a label may have several pieces.
    """
    n = int(nuclei.max())
    pairs = (
        cKDTree(_ends_of(nuclei, ends, inside)).query_pairs(_SAME_PLACE_PX, output_type="ndarray")
        if n
        else np.empty((0, 2), dtype=int)
    )
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    joined = np.concatenate([[0], connected_components(graph, directed=False)[1] + 1]) if n else np.zeros(1)
    return joined[nuclei].astype(np.int32)


def cells_without_nucleus(
    nuclei: Labels, ends: NDArray[np.intp], inside: NDArray[np.bool_], *, min_area: float
) -> Labels:
    """Label the cells whose nucleus is not in the frame: pixels that lead to a place far from where any nucleus leads.

    Such a cell is cut by the edge of the frame. What lies away from the edge has its nucleus in the frame: it is a
    part of a large cell in which the flows meet twice.

    Parameters
    ----------
    nuclei
        Shape (H, W), labels 1..n with n > 0.
    ends
        Shape (2, m), where the flows of the m pixels of `inside` end.
    inside
        Shape (H, W), with all nuclei.
    min_area
        Smaller pieces are rather parts of a cell beside them; a share of a typical cell's area.

    Returns
    -------
    ndarray
        Shape (H, W), labels 1..k.
    """
    away, _ = cKDTree(_ends_of(nuclei, ends, inside)).query(ends.T)
    elsewhere = np.zeros(inside.shape, dtype=bool)
    elsewhere[inside] = (away > _OTHER_PLACE_PX) & (nuclei[inside] == 0)
    pieces, _ = ndimage.label(elsewhere)
    at_edge = np.isin(pieces, edge_labels(pieces)) & elsewhere
    return drop_small(np.where(at_edge, pieces, 0).astype(np.int32), min_area)


def truncated_nuclei(cells: Labels, nuclei: Labels, min_share: float) -> list[int]:
    """List the cells of whose nucleus the frame shows less than a share.

    Parameters
    ----------
    cells, nuclei
        Shape (H, W), a nucleus with the label of its cell.
    min_share
        Of the median area of the nuclei that the frame does not cut.
    """
    own = np.where(nuclei == cells, nuclei, 0)
    areas = np.bincount(own.ravel())
    cut = edge_labels(own)
    whole = np.setdiff1d(np.flatnonzero(areas), [0, *cut])
    typical = np.median(areas[whole]) if len(whole) >= _FEW else _TYPICAL_NUCLEUS * TYPICAL_CELL_PX2
    return [int(label) for label in cut if areas[label] < min_share * typical]


def _ends_of(nuclei: Labels, ends: NDArray[np.intp], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return where the pixels of each nucleus lead, shape (n, 2)."""
    own = nuclei[inside]
    return np.array([np.median(ends[:, own == label], axis=1) for label in range(1, int(nuclei.max()) + 1)])


def make_connected(cells: Labels, nuclei: Labels) -> Labels:
    """Keep of every cell the piece that holds its nucleus; fill holes; give lost pieces to a neighbour.

    Parameters
    ----------
    cells, nuclei
        Shape (H, W), a nucleus with the label of its cell.
    """
    cells = np.where(nuclei > 0, nuclei, cells)
    kept = np.zeros_like(cells)
    for label, window in bounding_boxes(cells):
        pieces, _ = ndimage.label(cells[window] == label)
        with_nucleus = np.unique(pieces[nuclei[window] == label])
        kept[window][np.isin(pieces, with_nucleus[with_nucleus > 0])] = label
    return flood(np.zeros(cells.shape), kept, cells > 0)


def assign_nuclei_to_cells(nuclei: Labels, cells: NDArray[np.integer[Any]]) -> Labels:
    """Give every nucleus the label of the cell that holds most of it, and cut it to that cell.

    Parameters
    ----------
    nuclei
        Shape (H, W), labels.
    cells
        Shape (H, W), labels made without regard to nuclei.

    Returns
    -------
    ndarray
        Shape (H, W), nuclei with the labels of cells; a nucleus in no cell is 0.
    """
    shared = np.zeros((nuclei.max() + 1, int(cells.max()) + 1), dtype=np.int64)
    np.add.at(shared, (nuclei, cells), 1)
    shared[:, 0] = 0
    owner = np.where(shared.max(axis=1) > 0, shared.argmax(axis=1), 0)
    owner[0] = 0
    owned: Labels = np.where(owner[nuclei] == cells, cells, 0).astype(np.int32)
    return owned

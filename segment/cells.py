"""Cells from nuclei and the network's answer: one nucleus, one cell."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from segment.objects import Labels, flood, windows

_SAME_PLACE_PX: Final = 5.0  # at the size the network works at, where a cell is 30 px wide


def grow(probability: NDArray[np.float32], nuclei: Labels, inside: NDArray[np.bool_]) -> Labels:
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


def follow_to_nuclei(cells: Labels, ends: NDArray[np.intp]) -> Labels:
    """Give every pixel the cell to which its flow leads.

    Parameters
    ----------
    cells
        Shape (H, W), cells grown from nuclei.
    ends
        Shape (2, n), where the flows of the n pixels of cells end (`segment.cellpose_core.follow`).

    Returns
    -------
    ndarray
        Shape (H, W); a pixel whose flow ends outside all cells keeps its label.
    """
    there = cells[tuple(ends)]
    followed = cells.copy()
    followed[cells > 0] = np.where(there > 0, there, cells[cells > 0])
    return followed


def join_nuclei(nuclei: Labels, ends: NDArray[np.intp], inside: NDArray[np.bool_]) -> Labels:
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
    ends_of = [np.median(ends[:, nuclei[inside] == label], axis=1) for label in range(1, n + 1)]
    pairs = cKDTree(ends_of).query_pairs(_SAME_PLACE_PX, output_type="ndarray") if n else np.empty((0, 2), dtype=int)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    joined = np.concatenate([[0], connected_components(graph, directed=False)[1] + 1]) if n else np.zeros(1)
    return joined[nuclei].astype(np.int32)


def connected(cells: Labels, nuclei: Labels) -> Labels:
    """Keep of every cell the piece that holds its nucleus; fill holes; give lost pieces to a neighbour.

    Parameters
    ----------
    cells, nuclei
        Shape (H, W), a nucleus with the label of its cell.
    """
    cells = np.where(nuclei > 0, nuclei, cells)
    kept = np.zeros_like(cells)
    for label, window in windows(cells):
        pieces, _ = ndimage.label(cells[window] == label)
        with_nucleus = np.unique(pieces[nuclei[window] == label])
        kept[window][np.isin(pieces, with_nucleus[with_nucleus > 0])] = label
    return flood(np.zeros(cells.shape), kept, cells > 0)


def owners(nuclei: Labels, cells: NDArray[np.integer[Any]]) -> Labels:
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

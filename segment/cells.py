"""Cells from nuclei and the network's answer: one nucleus, one cell."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segment.objects import Labels, flood, windows


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

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
_OTHER_CENTRE_PX: Final = 12.0
_MAX_APART_PX: Final = 30.0  # between the centres of the nuclei of one cell
_SAME_END_PX: Final = 6.0  # between the places to which they flow; 4 to 8 px give the same within 0.005 of AP
_MAX_BRIGHTNESS_RATIO: Final = 1.5  # of nuclei of one cell between which there is background
_DARK: Final = 0.02  # of a bright nucleus; below this, brightness is noise
_STEP_PX: Final = 2.0
_DIVERGENCE_BLUR_PX: Final = 0.7

_BORDER: Final = 0.1  # divergence above which flows part
_BORDER_HEIGHT: Final = 3.0  # of a divergence of 1, in units of the logit; 3 to 30 give the same within 0.01 of AP
_SAMPLES: Final = 24  # along a line of at most 30 px
_DOUBLINGS: Final = 6

_TYPICAL_NUCLEUS: Final = 0.22  # share of its cell's area
_MIN_COMPLETE_NUCLEI: Final = 3  # with fewer, a typical nucleus is assumed instead of their median


def flow_divergence(flows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return where the flows part: positive at the border of two cells, negative at the centre of a cell.

    Parameters
    ----------
    flows
        Shape (2, H, W), rows and columns, unit length.

    Returns
    -------
    ndarray
        Shape (H, W), per pixel; about 1 at a sharp border between touching cells.
    """
    divergence = np.gradient(flows[0], axis=0) + np.gradient(flows[1], axis=1)
    return np.asarray(cv2.GaussianBlur(divergence, (0, 0), _DIVERGENCE_BLUR_PX))


def merge_nuclei(
    nuclei: Labels,
    ends: NDArray[np.intp],
    divergence: NDArray[np.float32],
    nucleus_plane: NDArray[np.float32],
) -> Labels:
    """Merge nuclei, or pieces of a lobed or folded nucleus, that the network sees in one cell.

    Two belong to one cell if their flows end at the same place and part nowhere on the line between their centres.
    Neither is enough: the flows of small touching cells end within a few pixels of each other, and those of two cells
    that lie loosely side by side need not part on that line. Nuclei with background between them must also be about
    equally bright: the nuclei of one cell divide together, so they hold as much DNA and are as condensed, while those
    of two cells often differ.

    Parameters
    ----------
    nuclei
        Shape (H, W), labels 1..n.
    ends
        Shape (H, W), where flows end (`flow_ends`).
    divergence
        Shape (H, W), of the flows (`flow_divergence`).
    nucleus_plane
        Shape (H, W), the nucleus channel of the network input.

    Returns
    -------
    ndarray
        Shape (H, W), labels 1..k; an object may consist of several pieces.
    """
    n = int(nuclei.max())
    places = np.argwhere(nuclei)
    labels = nuclei[tuple(places.T)] - 1
    areas = np.bincount(labels)
    centres = np.stack([np.bincount(labels, place) / areas for place in places.T], axis=1)
    pairs = cKDTree(centres).query_pairs(_MAX_APART_PX, output_type="ndarray")
    along = np.linspace(0, 1, _SAMPLES)[:, None, None]
    lines = centres[pairs[:, 0]] * (1 - along) + centres[pairs[:, 1]] * along
    borders = ndimage.map_coordinates(divergence, np.moveaxis(lines, -1, 0), order=1).max(axis=0)
    apart = (nuclei[tuple(np.rint(np.moveaxis(lines, -1, 0)).astype(np.intp))] == 0).any(axis=0)
    brightness = np.maximum(np.bincount(labels, nucleus_plane[tuple(places.T)]) / areas, _DARK)
    differ = np.abs(np.log(brightness[pairs[:, 0]] / brightness[pairs[:, 1]])) > np.log(_MAX_BRIGHTNESS_RATIO)
    end = _mean_ends(nuclei, ends)
    together = np.linalg.norm(end[pairs[:, 0]] - end[pairs[:, 1]], axis=1) <= _SAME_END_PX
    first, second = pairs[together & (borders <= _BORDER) & ~(apart & differ)].T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(n, n))
    merged = np.concatenate([[0], connected_components(graph, directed=False)[1] + 1])
    return merged[nuclei].astype(np.int32)


def grow_nuclei(
    nuclei: Labels, cell_logit: NDArray[np.float32], divergence: NDArray[np.float32], inside: NDArray[np.bool_]
) -> Labels:
    """Grow nuclei into cells until they meet at the borders that the network sees.

    The cell probability falls towards the background but not between touching cells; there the flows part.

    Parameters
    ----------
    nuclei
        Shape (H, W), labels.
    cell_logit
        Shape (H, W).
    divergence
        Shape (H, W), of the flows (`flow_divergence`).
    inside
        Shape (H, W), the pixels that belong to cells.

    Returns
    -------
    ndarray
        Shape (H, W), each cell with the label of its nucleus; pixels that no nucleus reaches are 0.
    """
    return flood(_BORDER_HEIGHT * divergence - cell_logit, nuclei, inside | (nuclei > 0))


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
    ends: NDArray[np.intp] = (rows * width + columns).ravel()
    for _ in range(_DOUBLINGS):
        ends = ends[ends]
    return ends.reshape(inside.shape)


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
    both = (nuclei > 0) & (cells > 0)
    pairs, sizes = np.unique(np.stack([nuclei[both], cells[both]]), axis=1, return_counts=True)
    order = np.lexsort((-pairs[1], sizes))  # the largest part comes last and stays; of equal ones, the lowest label
    cell_of = np.zeros(int(nuclei.max(initial=0)) + 1, dtype=np.int64)
    cell_of[pairs[0, order]] = pairs[1, order]
    assigned: Labels = np.where(cell_of[nuclei] == cells, cells, 0).astype(np.int32)
    return assigned

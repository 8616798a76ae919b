"""Make cells from nuclei and flows, on small arrays."""

import numpy as np
import pytest
import torch
from cellpose import dynamics
from numpy.typing import NDArray

from segment.network.cellpose import flows_from_labels
from segment.postprocess.cells import (
    assign_nuclei_to_cells,
    cell_landscape,
    cells_without_nucleus,
    flow_ends,
    grow_nuclei,
    merge_pieces,
    truncated_nuclei,
)
from segment.score import mask_average_precision
from tests.segment.shapes import discs


def test_cells_grow_until_they_meet_in_the_valley() -> None:
    probability = np.full((9, 21), 5.0, dtype=np.float32)
    probability[:, 14] = 1.0  # the valley is nearer to the right nucleus
    nuclei = np.zeros((9, 21), dtype=np.int32)
    nuclei[4, 3], nuclei[4, 17] = 1, 2
    cells = grow_nuclei(probability, nuclei, np.ones((9, 21), dtype=bool))
    assert (cells[:, :14] == 1).all()
    assert (cells[:, 15:] == 2).all()
    outside = grow_nuclei(probability, nuclei, np.zeros((9, 21), dtype=bool))
    assert (outside == nuclei).all()


def test_a_border_between_cells_lies_where_their_flows_part() -> None:
    """Two touching cells with one flat cell probability; the nuclei do not lie in their middles."""
    cells = discs((40, 60), [(20, 18), (20, 41)], 14)
    nuclei = discs((40, 60), [(20, 26), (20, 46)], 3).astype(np.int32)
    landscape = cell_landscape(flows_from_labels(cells), np.full(cells.shape, 4, np.float32))
    assert mask_average_precision(grow_nuclei(landscape, nuclei, cells > 0), cells, 0.9) == 1
    flat = grow_nuclei(np.full(cells.shape, 4, np.float32), nuclei, cells > 0)
    assert mask_average_precision(flat, cells, 0.9) < 1, "without the flows the border lies elsewhere"


def test_flows_end_where_cellpose_follows_them_to() -> None:
    cells = discs((96, 80), [(24, 20), (24, 46), (64, 50)], 15)
    cells[50:, :20] = 4  # a long cell at the edge of the frame
    flows = flows_from_labels(cells)
    ends = np.stack(np.divmod(flow_ends(flows, cells > 0), 80))[:, cells > 0]
    followed = dynamics.follow_flows(flows * (cells > 0), (cells > 0).nonzero(), niter=200, device=torch.device("cpu"))
    assert np.quantile(np.linalg.norm(ends - np.asarray(followed), axis=0), 0.98) < 3
    assert (cells[tuple(ends)] == cells[cells > 0]).mean() > 0.99


def test_touching_pieces_whose_flows_meet_are_merged() -> None:
    """Of 1 and 2, 2 and 3, 4 and 5 all pairs have flows that meet within 5 px; 2 and 3 do not touch."""
    nuclei = np.array([[1, 1, 0, 0, 3, 4, 5], [0, 0, 2, 0, 3, 4, 5]], dtype=np.int32)
    ends = np.broadcast_to(np.array([0, 0, 2, 3, 3, 60, 62]), nuclei.shape).copy()
    wide = np.zeros((2, 80), dtype=np.int32)
    wide[:, :7] = nuclei
    leads = np.zeros((2, 80), dtype=np.intp)
    leads[:, :7] = ends
    assert merge_pieces(wide, leads)[:, :7].tolist() == [[1, 1, 0, 0, 2, 3, 3], [0, 0, 1, 0, 2, 3, 3]]


def test_pixels_that_flow_far_from_any_nucleus_form_a_cell_without_one() -> None:
    """Of two adjacent cells, the first flows to its nucleus and the second to a place without one."""
    inside = np.ones((20, 40), dtype=bool)
    nuclei = np.zeros((20, 40), dtype=np.int32)
    nuclei[8:12, 5:9] = 1
    columns = np.arange(40) + np.zeros((20, 1), dtype=np.intp)
    ends = 10 * 40 + np.where(columns < 20, 7, 32)
    found = cells_without_nucleus(nuclei, ends, inside, min_area=0.2)
    assert np.array_equal(found, columns >= 20)
    assert not cells_without_nucleus(nuclei, ends, inside, min_area=0.9).any(), (
        "a small region belongs to a neighbouring cell"
    )
    ends[:] = 10 * 40 + 7
    assert not cells_without_nucleus(nuclei, ends, inside, min_area=0.0).any()


@pytest.mark.parametrize("turns", range(4))
def test_only_a_cell_at_the_edge_of_the_frame_can_lack_a_nucleus(turns: int) -> None:
    nuclei = np.zeros((50, 60), dtype=np.int32)
    nuclei[20:24, 8:12] = 1
    inside = np.zeros(nuclei.shape, dtype=bool)
    inside[10:40, 4:56] = True  # one cell, or two that touch
    leads = np.where(np.arange(60) < 30, 22 * 60 + 10, 25 * 60 + 45) + np.zeros((50, 1), dtype=np.intp)

    def found(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        # The places are turned with the frame by looking up where each pixel went.
        numbers = np.rot90(np.arange(nuclei.size).reshape(nuclei.shape), turns).ravel()
        ends = np.argsort(numbers)[np.rot90(leads, turns)]
        pixels = cells_without_nucleus(np.rot90(nuclei, turns), ends, np.rot90(inside, turns), min_area=0.2)
        return np.rot90(pixels, -turns)

    assert not found(inside).any(), "a region away from the edge belongs to a nucleus in the frame"
    reaching = inside.copy()
    reaching[10:40, 56:] = True
    assert np.array_equal(found(reaching), reaching & (np.arange(60) >= 30))


def test_nuclei_that_are_mostly_outside_the_frame_are_listed() -> None:
    cells = np.zeros((60, 60), dtype=np.int32)
    nuclei = np.zeros((60, 60), dtype=np.int32)
    for label, (row, column) in enumerate([(20, 20), (20, 40), (40, 20), (40, 45)], start=1):
        nuclei[row - 5 : row + 5, column - 5 : column + 5] = label  # 100 px each
    nuclei[:2, 10:20] = 5  # a fifth of one
    nuclei[:4, 40:50] = 6
    cells = np.maximum(cells, nuclei)
    assert truncated_nuclei(cells, nuclei, 0.25) == [5]
    assert truncated_nuclei(cells, nuclei, 0.5) == [5, 6]
    assert truncated_nuclei(cells, nuclei, 0.0) == []


def test_nuclei_get_the_label_of_the_cell_that_contains_most_of_them() -> None:
    cells = np.array([[4, 4, 4, 9, 9, 0]], dtype=np.uint16)
    nuclei = np.array([[1, 1, 2, 2, 2, 3]], dtype=np.int32)
    assert assign_nuclei_to_cells(nuclei, cells).tolist() == [[4, 4, 0, 9, 9, 0]]

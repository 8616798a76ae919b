"""Make cells from nuclei and flows, on small arrays."""

import numpy as np
import pytest
import torch
from cellpose import dynamics
from numpy.typing import NDArray

from segment.network.cellpose import flows_from_labels
from segment.postprocess.cells import (
    assign_nuclei_to_cells,
    cells_without_nucleus,
    flow_divergence,
    flow_ends,
    grow_nuclei,
    merge_nuclei,
    truncated_nuclei,
)
from segment.score import mask_average_precision
from tests.support.shapes import discs


def test_cells_grow_until_they_meet_in_the_valley() -> None:
    probability = np.full((9, 21), 5.0, dtype=np.float32)
    probability[:, 14] = 1.0  # the valley is nearer to the right nucleus
    nuclei = np.zeros((9, 21), dtype=np.int32)
    nuclei[4, 3], nuclei[4, 17] = 1, 2
    nowhere = np.zeros((9, 21), dtype=np.float32)
    cells = grow_nuclei(nuclei, probability, nowhere, np.ones((9, 21), dtype=bool))
    assert (cells[:, :14] == 1).all()
    assert (cells[:, 15:] == 2).all()
    outside = grow_nuclei(nuclei, probability, nowhere, np.zeros((9, 21), dtype=bool))
    assert (outside == nuclei).all()


def test_a_border_between_cells_lies_where_their_flows_part() -> None:
    """Two touching cells with one flat cell probability; the nuclei do not lie in their middles."""
    cells = discs((40, 60), [(20, 18), (20, 41)], 14)
    nuclei = discs((40, 60), [(20, 26), (20, 46)], 3).astype(np.int32)
    flat = np.full(cells.shape, 4, np.float32)
    divergence = flow_divergence(flows_from_labels(cells))
    assert mask_average_precision(grow_nuclei(nuclei, flat, divergence, cells > 0), cells, 0.9) == 1
    blind = grow_nuclei(nuclei, flat, np.zeros_like(flat), cells > 0)
    assert mask_average_precision(blind, cells, 0.9) < 1, "without the flows the border lies elsewhere"


@pytest.mark.parametrize("radius", [6, 9, 14])
@pytest.mark.parametrize("turned", [False, True])
def test_nuclei_of_one_cell_merge_and_those_of_touching_cells_do_not(radius: int, turned: bool) -> None:
    """Cells 1 and 2 touch, and so do their nuclei, 1 and 2; cell 3 is long and has the nuclei 3 and 4, well apart."""
    cells = discs((64, 80), [(16, 16), (16, 16 + 2 * radius)], radius)
    nuclei = discs((64, 80), [(16, 15 + 0.55 * radius), (16, 17 + 1.45 * radius)], 0.5 * radius).astype(np.int32)
    cells[40:60, 10:36] = 3
    nuclei[44:54, 14:20], nuclei[46:58, 25:31] = 3, 4
    if turned:
        cells, nuclei = cells.T, nuclei.T
    flows = flows_from_labels(cells)
    evenly_bright = (nuclei > 0).astype(np.float32)
    found = merge_nuclei(nuclei, flow_ends(flows, cells > 0), flow_divergence(flows), evenly_bright)
    assert np.array_equal(found, np.array([0, 1, 2, 3, 3])[nuclei])


def test_nuclei_whose_flows_end_apart_or_part_between_them_do_not_merge() -> None:
    """Two equal nuclei of 8 px with 3 px between them; what the network says decides."""
    nuclei = np.zeros((30, 40), dtype=np.int32)
    nuclei[11:19, 8:16], nuclei[11:19, 19:27] = 1, 2
    nowhere, parting = np.zeros((2, *nuclei.shape), dtype=np.float32)
    parting[:, 17] = 1
    plane = (nuclei > 0).astype(np.float32)
    same, nearly, own = (17, 17), (15, 19), (12, 22)
    for columns, divergence, cells in ((same, nowhere, 1), (nearly, nowhere, 1), (own, nowhere, 2), (same, parting, 2)):
        ends = 15 * 40 + np.array([0, *columns])[nuclei]
        assert merge_nuclei(nuclei, ends, divergence, plane).max() == cells


def test_nuclei_apart_in_one_cell_are_equally_bright() -> None:
    """Nuclei 1 and 2 have background between them; 3 and 4 are pieces of one nucleus. The flows part nowhere."""
    nuclei = np.zeros((60, 40), dtype=np.int32)
    nuclei[6:14, 6:14], nuclei[6:14, 17:25] = 1, 2
    nuclei[40:50, 6:14], nuclei[40:50, 14:20] = 3, 4
    nowhere = np.zeros(nuclei.shape, dtype=np.float32)
    ends = np.array([0, 10 * 40 + 15, 10 * 40 + 15, 45 * 40 + 13, 45 * 40 + 13])[nuclei]
    for brightness, merged in (
        ((0, 0.9, 0.7, 0.9, 0.7), (0, 1, 1, 2, 2)),
        ((0, 0.9, 0.5, 0.9, 0.5), (0, 1, 2, 3, 3)),
        ((0, 0.5, 0.9, 0.5, 0.9), (0, 1, 2, 3, 3)),
    ):
        plane = np.array(brightness, dtype=np.float32)[nuclei]
        assert np.array_equal(merge_nuclei(nuclei, ends, nowhere, plane), np.array(merged)[nuclei])


def test_one_nucleus_is_left_as_it_is_and_distant_ones_too() -> None:
    nuclei = np.zeros((20, 50), dtype=np.int32)
    flat = np.zeros(nuclei.shape, dtype=np.float32)
    one_place = np.full(nuclei.shape, 6 * 50 + 20)
    nuclei[4:8, 4:8] = 1
    assert np.array_equal(merge_nuclei(nuclei, one_place, flat, flat), nuclei)
    nuclei[4:8, 36:40] = 2
    assert np.array_equal(merge_nuclei(nuclei, one_place, flat, flat), nuclei)
    nuclei[4:8, 31:36] = 2
    assert merge_nuclei(nuclei, one_place, flat, flat).max() == 1


def test_flows_end_where_cellpose_follows_them_to() -> None:
    cells = discs((96, 80), [(24, 20), (24, 46), (64, 50)], 15)
    cells[50:, :20] = 4  # a long cell at the edge of the frame
    flows = flows_from_labels(cells)
    ends = np.stack(np.divmod(flow_ends(flows, cells > 0), 80))[:, cells > 0]
    followed = dynamics.follow_flows(flows * (cells > 0), (cells > 0).nonzero(), niter=200, device=torch.device("cpu"))
    assert np.quantile(np.linalg.norm(ends - np.asarray(followed), axis=0), 0.98) < 3
    assert (cells[tuple(ends)] == cells[cells > 0]).mean() > 0.99


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


def test_background_owns_no_nucleus() -> None:
    """A nucleus of which most lies outside all cells belongs to the cell that contains most of the rest."""
    cells = np.array([[0, 0, 0, 4, 9, 9, 0, 0]], dtype=np.uint16)
    nuclei = np.array([[1, 1, 1, 1, 1, 1, 0, 2]], dtype=np.int32)
    assert assign_nuclei_to_cells(nuclei, cells).tolist() == [[0, 0, 0, 0, 9, 9, 0, 0]]
    assert not assign_nuclei_to_cells(nuclei, np.zeros_like(cells)).any()

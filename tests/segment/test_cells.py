"""Make cells from nuclei and flows, on small arrays."""

import numpy as np
import pytest
from numpy.typing import NDArray

from segment.postprocess.cells import (
    assign_nuclei_to_cells,
    cells_without_nucleus,
    grow_nuclei,
    make_connected,
    merge_nuclei,
    reassign_by_flows,
    truncated_nuclei,
)


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


def test_pixels_join_the_cell_in_which_their_flow_ends() -> None:
    cells = np.array([[1, 1, 1, 2, 2, 0]], dtype=np.int32)
    ends = np.array([[0, 0, 0, 0, 0], [0, 0, 4, 4, 5]])  # the third pixel flows into the second cell, the last outside
    assert reassign_by_flows(cells, ends).tolist() == [[1, 1, 2, 2, 2, 0]]


def test_nuclei_whose_flows_meet_are_merged() -> None:
    nuclei = np.array([[1, 0, 2, 3, 0, 4]], dtype=np.int32)
    inside = np.ones((1, 6), dtype=bool)
    ends = np.array([[0, 0, 0, 0, 0, 0], [10, 10, 12, 30, 30, 33]])
    assert merge_nuclei(nuclei, ends, inside).tolist() == [[1, 0, 1, 2, 0, 2]]
    nothing = np.zeros((1, 6), dtype=np.int32)
    assert not merge_nuclei(nothing, ends, inside).any()


def test_pixels_that_flow_far_from_any_nucleus_form_a_cell_without_one() -> None:
    """Of two adjacent cells, the first flows to its nucleus and the second to a place without one."""
    inside = np.ones((20, 40), dtype=bool)
    nuclei = np.zeros((20, 40), dtype=np.int32)
    nuclei[8:12, 5:9] = 1
    rows, columns = inside.nonzero()
    ends = np.array([np.full_like(rows, 10), np.where(columns < 20, 7, 32)])
    found = cells_without_nucleus(nuclei, ends, inside, min_area=0.2)
    assert np.array_equal(found, np.arange(40) >= 20 + np.zeros((20, 1)))
    assert not cells_without_nucleus(nuclei, ends, inside, min_area=0.9).any(), (
        "a small region belongs to a neighbouring cell"
    )
    ends[1] = 7
    assert not cells_without_nucleus(nuclei, ends, inside, min_area=0.0).any()


@pytest.mark.parametrize("turns", range(4))
def test_only_a_cell_at_the_edge_of_the_frame_can_lack_a_nucleus(turns: int) -> None:
    nuclei = np.zeros((50, 60), dtype=np.int32)
    nuclei[20:24, 8:12] = 1
    inside = np.zeros(nuclei.shape, dtype=bool)
    inside[10:40, 4:56] = True  # one cell, or two that touch
    left = np.zeros((2, *nuclei.shape), dtype=np.intp) + np.array([22, 10])[:, None, None]
    leads = np.where(np.arange(60) < 30, left, np.array([25, 45])[:, None, None])

    def found(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        turned = np.rot90(inside, turns)
        # The places are turned with the frame by looking up where each pixel went.
        numbers = np.arange(nuclei.size).reshape(nuclei.shape)
        goal = np.rot90(numbers[tuple(leads)], turns)[turned]
        turned_numbers = np.rot90(numbers, turns).ravel()
        ends = np.array(np.unravel_index(np.argsort(turned_numbers)[goal], turned.shape))
        pixels = cells_without_nucleus(np.rot90(nuclei, turns), ends, turned, min_area=0.2)
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


def test_a_detached_piece_goes_to_a_touching_cell_or_is_dropped() -> None:
    cells = np.array([[1, 1, 2, 1, 2, 2, 0, 1]], dtype=np.int32)
    nuclei = np.array([[1, 0, 0, 0, 2, 2, 0, 0]], dtype=np.int32)
    assert make_connected(cells, nuclei).tolist() == [[1, 1, 1, 2, 2, 2, 0, 0]]


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

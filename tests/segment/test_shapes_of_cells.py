"""Nuclei, cells and smooth edges, on discs whose truth is known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from segment.inference.preprocess import normalise, prepare_input, reduce_labels, reduce_planes
from segment.network.scale import network_shape
from segment.postprocess.cells import (
    assign_nuclei_to_cells,
    cells_without_nucleus,
    grow_nuclei,
    make_connected,
    merge_nuclei,
    reassign_by_flows,
    truncated_nuclei,
)
from segment.postprocess.labels import TYPICAL_CELL_PX2, drop_small, enlarge_labels
from segment.postprocess.nuclei import nuclei_from_channel, nuclei_from_logits, nucleus_cores
from segment.score import average_precision, match_cells
from segment.watershed import watershed_cells
from tests.segment.shapes import discs

TOUCHING = discs((64, 64), [(20, 20), (20, 33), (48, 40)], 7)


def test_cores_of_touching_nuclei_stay_apart() -> None:
    core = nucleus_cores(TOUCHING)
    assert ndimage.label(TOUCHING > 0)[1] == 2
    assert ndimage.label(core)[1] == 3
    assert not (core & (TOUCHING == 0)).any()


def test_nuclei_come_back_from_their_own_logits() -> None:
    nucleus = np.where(TOUCHING > 0, 4.0, -4.0).astype(np.float32)
    core = np.where(nucleus_cores(TOUCHING), 4.0, -4.0).astype(np.float32)
    found = nuclei_from_logits(nucleus, core, level=0.0, min_area=0.03)
    assert average_precision(found, TOUCHING, 0.8) == 1


def test_a_nucleus_without_a_core_is_one_nucleus_and_a_speck_is_none() -> None:
    nucleus = np.where(TOUCHING > 0, 4.0, -4.0).astype(np.float32)
    nucleus[60:62, 2:4] = 4
    found = nuclei_from_logits(nucleus, np.full_like(nucleus, -4), level=0.0, min_area=0.03)
    assert found.max() == 2
    assert found[61, 3] == 0


def test_nuclei_of_the_channel_split_where_they_touch() -> None:
    plane = ndimage.gaussian_filter((TOUCHING > 0) * np.float32(200), 1)
    found = nuclei_from_channel(plane, min_area=0.03)
    assert average_precision(found, TOUCHING, 0.7) == 1
    assert not nuclei_from_channel(np.zeros((32, 32), np.float32), min_area=0.03).any()


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


def test_pixels_go_where_their_flow_leads() -> None:
    cells = np.array([[1, 1, 1, 2, 2, 0]], dtype=np.int32)
    ends = np.array([[0, 0, 0, 0, 0], [0, 0, 4, 4, 5]])  # the third pixel flows into the second cell, the last outside
    assert reassign_by_flows(cells, ends).tolist() == [[1, 1, 2, 2, 2, 0]]


def test_nuclei_whose_flows_meet_are_one() -> None:
    nuclei = np.array([[1, 0, 2, 3, 0, 4]], dtype=np.int32)
    inside = np.ones((1, 6), dtype=bool)
    ends = np.array([[0, 0, 0, 0, 0, 0], [10, 10, 12, 30, 30, 33]])
    assert merge_nuclei(nuclei, ends, inside).tolist() == [[1, 0, 1, 2, 0, 2]]
    nothing = np.zeros((1, 6), dtype=np.int32)
    assert not merge_nuclei(nothing, ends, inside).any()


def test_pixels_that_lead_far_from_any_nucleus_are_of_a_cell_without_one() -> None:
    """Two cells in a row of pixels: the first leads to its nucleus, the second to a place of its own."""
    inside = np.ones((20, 40), dtype=bool)
    nuclei = np.zeros((20, 40), dtype=np.int32)
    nuclei[8:12, 5:9] = 1
    rows, columns = inside.nonzero()
    ends = np.array([np.full_like(rows, 10), np.where(columns < 20, 7, 32)])
    found = cells_without_nucleus(nuclei, ends, inside, min_area=0.2)
    assert np.array_equal(found, np.arange(40) >= 20 + np.zeros((20, 1)))
    assert not cells_without_nucleus(nuclei, ends, inside, min_area=0.9).any(), (
        "too small a piece is a part of a neighbour"
    )
    ends[1] = 7
    assert not cells_without_nucleus(nuclei, ends, inside, min_area=0.0).any()


@pytest.mark.parametrize("turns", range(4))
def test_a_cell_without_a_nucleus_reaches_the_edge_of_the_frame(turns: int) -> None:
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

    assert not found(inside).any(), "a piece within the frame belongs to a nucleus of it"
    reaching = inside.copy()
    reaching[10:40, 56:] = True
    assert np.array_equal(found(reaching), reaching & (np.arange(60) >= 30))


def test_cells_of_which_the_frame_shows_a_sliver_of_a_nucleus() -> None:
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


def test_cells_without_a_network() -> None:
    cells = discs((200, 240), [(60, 60), (60, 110), (140, 170)], 26)
    nuclei = discs((200, 240), [(60, 60), (60, 110), (140, 170)], 11)
    er = ndimage.gaussian_filter(np.where(cells == 2, 60.0, (cells > 0) * 180.0), 2).astype(np.uint8)  # the 2nd is dim
    planes = np.stack([er, ((nuclei > 0) * 200).astype(np.uint8)])
    assert average_precision(watershed_cells(prepare_input(planes, 52)), cells, 0.5) == 1
    assert not watershed_cells(prepare_input(np.zeros_like(planes), 52)).any()


def test_a_lost_piece_goes_to_its_neighbour_and_a_stray_one_away() -> None:
    cells = np.array([[1, 1, 2, 1, 2, 2, 0, 1]], dtype=np.int32)
    nuclei = np.array([[1, 0, 0, 0, 2, 2, 0, 0]], dtype=np.int32)
    assert make_connected(cells, nuclei).tolist() == [[1, 1, 1, 2, 2, 2, 0, 0]]


def test_nuclei_take_the_label_of_the_cell_that_holds_most_of_them() -> None:
    cells = np.array([[4, 4, 4, 9, 9, 0]], dtype=np.uint16)
    nuclei = np.array([[1, 1, 2, 2, 2, 3]], dtype=np.int32)
    assert assign_nuclei_to_cells(nuclei, cells).tolist() == [[4, 4, 0, 9, 9, 0]]


def test_small_objects_are_dropped_by_share_of_a_cell() -> None:
    labels = discs((64, 64), [(16, 16)], 6).astype(np.int32)
    labels[60, 60] = 2
    labels[40:44, 40:44] = 5
    assert drop_small(labels, 10 / TYPICAL_CELL_PX2).max() == 2
    assert set(np.unique(drop_small(labels, 0))) == {0, 1, 2, 3}


@pytest.mark.parametrize("factor", [1, 3.3, 13])
def test_enlarged_edges_are_smooth(factor: float) -> None:
    """The truth is a disc; nearest-neighbour enlargement reaches 0.95 at most."""
    size = round(64 * factor)
    centres = [(20.0, 22.0), (42.0, 40.0)]
    full = discs((size, size), [((r + 0.5) * factor - 0.5, (c + 0.5) * factor - 0.5) for r, c in centres], 12 * factor)
    small = discs((64, 64), centres, 12)
    rows, columns = np.mgrid[:64, :64]
    away = np.min([np.hypot(rows - r, columns - c) for r, c in centres], axis=0)
    found = enlarge_labels(small, (12 - away).astype(np.float32), 0.0, (size, size))
    assert len(match_cells(found, full, 0.96)) == 2


def test_enlarging_to_the_same_size_changes_nothing_but_edges() -> None:
    logit = np.where(TOUCHING > 0, 3.0, -3.0).astype(np.float32)
    found = enlarge_labels(TOUCHING, logit, 0.0, TOUCHING.shape)
    assert average_precision(found, TOUCHING, 0.9) == 1


def test_shapes_and_labels_of_the_network() -> None:
    assert network_shape(512, 1024, 100) == (154, 307)
    assert network_shape(8, 8, 1000) == (16, 16)
    labels = np.array([[1, 2], [0, 3]], dtype=np.uint16).repeat(4, axis=0).repeat(4, axis=1)
    assert reduce_labels(labels, (2, 2)).tolist() == [[1, 2], [0, 3]]
    assert reduce_planes(labels[np.newaxis], (2, 2)).tolist() == [[[1, 2], [0, 3]]]


def test_normalising_flat_and_sparse_planes() -> None:
    planes = np.zeros((3, 50, 50), dtype=np.float32)
    planes[1] = 7
    planes[2, 0, 0] = 100
    scaled = normalise(planes)
    assert not scaled[:2].any()
    assert scaled[2, 0, 0] == 10  # a tenth of the range, not the background, is 1
    ramp = normalise(np.arange(101, dtype=np.float32).reshape(1, 1, 101))
    assert ramp[0, 0, [1, 99]].tolist() == [0, 1]

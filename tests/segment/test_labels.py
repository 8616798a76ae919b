"""Filter label images by size and enlarge them."""

import numpy as np
import pytest

from segment.postprocess.labels import TYPICAL_CELL_PX2, drop_small, enlarge_labels
from segment.score import mask_average_precision, match_cells
from tests.support.shapes import TOUCHING, discs


def test_small_objects_are_dropped_by_share_of_a_cell() -> None:
    labels = discs((64, 64), [(16, 16)], 6).astype(np.int32)
    labels[60, 60] = 2
    labels[40:44, 40:44] = 5
    assert drop_small(labels, 10 / TYPICAL_CELL_PX2).max() == 2
    assert set(np.unique(drop_small(labels, 0))) == {0, 1, 2, 3}


@pytest.mark.parametrize("factor", [1, 3.3, 13])
def test_enlarged_edges_are_smooth(factor: float) -> None:
    """The truth is two discs; nearest-neighbour enlargement reaches an IoU of 0.95 at most."""
    size = round(64 * factor)
    centres = [(20.0, 22.0), (42.0, 40.0)]
    full = discs((size, size), [((r + 0.5) * factor - 0.5, (c + 0.5) * factor - 0.5) for r, c in centres], 12 * factor)
    small = discs((64, 64), centres, 12)
    rows, columns = np.mgrid[:64, :64]
    away = np.min([np.hypot(rows - r, columns - c) for r, c in centres], axis=0)
    found = enlarge_labels(small, (12 - away).astype(np.float32), 0.0, (size, size))
    assert len(match_cells(found, full, 0.96)) == 2


def test_enlarging_to_the_same_size_changes_only_edges() -> None:
    logit = np.where(TOUCHING > 0, 3.0, -3.0).astype(np.float32)
    found = enlarge_labels(TOUCHING, logit, 0.0, TOUCHING.shape)
    assert mask_average_precision(found, TOUCHING, 0.9) == 1


@pytest.mark.parametrize("shape", [(96, 192), (192, 96), (48, 216)])
def test_objects_keep_their_places_where_rows_and_columns_grow_differently(shape: tuple[int, int]) -> None:
    """A pixel (r, c) of the small image covers rows r k..(r + 1) k of the large one, and likewise its columns."""
    small = np.zeros((24, 36), dtype=np.int32)
    boxes = {1: (3, 4, 9, 16), 2: (12, 20, 21, 32)}
    for label, (top, left, bottom, right) in boxes.items():
        small[top:bottom, left:right] = label
    found = enlarge_labels(small, np.where(small > 0, 3.0, -3.0).astype(np.float32), 0.0, shape)
    k = np.array(shape) / small.shape
    for label, (top, left, bottom, right) in boxes.items():
        rows, columns = np.nonzero(found == label)
        centre = np.array([top + bottom, left + right]) / 2 * k - 0.5
        np.testing.assert_allclose([rows.mean(), columns.mean()], centre, atol=0.5)
        extent = np.array([np.ptp(rows) + 1, np.ptp(columns) + 1])
        np.testing.assert_allclose(extent, np.array([bottom - top, right - left]) * k, atol=1.1 * k.max())
    assert found.shape == shape


@pytest.mark.parametrize("shape", [(96, 192), (192, 96), (60, 300)])
def test_touching_objects_meet_on_the_enlarged_border(shape: tuple[int, int]) -> None:
    quarters = np.array([[1, 2], [3, 4]]).repeat([9, 15], axis=0).repeat([22, 14], axis=1)
    found = enlarge_labels(quarters, np.full(quarters.shape, 3, dtype=np.float32), 0.0, shape)
    row, column = round(9 * shape[0] / 24), round(22 * shape[1] / 36)
    for label, rows, columns in (
        (1, slice(0, row - 1), slice(0, column - 1)),
        (2, slice(0, row - 1), slice(column + 1, None)),
        (3, slice(row + 1, None), slice(0, column - 1)),
        (4, slice(row + 1, None), slice(column + 1, None)),
    ):
        assert (found[rows, columns] == label).mean() > 0.999, "the corner where all four meet may be rounded"


def test_typical_cell_is_a_disc_of_the_network_diameter() -> None:
    assert np.count_nonzero(discs((64, 64), [(31.5, 31.5)], 15)) == pytest.approx(TYPICAL_CELL_PX2, rel=0.02)

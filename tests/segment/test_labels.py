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

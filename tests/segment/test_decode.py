"""Decode network outputs whose masks are known."""

from typing import Literal

import numpy as np
import pytest
from skimage.measure import perimeter

from segment.config import SegmentSection
from segment.network.cellpose import flows_from_labels
from segment.postprocess.decode import decode
from segment.score import mask_average_precision
from tests.support.shapes import discs


@pytest.mark.parametrize(("postprocess", "radius_px"), [("nuclei", 14), ("auto", 14), ("cellpose", 18)])
def test_outlines_lie_at_the_default_threshold_of_each_postprocess(
    postprocess: Literal["nuclei", "auto", "cellpose"], radius_px: int
) -> None:
    """A cell of radius 14 px is surrounded by a ring of probability 0.55, up to 18 px."""
    inner, outer, nucleus = (discs((64, 64), [(32, 32)], radius) for radius in (14, 18, 6))
    cell = np.where(inner > 0, 5, np.where(outer > 0, 0.2, -5))
    nuclei = np.where(nucleus > 0, 5, -5)
    output = np.stack([nuclei, nuclei, *flows_from_labels(outer), cell]).astype(np.float32)
    found = decode(output, nuclei.astype(np.float32), SegmentSection(postprocess=postprocess), (64, 64))
    assert mask_average_precision(found.cells, discs((64, 64), [(32, 32)], radius_px), 0.9) == 1


def test_the_border_with_a_dropped_cell_is_smooth() -> None:
    """The second of two touching discs is cut by the edge of the frame; the first must look drawn at source size."""
    small, large = (discs((16 * k, 16 * k), [(7 * k, 6 * k), (9 * k, 14 * k)], 4.6 * k) for k in (4, 16))
    nucleus = discs(small.shape, [(28, 24)], 6)
    flows = flows_from_labels(np.pad(small, ((0, 0), (0, 40)), mode="edge"))[:, :, :64]
    nuclei = np.where(nucleus > 0, 5, -5)
    output = np.stack([nuclei, nuclei, *flows, np.where(small > 0, 5, -5)]).astype(np.float32)
    found = decode(output, nuclei.astype(np.float32), SegmentSection(), large.shape)
    assert found.cells.max() == found.nuclei.max() == 1
    assert perimeter(found.cells == 1) < 1.06 * perimeter(large == 1)  # type: ignore[no-untyped-call]
    assert (found.cells[large == 1] == 1).mean() > 0.98


def test_a_chequered_output_has_no_ragged_outline() -> None:
    """A chequerboard just above and below the threshold surrounds a disc, up to twice its radius."""
    inner, outer, nucleus = (discs((64, 64), [(32, 32)], radius) for radius in (12, 24, 6))
    rows, columns = np.mgrid[:64, :64]
    squares = np.where((rows % 2 == 0) & (columns % 2 == 0), 0.2, 0.6)  # the threshold is 0.4
    cell = np.where(inner > 0, 5, np.where(outer > 0, squares, -5))
    nuclei = np.where(nucleus > 0, 5, -5)
    output = np.stack([nuclei, nuclei, *flows_from_labels(outer), cell]).astype(np.float32)
    found = decode(output, nuclei.astype(np.float32), SegmentSection(), (256, 256))
    area, outline = (found.cells > 0).sum(), perimeter(found.cells > 0)  # type: ignore[no-untyped-call]
    assert 0.9 * np.pi * 96**2 < area < 1.1 * np.pi * 96**2
    assert outline < 1.2 * 2 * np.sqrt(np.pi * area)

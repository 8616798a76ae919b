"""Decode network outputs whose masks are known."""

from typing import Literal

import numpy as np
import pytest
from skimage.measure import perimeter

from segment.config import SegmentSection
from segment.network.cellpose import flows_from_labels
from segment.postprocess.decode import decode, decode_nuclei
from segment.score import mask_average_precision
from tests.support.shapes import discs


@pytest.mark.parametrize("postprocess", ["nuclei", "auto", "cellpose"])
@pytest.mark.parametrize(("threshold", "radius_px"), [(0.5, 18), (0.58, 14)])
def test_outlines_lie_at_the_threshold_of_the_recipe(
    postprocess: Literal["nuclei", "auto", "cellpose"], threshold: float, radius_px: int
) -> None:
    """A cell of radius 14 px is surrounded by a ring of probability 0.55, up to 18 px."""
    inner, outer, nucleus = (discs((64, 64), [(32, 32)], radius) for radius in (14, 18, 6))
    cell = np.where(inner > 0, 5, np.where(outer > 0, 0.2, -5))
    nuclei = np.where(nucleus > 0, 5, -5)
    output = np.stack([nuclei, nuclei, *flows_from_labels(outer), cell]).astype(np.float32)
    section = SegmentSection(postprocess=postprocess, cell_threshold=threshold)
    found = decode(output, nuclei.astype(np.float32), section, (64, 64))
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
    squares = np.where((rows % 2 == 0) & (columns % 2 == 0), -0.2, 0.2)  # the threshold is 0
    cell = np.where(inner > 0, 5, np.where(outer > 0, squares, -5))
    nuclei = np.where(nucleus > 0, 5, -5)
    output = np.stack([nuclei, nuclei, *flows_from_labels(outer), cell]).astype(np.float32)
    found = decode(output, nuclei.astype(np.float32), SegmentSection(), (256, 256))
    area, outline = (found.cells > 0).sum(), perimeter(found.cells > 0)  # type: ignore[no-untyped-call]
    assert 0.9 * np.pi * 96**2 < area < 1.1 * np.pi * 96**2
    assert outline < 1.2 * 2 * np.sqrt(np.pi * area)


def _output(cell: np.ndarray, nucleus: np.ndarray, flows: np.ndarray) -> np.ndarray:
    return np.stack([nucleus, nucleus, *flows, cell]).astype(np.float32)


@pytest.mark.parametrize(("threshold", "radius_px"), [(0.5, 8), (0.58, 6)])
def test_nuclei_end_at_the_threshold_of_the_recipe(threshold: float, radius_px: int) -> None:
    cells, inner, outer = (discs((64, 64), [(32, 32)], radius) for radius in (16, 6, 8))
    nuclei = np.where(inner > 0, 5, np.where(outer > 0, 0.2, -5))
    output = _output(np.where(cells > 0, 5, -5), nuclei, flows_from_labels(cells))
    section = SegmentSection(nucleus_threshold=threshold)
    for found in (
        decode(output, nuclei.astype(np.float32), section, (64, 64)).nuclei,
        decode_nuclei(output, nuclei.astype(np.float32), section, (64, 64)),
    ):
        assert mask_average_precision(found, discs((64, 64), [(32, 32)], radius_px), 0.8) == 1


@pytest.mark.parametrize("postprocess", ["nuclei", "cellpose"])
def test_every_nucleus_has_the_label_of_its_cell_and_lies_in_it(postprocess: Literal["nuclei", "cellpose"]) -> None:
    """Cells and nuclei are numbered in different orders, and a speck without a cell is found as a nucleus too."""
    cells = discs((96, 128), [(24, 90), (60, 24), (66, 70)], 15)
    nuclei = discs((96, 128), [(24, 90), (60, 24), (66, 70)], 6)
    speck = np.hypot(*(np.mgrid[:96, :128] - np.array([80, 115])[:, None, None])) < 5
    logit = np.where((nuclei > 0) | speck, 5, -5)
    output = _output(np.where(cells > 0, 5, -5), logit, flows_from_labels(cells))
    section = SegmentSection(postprocess=postprocess, min_cell_area=0.3)
    found = decode(output, logit.astype(np.float32), section, (192, 256))
    assert found.cells.max() == 3
    assert set(np.unique(found.nuclei)) == {0, 1, 2, 3}
    assert (found.nuclei[found.nuclei > 0] == found.cells[found.nuclei > 0]).all()
    assert mask_average_precision(found.nuclei, discs((192, 256), [(48, 180), (120, 48), (132, 140)], 12), 0.8) == 1

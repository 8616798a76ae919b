"""Segment discs with the watershed baseline."""

import numpy as np
from scipy import ndimage

from segment.inference.preprocess import prepare_input
from segment.score import mask_average_precision
from segment.watershed import watershed_cells
from tests.support.shapes import discs


def test_watershed_finds_bright_and_dim_cells() -> None:
    cells = discs((200, 240), [(60, 60), (60, 110), (140, 170)], 26)
    nuclei = discs((200, 240), [(60, 60), (60, 110), (140, 170)], 11)
    er = ndimage.gaussian_filter(np.where(cells == 2, 60.0, (cells > 0) * 180.0), 2).astype(
        np.uint8
    )  # the second is dim
    planes = np.stack([er, ((nuclei > 0) * 200).astype(np.uint8)])
    assert mask_average_precision(watershed_cells(prepare_input(planes, 52)), cells, 0.5) == 1
    assert not watershed_cells(prepare_input(np.zeros_like(planes), 52)).any()

"""Measurements, compared with measuring one cell at a time over the full image."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import ndimage

from crops.config import CropsSection
from crops.measure import find_cells, measure_cells, measure_intensities, measure_windows, share_in_window
from crops.windows import around_cells
from hpa.atlas import draw_scene
from hpa.channels import CHANNELS
from tests.support.cells import World, cells_of, label_images


@settings(max_examples=60)
@given(label_images())
def test_measurements_equal_those_of_one_cell_at_a_time(image: World) -> None:
    pixels, labels, nuclei = image
    cells = find_cells(labels)
    measured = measure_cells(cells, nuclei) | measure_intensities(pixels, cells, CHANNELS)
    windows = around_cells(cells.boxes, CropsSection(scale="fixed", size_px=8, source_px=0.5))
    within = share_in_window(cells, windows)
    height, width = labels.shape
    plane = pixels[3].astype(np.float64)  # ER
    smooth = cv2.GaussianBlur(plane, (0, 0), 1.0)
    fine = ndimage.correlate(smooth, [[0, 1, 0], [1, -4, 1], [0, 1, 0]], mode="mirror")
    inner = []
    for i, label in enumerate(label for label in np.unique(labels) if label):
        own = labels == label
        rows, cols = np.nonzero(own)
        assert cells.boxes[i].tolist() == [rows.min(), cols.min(), rows.max() + 1, cols.max() + 1]
        assert measured["area_px"][i] == own.sum()
        border = rows.min() == 0 or cols.min() == 0 or rows.max() == height - 1 or cols.max() == width - 1
        assert measured["touches_border"][i] == border
        inner += [] if border else [own.sum()]
        pieces = ndimage.label(nuclei == label, structure=np.ones((3, 3)))[1]
        assert measured["n_nuclei"][i] == pieces
        assert measured["has_nucleus"][i] == (pieces > 0)
        for c, channel in enumerate(CHANNELS):
            assert measured[f"mean_{channel}"][i] == pytest.approx(pixels[c][own].mean(), abs=1e-3)
        spread = plane[own].var()
        focus = fine[own].var() / spread if spread else 0.0
        assert measured["focus"][i] == pytest.approx(focus, rel=1e-3, abs=1e-5)
        first_row, first_col, end_row, end_col = windows[i]
        seen = ((rows >= first_row) & (rows < end_row) & (cols >= first_col) & (cols < end_col)).mean()
        assert within[i] == pytest.approx(seen)
    for i, border in enumerate(measured["touches_border"]):
        share = min(1.0, measured["area_px"][i] / np.median(inner)) if border and inner else 1.0
        assert measured["completeness"][i] == pytest.approx(share)


def test_an_image_without_cells() -> None:
    empty = np.zeros((8, 8), np.uint16)
    cells = find_cells(empty)
    assert all(len(column) == 0 for column in measure_cells(cells, empty).values())
    assert len(measure_intensities(np.zeros((4, 8, 8), np.uint8), cells, CHANNELS)["focus"]) == 0


def test_a_cell_in_two_pieces_with_two_nuclei_is_one_cell() -> None:
    labels = cells_of((20, 20), (1, 1, 5, 5))
    labels[10:14, 12:16] = 1
    nuclei = np.zeros_like(labels)
    nuclei[2, 2] = nuclei[11:13, 13:15] = 1
    measured = measure_cells(find_cells(labels), nuclei)
    assert measured["area_px"].tolist() == [32]
    assert measured["n_nuclei"].tolist() == [2]


def test_windows_that_do_not_follow_cells() -> None:
    measured = measure_windows(np.array([[2, 3, 6, 7], [-2, 0, 2, 4]], np.int32), 10, 12)
    assert measured["cell_label"].tolist() == [1, 2]
    assert measured["area_px"].tolist() == [16, 8]
    assert measured["completeness"].tolist() == [1.0, 0.5]
    assert measured["touches_border"].tolist() == [False, True]


@pytest.mark.parametrize("gain", [0.5, 1.0])
def test_blurring_lowers_the_focus_of_every_cell_at_any_gain(gain: float) -> None:
    """Cells compared with the same cells further out of focus, with the photon noise of a detector."""
    random = np.random.default_rng(0)
    scene = draw_scene((11, 4), size_px=256)
    sharp = scene.channels
    blurred = np.stack([cv2.GaussianBlur(plane.astype(float), (0, 0), 2.5) for plane in sharp])
    noisy = np.clip(gain * random.normal(blurred, np.sqrt(0.5 * blurred + 1)), 0, 255).astype(np.uint8)
    cells = find_cells(scene.cells.astype(np.uint16))
    large = measure_cells(cells, cells.image)["area_px"] > 300
    before, after = (measure_intensities(planes, cells, CHANNELS)["focus"][large] for planes in (sharp, noisy))
    assert large.sum() > 4
    assert (after < 0.5 * before).all()

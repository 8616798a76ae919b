"""Cutting, compared with cutting one window at a time."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crops.config import CropsSection
from crops.cut import cut_windows
from crops.measure import find_cells
from crops.windows import around_cells, full_frame
from tests.support.cells import label_images


@settings(max_examples=100)
@given(
    label_images(),
    st.integers(8, 20),
    st.sampled_from([0.0, 0.1, 0.7]),
    st.sampled_from([("fit", 1.5), ("fixed", 0.4), ("fixed", 1.0), ("fixed", 3.3)]),
)
def test_crops_equal_those_cut_one_cell_at_a_time(
    image: tuple[np.ndarray, np.ndarray, np.ndarray], size_px: int, margin: float, scale: tuple[str, float]
) -> None:
    pixels, labels, _ = image
    section = CropsSection.model_validate(
        {"size_px": size_px, "margin": margin, "scale": scale[0], "source_px": scale[1]}
    )
    cells = find_cells(labels)
    windows = around_cells(cells.boxes, section)
    cut = cut_windows(pixels, labels, cells.labels, windows, size_px)
    expected_labels = [label for label in np.unique(labels) if label]
    assert cells.labels.tolist() == expected_labels
    pad = 100
    padded, padded_labels = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad))), np.pad(labels, pad)
    for i, label in enumerate(expected_labels):
        rows, cols = np.nonzero(labels == label)
        longer = max(np.ptp(rows), np.ptp(cols)) + 1
        side = np.ceil(longer * (1 + 2 * margin)) if scale[0] == "fit" else round(size_px * scale[1])
        first_row, first_col, end_row, end_col = windows[i]
        assert end_row - first_row == end_col - first_col == side
        assert abs((first_row + end_row) - (rows.min() + rows.max() + 1)) <= 1, "centred on the cell"
        assert abs((first_col + end_col) - (cols.min() + cols.max() + 1)) <= 1
        square = np.s_[first_row + pad : end_row + pad, first_col + pad : end_col + pad]
        interpolation = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
        for channel in range(len(pixels)):
            expected = cv2.resize(padded[channel][square], (size_px, size_px), interpolation=interpolation)
            # OpenCV rounds halves differently for one and for several channels.
            np.testing.assert_allclose(cut.crops[i, channel].astype(int), expected.astype(int), atol=1)
        assert sampled(cut.masks[i], padded_labels[square] == label).all()


def sampled(mask: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return which mask pixels equal the source pixel under their centre, or one of those it falls between."""
    doubled = np.arange(1, 2 * len(mask), 2) * len(own)  # centres in source pixels, times twice the side of the crop
    after = doubled // (2 * len(mask))
    before = np.where(doubled % (2 * len(mask)) == 0, after - 1, after)
    matches = [mask == own[np.ix_(rows, cols)] for rows in (before, after) for cols in (before, after)]
    return np.asarray(np.any(matches, axis=0))


@pytest.mark.parametrize("side", [17, 63, 64, 65, 127, 300])
def test_masks_are_sampled_at_pixel_centres_and_keep_the_cell_area(side: int) -> None:
    rows, cols = np.indices((side, side)) - side // 2
    labels = (np.hypot(rows, cols) < 0.45 * side).astype(np.uint16)
    windows = np.array([[0, 0, side, side]], np.int32)
    cut = cut_windows(np.zeros((4, side, side), np.uint8), labels, np.array([1]), windows, 64)
    assert sampled(cut.masks[0], labels == 1).all()
    assert cut.masks.mean() == pytest.approx(labels.mean(), rel=0.02)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_crop_at_source_size_equals_the_source_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 30, 40), dtype=np.uint8)
    labels = np.zeros((30, 40), np.uint16)
    labels[5:9, 10:14] = 7
    windows = np.array([[2, 7, 12, 17], [-3, 33, 7, 43]], np.int32)
    cut = cut_windows(pixels, labels, np.array([7, 7]), windows, 10)
    np.testing.assert_array_equal(cut.crops[0], pixels[:, 2:12, 7:17])
    np.testing.assert_array_equal(cut.masks[0], labels[2:12, 7:17] == 7)
    np.testing.assert_array_equal(cut.crops[1], np.pad(pixels, ((0, 0), (3, 0), (0, 3)))[:, 0:10, 33:43])


def test_shrinking_averages_areas() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 64, 64), dtype=np.uint8)
    cut = cut_windows(pixels, np.ones((64, 64), np.uint16), np.array([1]), np.array([[0, 0, 64, 64]], np.int32), 16)
    blocks = pixels.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(cut.crops[0, 0] - blocks).max() <= 0.5
    assert cut.masks.all()


def test_the_full_frame_is_padded_to_a_square() -> None:
    windows = full_frame(10, 20)
    assert windows.tolist() == [[-5, 0, 15, 20]]
    pixels, inside = np.full((3, 10, 20), 200, np.uint8), np.ones((10, 20), np.uint16)
    cut = cut_windows(pixels, inside, np.array([1]), windows, 40)
    assert (cut.crops[0, :, 14:26] == 200).all()
    assert not cut.crops[0, :, :8].any()
    assert not cut.masks[0, :8].any()
    assert cut.masks[0, 14:26].all()

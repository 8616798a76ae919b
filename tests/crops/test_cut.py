import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crops.cut import cut_cells, cut_frame, measure_cells, square_windows, to_8_bit
from hpa.errors import ImageError


def _world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image of 20 x 30 px: cells 2 (inside, with a nucleus), 5 (at the border) and 300 (one pixel)."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 30), dtype=np.uint8)
    cells = np.zeros((20, 30), np.uint16)
    cells[4:10, 5:15] = 2
    cells[12:20, 20:28] = 5
    cells[1, 1] = 300
    nuclei = np.zeros_like(cells)
    nuclei[6:8, 8:11] = 2
    return pixels, cells, nuclei


def test_measurements_of_a_small_world() -> None:
    _, cells, nuclei = _world()
    table = measure_cells(cells, nuclei).set_index("cell_label")
    assert list(table.index) == [2, 5, 300]
    assert table[["min_row_px", "min_col_px", "max_row_px", "max_col_px"]].to_numpy()[0].tolist() == [4, 5, 10, 15]
    assert table["area_px"].tolist() == [60, 64, 1]
    assert table["touches_border"].tolist() == [False, True, False]
    assert table["has_nucleus"].tolist() == [True, False, False]
    assert table["completeness"].tolist() == [1.0, 1.0, 1.0]


def test_a_border_cell_smaller_than_the_others_is_incomplete() -> None:
    cells = np.zeros((40, 40), np.uint16)
    cells[10:20, 10:20] = 1
    cells[0:5, 0:5] = 2
    table = measure_cells(cells, np.zeros_like(cells))
    assert table["completeness"].tolist() == [1.0, 0.25]


@pytest.mark.parametrize(
    ("edge", "place"), [("top", np.s_[0, 5]), ("left", np.s_[5, 0]), ("bottom", np.s_[-1, 5]), ("right", np.s_[5, -1])]
)
def test_every_edge_is_a_border(edge: str, place: tuple[int, int]) -> None:
    cells = np.zeros((11, 12), np.uint16)
    cells[place] = 1
    cells[5, 5] = 2
    table = measure_cells(cells, np.zeros_like(cells)).set_index("cell_label")
    assert table["touches_border"].to_dict() == {1: True, 2: False}


def test_no_cell_at_all() -> None:
    empty = np.zeros((8, 8), np.uint16)
    assert measure_cells(empty, empty).empty


def test_windows_are_square_and_hold_the_cell() -> None:
    boxes = np.array([[4, 5, 10, 15], [0, 0, 1, 1]])
    windows = square_windows(boxes, margin=0.1)
    assert windows.tolist() == [[1, 4, 13, 16], [-1, -1, 1, 1]]


@st.composite
def _label_images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    height, width = draw(st.integers(3, 24)), draw(st.integers(3, 24))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = random.integers(0, 4, (height, width)).astype(np.uint16) * draw(st.sampled_from([1, 7, 20_000]))
    return random.integers(0, 256, (2, height, width), dtype=np.uint8), labels


@settings(max_examples=60, deadline=None)
@given(_label_images(), st.integers(8, 20), st.sampled_from([0.0, 0.1, 0.7]))
def test_the_cutter_against_one_cell_at_a_time(
    image: tuple[np.ndarray, np.ndarray], size_px: int, margin: float
) -> None:
    pixels, cells = image
    cut = cut_cells(pixels, cells, measure_cells(cells, np.zeros_like(cells)), size_px, margin)
    labels = [label for label in np.unique(cells) if label]
    assert cut.table["cell_label"].tolist() == labels
    pad = 80
    padded = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad)))
    padded_cells = np.pad(cells, pad)
    for i, label in enumerate(labels):
        rows, cols = np.nonzero(cells == label)
        window = cut.table.loc[i, ["min_row_px", "min_col_px", "max_row_px", "max_col_px"]].to_numpy(int)
        assert (window[:2] <= (rows.min(), cols.min())).all()
        assert (window[2:] > (rows.max(), cols.max())).all()
        side = window[2] - window[0]
        assert side == window[3] - window[1] == np.ceil(max(np.ptp(rows) + 1, np.ptp(cols) + 1) * (1 + 2 * margin))
        square = np.s_[window[0] + pad : window[2] + pad, window[1] + pad : window[3] + pad]
        how = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
        for channel in range(2):
            expected = cv2.resize(padded[channel][square], (size_px, size_px), interpolation=how)
            # OpenCV rounds a half differently in one and in several channels.
            np.testing.assert_allclose(cut.crops[i, channel].astype(int), expected.astype(int), atol=1)
        own = cv2.resize(np.uint8(255) * (padded_cells[square] == label), (size_px, size_px), interpolation=how)
        np.testing.assert_array_equal(cut.masks[i], own >= 128)
        assert cut.table["area_px"].iloc[i] == len(rows)
        assert cut.table["scale"].iloc[i] == pytest.approx(size_px / side)


def test_shrinking_keeps_the_mean() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 64, 64), dtype=np.uint8)
    cells = np.ones((64, 64), np.uint16)
    cut = cut_cells(pixels, cells, measure_cells(cells, cells), 16, 0.0)
    blocks = pixels.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.abs(cut.crops[0, 0] - blocks).max() <= 0.5
    assert cut.masks.all()


def test_a_mask_of_another_size() -> None:
    cells = np.ones((6, 6), np.uint16)
    with pytest.raises(ImageError, match=r"size \(5, 5\), found \(6, 6\)"):
        cut_cells(np.zeros((4, 5, 5), np.uint8), cells, measure_cells(cells, cells), 8, 0)


def test_the_whole_frame_is_padded_to_a_square() -> None:
    cut = cut_frame(np.full((3, 10, 20), 200, np.uint8), 40)
    assert cut.crops.shape == (1, 3, 40, 40)
    assert (cut.crops[0, :, 14:26] == 200).all()
    assert not cut.crops[0, :, :8].any()
    assert not cut.masks[0, :8].any()
    assert cut.masks[0, 14:26].all()
    row = cut.table.to_dict("records")[0]
    assert (row["min_row_px"], row["max_row_px"], row["cell_label"], row["fallback"]) == (-5, 15, 0, True)


def test_16_bit_uses_its_full_range() -> None:
    assert to_8_bit(np.array([[0, 257, 65_535, 129]], np.uint16)).tolist() == [[0, 1, 255, 1]]
    same = np.array([[7]], np.uint8)
    assert to_8_bit(same) is same or (to_8_bit(same) == same).all()

"""The positions of windows."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crops.config import CropsSection, Window
from crops.windows import brightest, five_crop, full_frame, grid, on_frame


def test_windows_and_the_windows_they_are_trained_on() -> None:
    section = CropsSection(windows=("five_crop", "full_frame"), train_window="random")
    assert section.stores == ("five_crop", "full_frame", "random")
    assert section.train_windows == ("random",)
    assert [section.train_window_for(window) for window in section.windows] == ["random", "random"]
    same = CropsSection(windows=("cells", "five_crop"))
    assert same.stores == same.train_windows == ("cells", "five_crop")
    assert same.train_window_for("five_crop") == "five_crop"
    with pytest.raises(ValueError, match="windows must not repeat"):
        CropsSection(windows=("five_crop", "five_crop"))


def test_another_window_in_the_recipe_does_not_make_a_store_stale() -> None:
    assert CropsSection(windows=("cells", "five_crop")).of("cells") == CropsSection()
    assert CropsSection(margin=0.2).of("cells") != CropsSection().of("cells")


def test_five_crop_of_a_small_frame() -> None:
    assert five_crop(10, 16, 6).tolist() == [
        [0, 0, 6, 6],
        [0, 10, 6, 16],
        [4, 0, 10, 6],
        [4, 10, 10, 16],
        [2, 5, 8, 11],
    ]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 6), st.floats(0, 0.9))
def test_a_grid_covers_every_pixel_and_stays_in_the_frame(height: int, width: int, n: int, overlap: float) -> None:
    windows = grid(height, width, n, overlap)
    covered = np.zeros((height, width), dtype=int)
    for first_row, first_col, end_row, end_col in windows:
        assert end_row - first_row == end_col - first_col
        covered[max(0, first_row) : end_row, max(0, first_col) : end_col] += 1
    assert (covered > 0).all()
    assert len(windows) <= n * n
    side = windows[0, 2] - windows[0, 0]
    if side <= min(height, width):
        assert windows.min() >= 0
        assert (windows[:, 2:] <= [height, width]).all()
    columns = np.unique(windows[:, 1])
    if height <= width and len(columns) > 1:
        assert np.diff(columns).max() <= np.ceil(side * (1 - overlap)), "adjacent windows overlap enough"


@given(st.integers(4, 40), st.integers(4, 40), st.integers(0, 2**31), st.text("ab0", min_size=1, max_size=3))
def test_random_windows_are_in_the_frame_and_depend_on_seed_and_image(
    height: int, width: int, seed: int, image_id: str
) -> None:
    planes, section = np.zeros((2, height, width), np.uint8), CropsSection(count=7)
    windows = on_frame("random", planes, section, seed, image_id, 0)
    assert windows.shape == (7, 4)
    assert windows.min() >= 0
    assert (windows[:, 2:] <= [height, width]).all()
    assert (windows[:, 2] - windows[:, 0] == round(min(height, width) / 2)).all()
    np.testing.assert_array_equal(windows, on_frame("random", planes, section, seed, image_id, 0))
    if min(height, width) > 20:
        assert (windows != on_frame("random", planes, section, seed, image_id + "x", 0)).any()
        assert (windows != on_frame("random", planes, section, seed + 1, image_id, 0)).any()


def test_random_windows_reach_every_corner() -> None:
    planes = np.zeros((1, 4, 5), np.uint8)
    places = {tuple(row[:2]) for row in on_frame("random", planes, CropsSection(count=400), 0, "a", 0)}
    assert places == {(row, col) for row in range(3) for col in range(4)}


@given(st.integers(0, 2**32 - 1))
def test_brightest_windows_equal_a_search_of_all_positions(seed: int) -> None:
    random = np.random.default_rng(seed)
    plane = random.integers(0, 256, (23, 31), dtype=np.uint8)
    windows = brightest(plane, 8, 5)  # with side 8 every position is a candidate
    free = np.ones((16, 24), dtype=bool)
    light = np.array([[plane[r : r + 8, c : c + 8].sum(dtype=int) for c in range(24)] for r in range(16)])
    for row, col, end_row, end_col in windows:
        assert (end_row - row, end_col - col) == (8, 8)
        assert free[row, col]
        assert light[row, col] == light[free].max()
        for r in range(16):
            for c in range(24):
                free[r, c] &= max(0, 8 - abs(r - row)) * max(0, 8 - abs(c - col)) <= 32
    assert len(windows) == 5 or not free.any()


def test_a_small_frame_has_space_for_fewer_windows() -> None:
    assert len(brightest(np.zeros((8, 8), np.uint8), 8, 5)) == 1


@pytest.mark.parametrize("window", [window for window in get_args(Window) if window != "cells"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (33, 20)])
def test_every_window_on_unusual_frames(window: Window, shape: tuple[int, int]) -> None:
    windows = on_frame(window, np.zeros((4, *shape), np.uint8), CropsSection(), 0, "a", 1)
    assert len(windows) >= 1
    assert (windows[:, 2] - windows[:, 0] == windows[:, 3] - windows[:, 1]).all()
    assert (np.minimum(windows[:, 2:], shape) > np.maximum(windows[:, :2], 0)).all(), "every window sees the frame"


def test_full_frame_contains_the_frame() -> None:
    assert full_frame(7, 4).tolist() == [[0, -2, 7, 5]]

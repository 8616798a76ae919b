import numpy as np
import pytest

from crops.config import CropsSection
from crops.depth import to_8_bit


def test_8_bit_values_are_kept() -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (2, 5, 5), dtype=np.uint8)
    planes = to_8_bit(pixels, CropsSection(depth_16="percentiles"))
    np.testing.assert_array_equal(planes.pixels, pixels)
    assert planes.black.tolist() == [0, 0]
    assert planes.white.tolist() == [255, 255]


def test_16_bit_values_are_scaled_from_the_full_range() -> None:
    planes = to_8_bit(np.array([[[0, 257, 65_535, 129]]], np.uint16), CropsSection())
    assert planes.pixels.tolist() == [[[0, 1, 255, 1]]]
    assert (planes.black.tolist(), planes.white.tolist()) == ([0], [65_535])


@pytest.mark.parametrize(("low", "high"), [(0.0, 100.0), (1.0, 99.0), (0.1, 99.9)])
def test_percentiles_of_each_channel(low: float, high: float) -> None:
    pixels = np.random.default_rng(1).gamma(2, 900, (3, 40, 50)).astype(np.uint16) * np.uint16(3)
    section = CropsSection(depth_16="percentiles", low_percentile=low, high_percentile=high)
    planes = to_8_bit(pixels, section)
    for i, plane in enumerate(pixels):
        black, white = np.percentile(plane, [low, high], method="inverted_cdf")
        assert (planes.black[i], planes.white[i]) == (black, white)
        exact = np.clip((plane.astype(float) - black) / (float(white) - float(black)) * 255, 0, 255)
        assert np.abs(planes.pixels[i] - exact).max() <= 0.5 + 1e-9


def test_percentiles_of_a_constant_channel() -> None:
    planes = to_8_bit(np.full((1, 4, 4), 700, np.uint16), CropsSection(depth_16="percentiles"))
    assert not planes.pixels.any()
    assert planes.white[0] == planes.black[0] + 1 == 701

"""Augmentation of drawn crops, and its random numbers."""

import numpy as np
import pytest

from classify.augment_steps import Preset
from classify.data.seeds import Purpose, _mixed, row_uniforms
from classify.data.variation import turn, vary


def _draws(n: int) -> np.ndarray:
    return row_uniforms(Purpose.PRETRAINING, 0, 0, 0, np.arange(n), 128)


def test_turned_crops_are_the_eight_views() -> None:
    crop = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    views = {turned.tobytes() for turned in turn(crop.repeat(200, axis=0), _draws(200))}
    expected = {np.rot90(view, k).copy().tobytes() for view in (crop[0, 0], crop[0, 0].T) for k in range(4)}
    assert views == expected


def test_gains_are_per_channel_and_black_stays_nearly_black() -> None:
    flat = np.full((40, 4, 16, 16), 100, dtype=np.uint8)
    centre = vary(flat, _draws(40), "standard")[:, :, 8, 8].astype(int)
    assert (np.ptp(centre, axis=1) > 5).sum() > 20
    assert vary(np.zeros_like(flat), _draws(40), "standard").max() < 64


def test_strong_variation_blackens_blocks() -> None:
    varied = vary(np.full((60, 4, 32, 32), 200, dtype=np.uint8), _draws(60), "strong")
    assert 5 < (varied.max(axis=1) == 0).any(axis=(1, 2)).sum() < 60


def test_a_crop_does_not_depend_on_its_batch() -> None:
    crops = np.random.default_rng(0).integers(0, 255, (12, 4, 32, 32), dtype=np.uint8)
    together = vary(crops.copy(), _draws(12), "strong")
    for row in range(12):
        alone = vary(crops[row : row + 1].copy(), _draws(12)[row : row + 1], "strong")
        np.testing.assert_array_equal(alone[0], together[row])


def test_random_numbers_of_rows_are_those_of_splitmix64() -> None:
    """The first outputs of the generator with the seed 1234567, as published with other implementations of it."""
    states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert _mixed(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_random_numbers_of_rows_are_uniform_and_independent() -> None:
    numbers = row_uniforms(Purpose.AUGMENTATION, 0, 0, 0, np.arange(4000), 12)
    np.testing.assert_allclose(numbers.mean(axis=0), 0.5, atol=0.025)
    np.testing.assert_allclose(numbers.std(axis=0), 12**-0.5, atol=0.015)
    next_row = np.corrcoef(np.hstack([numbers[:-1], numbers[1:]]), rowvar=False)
    assert np.abs(next_row - np.eye(24)).max() < 0.08


@pytest.mark.parametrize("preset", ["standard", "strong"])
def test_presets_keep_the_crop_in_its_place(preset: Preset) -> None:
    """Over many draws, a bright square in the middle stays there on average, and grows as often as it shrinks."""
    crops = np.zeros((400, 1, 40, 40), dtype=np.uint8)
    crops[:, :, 10:30, 10:30] = 100
    draws = _draws(400)
    varied = vary(turn(crops, draws), draws, preset)[:, 0].astype(float)
    share = (varied > varied.max(axis=(1, 2), keepdims=True) / 2).mean(axis=0)
    rows, cols = np.mgrid[:40, :40]
    assert (share * rows).sum() / share.sum() == pytest.approx(19.5, abs=0.4)
    assert (share * cols).sum() / share.sum() == pytest.approx(19.5, abs=0.4)
    assert share.sum() == pytest.approx(400, rel=0.15)
    assert share[18:22, 18:22].min() > 0.85
    assert share[:2].max() < 0.15

"""Augmentation of crops depends on (seed, fold, epoch, row) alone and keeps their content."""

import numpy as np
import pytest

from classify.config import ClassifySection, Preset
from classify.data.augmentation import Augmentation
from tests.support.bright_crops import bright_crops

CROPS = bright_crops(np.random.default_rng(1).random((12, 3)) < 0.5).crops
ROWS = np.arange(100, 112)


@pytest.mark.parametrize("preset", ["light", "standard", "strong"])
def test_augmentation_of_a_crop_does_not_depend_on_its_batch(preset: Preset) -> None:
    together = Augmentation(ClassifySection(augment=preset), seed=5, fold=1)(CROPS, ROWS, epoch=3)
    backwards = Augmentation(ClassifySection(augment=preset), seed=5, fold=1)
    for i in reversed(range(len(CROPS))):
        alone = backwards(CROPS[i : i + 1], ROWS[i : i + 1], epoch=3)
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.parametrize(("seed", "fold", "epoch", "shift"), [(6, 1, 3, 0), (5, 2, 3, 0), (5, 1, 4, 0), (5, 1, 3, 1)])
def test_augmentation_depends_on_seed_fold_epoch_and_row(seed: int, fold: int, epoch: int, shift: int) -> None:
    reference = Augmentation(ClassifySection(augment="standard"), 5, 1)(CROPS, ROWS, 3)
    other = Augmentation(ClassifySection(augment="standard"), seed, fold)(CROPS, ROWS + shift, epoch)
    assert (reference != other).any(axis=(1, 2, 3)).sum() > len(CROPS) // 2


def test_light_preset_only_rotates_and_flips() -> None:
    varied = Augmentation(ClassifySection(augment="light"), 0, 0)(CROPS, ROWS, 0)
    for crop, out in zip(CROPS, varied, strict=True):
        turned = [np.rot90(view, k, axes=(1, 2)) for view in (crop, crop[:, ::-1]) for k in range(4)]
        assert sum(np.array_equal(view, out) for view in turned) == 1


def test_standard_preset_scales_channels_separately_and_keeps_black_nearly_black() -> None:
    flat = np.full((40, 4, 16, 16), 100, dtype=np.uint8)
    centre = Augmentation(ClassifySection(augment="standard"), 0, 0)(flat, np.arange(40), 0)[:, :, 8, 8].astype(int)
    assert (np.ptp(centre, axis=1) > 5).sum() > 20
    black = Augmentation(ClassifySection(augment="standard"), 0, 0)(np.zeros_like(flat), np.arange(40), 0)
    assert black.max() < 64


def test_none_preset_changes_nothing() -> None:
    np.testing.assert_array_equal(Augmentation(ClassifySection(augment="none"), 0, 0)(CROPS, ROWS, 0), CROPS)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_can_be_augmented(channels: int) -> None:
    crops = np.zeros((2, channels, 9, 9), dtype=np.uint8)
    assert Augmentation(ClassifySection(augment="standard"), 0, 0)(crops, np.arange(2), 0).shape == crops.shape


def test_random_crop_is_a_window_that_moves_with_the_epoch() -> None:
    numbered = np.arange(2 * 4 * 256, dtype=np.uint64).astype(np.uint8).reshape(2, 4, 16, 16)
    section = ClassifySection(augment="none", random_crop="crop", random_crop_px=9)
    places = set()
    for epoch in range(40):
        cut = Augmentation(section, 0, 0)(numbered, np.arange(2), epoch)
        assert cut.shape == (2, 4, 9, 9)
        for full, part in zip(numbered, cut, strict=True):
            fits = [(y, x) for y in range(8) for x in range(8) if np.array_equal(full[:, y : y + 9, x : x + 9], part)]
            assert len(fits) == 1
            places.add(fits[0])
    assert len(places) > 25


def test_resized_random_crop_has_the_requested_side() -> None:
    section = ClassifySection(random_crop="resized", random_crop_px=24)
    cut = Augmentation(section, 0, 0)(CROPS, ROWS, 0)
    assert cut.shape == (12, 4, 24, 24)
    assert (cut != Augmentation(section, 0, 0)(CROPS, ROWS, 1)).any(axis=(1, 2, 3)).all()


def test_strong_preset_drops_blocks() -> None:
    flat = np.full((60, 4, 32, 32), 200, dtype=np.uint8)
    varied = Augmentation(ClassifySection(augment="strong"), 0, 0)(flat, np.arange(60), 0)
    assert 5 < (varied.max(axis=1) == 0).any(axis=(1, 2)).sum() < 60

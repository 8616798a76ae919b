"""Augmentation of crops depends on (seed, fold, epoch, row) alone and keeps their content."""

from typing import Any

import albumentations
import cv2
import numpy as np
import pytest

from classify.augment_steps import Preset
from classify.config import ClassifySection
from classify.data.augmentation import STEPS, Augmentation, check_augment
from hpa.channels import CHANNELS
from hpa.errors import UserError
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


def _steps(*steps: dict[str, Any]) -> ClassifySection:
    return ClassifySection(augment=steps)


def test_a_flip_alone_is_the_mirror_image_or_nothing() -> None:
    varied = Augmentation(_steps({"name": "HorizontalFlip", "p": 0.5}), 0, 0)(CROPS, ROWS, 0)
    flipped = [np.array_equal(out, crop[:, :, ::-1]) for crop, out in zip(CROPS, varied, strict=True)]
    same = [np.array_equal(out, crop) for crop, out in zip(CROPS, varied, strict=True)]
    assert 0 < sum(flipped) < 12
    assert sum(flipped) + sum(same) == 12


def test_a_rotation_by_a_fixed_angle_is_that_of_opencv() -> None:
    """An independent way: the affine matrix of a rotation about the centre, with the same interpolation."""
    image = np.zeros((1, 4, 33, 33), dtype=np.uint8)
    image[:, :, 6:20, 10:14] = 200
    turned = Augmentation(_steps({"name": "Rotate", "limit": [30, 30], "p": 1}), 0, 0)(image, np.arange(1), 0)
    matrix = cv2.getRotationMatrix2D((16, 16), 30, 1)
    expected = cv2.warpAffine(np.ascontiguousarray(image[0].transpose(1, 2, 0)), matrix, (33, 33)).transpose(2, 0, 1)
    assert np.abs(turned[0].astype(int) - expected.astype(int)).max() <= 2


def test_a_random_resized_crop_has_the_listed_scale_and_ratio() -> None:
    """On a ramp, the step from pixel to pixel says how large the window was: its area and ratio stay in the ranges."""
    side = 64
    ramp = np.zeros((60, 2, side, side), dtype=np.uint8)
    ramp[:, 0] = np.arange(side)[:, None] * 3
    ramp[:, 1] = np.arange(side)[None, :] * 3
    step = {"name": "RandomResizedCrop", "scale": [0.25, 0.36], "ratio": [1.0, 1.5], "p": 1}
    varied = Augmentation(_steps(step), 0, 0)(ramp, np.arange(60), 0).astype(float) / 3
    heights = (varied[:, 0, -4, 32] - varied[:, 0, 3, 32]) * side / (side - 7)
    widths = (varied[:, 1, 32, -4] - varied[:, 1, 32, 3]) * side / (side - 7)
    areas, ratios = heights * widths / side**2, widths / heights
    assert 0.22 < areas.min() < 0.28 < 0.33 < areas.max() < 0.39
    assert 0.93 < ratios.min() < 1.1 < 1.4 < ratios.max() < 1.6


def test_elastic_deformation_grows_with_its_strength() -> None:
    change = []
    for alpha in (0, 20, 200):
        varied = Augmentation(_steps({"name": "ElasticTransform", "alpha": alpha, "sigma": 4, "p": 1}), 0, 0)(
            CROPS, ROWS, 0
        )
        change.append(np.abs(varied.astype(int) - CROPS.astype(int)).mean())
    assert change[0] == 0
    assert 0 < change[1] < change[2]


def test_dimming_scales_the_protein_alone_wherever_it_is() -> None:
    flat = np.full((40, 3, 8, 8), 200, dtype=np.uint8)
    step = {"name": "DimProtein", "factor": [0.2, 0.6], "p": 0.5}
    section = ClassifySection(augment=(step,), channels=("blue", "red", "green"))
    varied = Augmentation(section, 0, 0)(flat, np.arange(40), 0)
    assert (varied[:, :2] == 200).all()
    protein = varied[:, 2, 0, 0]
    assert (varied[:, 2] == protein[:, None, None]).all()
    dimmed = protein[protein < 200]
    assert 8 < len(dimmed) < 32
    assert 40 <= dimmed.min() < 60 < 100 < dimmed.max() <= 120


def test_steps_depend_on_seed_fold_epoch_and_row_alone() -> None:
    section = _steps({"name": "Rotate", "limit": 40}, {"name": "DimProtein"}, {"name": "GaussNoise", "p": 1})
    together = Augmentation(section, 5, 1)(CROPS, ROWS, 3)
    backwards = Augmentation(section, 5, 1)
    for i in reversed(range(len(CROPS))):
        np.testing.assert_array_equal(backwards(CROPS[i : i + 1], ROWS[i : i + 1], 3)[0], together[i])
    assert (together != Augmentation(section, 5, 1)(CROPS, ROWS, 4)).any(axis=(1, 2, 3)).all()


CUTS = {"CenterCrop", "Crop", "CropAndPad", "PadIfNeeded", "RandomCrop", "RandomCropFromBorders", "RandomScale"}
CUTS |= {"RandomSizedCrop", "Resize"}
"""Steps that need parameters to keep the shape of crops."""


@pytest.mark.parametrize("name", STEPS)
def test_every_allowed_step_is_albumentations_own_and_varies_crops_of_any_channels(name: str) -> None:
    kind = getattr(albumentations, name)
    assert issubclass(kind, albumentations.BasicTransform)
    assert not issubclass(kind, albumentations.Lambda)
    section = _steps({"name": name})
    for channels in (CHANNELS, CHANNELS[:2]):
        if name in CUTS:
            with pytest.raises(UserError, match=r"classify\.augment"):
                check_augment(section, 32, channels)
            continue
        check_augment(section, 32, channels)
        crops = np.random.default_rng(0).integers(0, 256, (3, len(channels), 32, 32), dtype=np.uint8)
        assert Augmentation(section, 0, 0)(crops, np.arange(3), 0).shape == crops.shape


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ({"name": "Rotat"}, r"found 'Rotat' \(did you mean 'Rotate'\?\)"),
        ({"name": "Lambda"}, "found 'Lambda'"),
        ({"name": "TextImage", "font_path": "/etc/passwd"}, "steps of classify.augment that Cellwise knows"),
        ({"name": "Rotate", "limt": 3}, r"Rotate in step 1 of classify\.augment, found 'limt' \(did you mean 'limit'"),
        ({"name": "Rotate", "limit": "a"}, "usable parameters of Rotate in classify.augment, found limit"),
        ({"name": "RandomResizedCrop", "scale": [2, 3]}, "of RandomResizedCrop .* found scale: All values"),
        ({"name": "DimProtein", "factor": [0.5, 1.5]}, "of DimProtein .*within 0..1"),
        ({"name": "DimProtein", "channel": 1}, "parameters of DimProtein .*found 'channel'"),
        (
            {"name": "RandomCrop", "height": 16, "width": 16},
            r"found 16 x 16 px after RandomCrop \(classify.random_crop",
        ),
        ({"name": "RandomScale", "scale_limit": [0.5, 0.5]}, "found 48 x 48 px after RandomScale"),
        ({"name": "RandomResizedCrop", "size": [16, 16]}, "found 16 x 16 px after RandomResizedCrop"),
    ],
)
def test_a_step_that_does_not_work_is_explained_in_one_sentence(step: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        check_augment(_steps(step), 32, CHANNELS)
    assert "\n" not in str(raised.value)


def test_steps_may_change_the_shape_if_a_later_one_restores_it() -> None:
    section = _steps(
        {"name": "RandomScale", "scale_limit": [0.5, 0.5]}, {"name": "CenterCrop", "height": 32, "width": 32}
    )
    check_augment(section, 32, CHANNELS)


def test_dimming_needs_the_protein() -> None:
    with pytest.raises(UserError, match=r"expected green among the channels of the network \(red, blue\)"):
        check_augment(_steps({"name": "DimProtein"}), 32, ("red", "blue"))

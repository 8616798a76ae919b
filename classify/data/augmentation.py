"""Augmentation of training crops; the only module that imports albumentations."""

import os

import numpy as np
from numpy.typing import NDArray

from classify.config import ClassifySection, Preset, RandomCrop
from classify.data.seeds import Purpose, derive_seed

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import looks for a newer version online

import albumentations


def _transforms(preset: Preset) -> list[albumentations.BasicTransform]:
    if preset == "none":
        return []
    if preset == "light":
        return [albumentations.D4(p=1)]
    if preset == "strong":
        return [
            albumentations.D4(p=1),
            albumentations.Affine(scale=(0.75, 1.3), translate_percent=(-0.1, 0.1), rotate=(-45, 45), p=0.7),
            albumentations.ElasticTransform(alpha=20, sigma=4, p=0.2),
            albumentations.MultiplicativeNoise(multiplier=(0.5, 1.7), per_channel=True, elementwise=False, p=0.8),
            albumentations.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.3, p=0.5),
            albumentations.GaussianBlur(blur_limit=(3, 5), p=0.2),
            albumentations.GaussNoise(std_range=(0.01, 0.05), p=0.2),
            albumentations.CoarseDropout(
                num_holes_range=(1, 4), hole_height_range=(0.1, 0.25), hole_width_range=(0.1, 0.25), p=0.3
            ),
        ]
    return [
        albumentations.D4(p=1),
        albumentations.Affine(scale=(0.85, 1.15), translate_percent=(-0.06, 0.06), rotate=(-45, 45), p=0.5),
        # One gain per channel: stains vary in strength, and black stays black.
        albumentations.MultiplicativeNoise(multiplier=(0.7, 1.4), per_channel=True, elementwise=False, p=0.7),
        albumentations.RandomBrightnessContrast(brightness_limit=0.05, contrast_limit=0.2, p=0.3),
        albumentations.GaussianBlur(blur_limit=(3, 3), p=0.1),
        albumentations.GaussNoise(std_range=(0.01, 0.03), p=0.1),
    ]


def _random_crop(kind: RandomCrop, side_px: int) -> list[albumentations.BasicTransform]:
    if kind == "crop":
        return [albumentations.RandomCrop(side_px, side_px)]
    if kind == "resized":
        return [albumentations.RandomResizedCrop((side_px, side_px), scale=(0.3, 1.0), ratio=(0.8, 1.25))]
    return []


class Augmentation:
    """Random variation of crops that depends on (seed, fold, epoch, row) alone.

    Parameters
    ----------
    section
        Recipe section with `random_crop` and the preset `augment`: ``"none"``; ``"light"``, the eight dihedral views;
        ``"standard"``, those and small changes of scale, position, angle, brightness (per channel), contrast, blur and
        noise; ``"strong"``, larger changes, elastic deformation and missing blocks.
    seed
        The recipe's seed.
    fold
        Fold of the model that is trained.
    """

    def __init__(self, section: ClassifySection, seed: int, fold: int) -> None:
        transforms = _random_crop(section.random_crop, section.random_crop_px) + _transforms(section.augment)
        self._compose = albumentations.Compose(transforms) if transforms else None
        self._side_px = section.random_crop_px if section.random_crop != "none" else 0
        self._seed = seed
        self._fold = fold

    def __call__(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64], epoch: int) -> NDArray[np.uint8]:
        """Return augmented copies of a batch of crops, or the crops themselves where there is nothing to change.

        Parameters
        ----------
        pixels
            Shape (N, C, S, S), uint8.
        rows
            The crops' positions in the table of crops, shape (N,).
        epoch
            Epoch, from 0.

        Returns
        -------
        ndarray
            Shape (N, C, S, S), uint8, C-contiguous; S is `random_crop_px` if crops are cut at random.
        """
        if self._compose is None:
            return pixels
        n, channels, height, width = pixels.shape
        side = (self._side_px, self._side_px) if self._side_px else (height, width)
        varied = np.empty((n, channels, *side), dtype=np.uint8)
        for crop, row, out in zip(pixels, rows, varied, strict=True):
            seed = derive_seed(Purpose.AUGMENTATION, self._seed, self._fold, epoch, int(row))
            self._compose.set_random_seed(seed)
            image = self._compose(image=np.ascontiguousarray(crop.transpose(1, 2, 0)))["image"]
            out[...] = image.reshape(*side, channels).transpose(2, 0, 1)
        return varied

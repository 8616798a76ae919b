"""Varying training crops. The one module that imports albumentations."""

import os

import numpy as np
from numpy.typing import NDArray

from classify.config import Preset
from classify.draws import Purpose, draw_seed

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise importing it asks the network for a newer version

import albumentations


def _transforms(preset: Preset) -> list[albumentations.BasicTransform]:
    if preset == "none":
        return []
    if preset == "light":
        return [albumentations.D4(p=1)]
    return [
        albumentations.D4(p=1),
        albumentations.Affine(scale=(0.85, 1.15), translate_percent=(-0.06, 0.06), rotate=(-45, 45), p=0.5),
        # A gain of its own for each channel: stains vary in strength, and black stays black.
        albumentations.MultiplicativeNoise(multiplier=(0.7, 1.4), per_channel=True, elementwise=False, p=0.7),
        albumentations.RandomBrightnessContrast(brightness_limit=0.05, contrast_limit=0.2, p=0.3),
        albumentations.GaussianBlur(blur_limit=(3, 3), p=0.1),
        albumentations.GaussNoise(std_range=(0.01, 0.03), p=0.1),
    ]


class Augmentation:
    """Varies crops by a preset; what a crop becomes depends on (seed, fold, epoch, row) and nothing else.

    Parameters
    ----------
    preset
        ``"none"``; ``"light"``, the eight dihedral views; ``"standard"``, those and small changes of scale, place,
        angle, brightness (per channel), contrast, blur and noise.
    seed, fold
        Of the recipe and of the model that is trained.
    """

    def __init__(self, preset: Preset, seed: int, fold: int) -> None:
        self._compose = albumentations.Compose(_transforms(preset)) if preset != "none" else None
        self._seed = seed
        self._fold = fold

    def __call__(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64], epoch: int) -> NDArray[np.uint8]:
        """Vary a batch.

        Parameters
        ----------
        pixels
            Shape (N, C, S, S), uint8.
        rows
            The crops' positions in the crop table, shape (N,).
        epoch
            From 0.

        Returns
        -------
        ndarray
            Shape (N, C, S, S), uint8, C-contiguous.
        """
        if self._compose is None:
            return pixels
        varied = np.empty_like(pixels)
        for crop, row, out in zip(pixels, rows, varied, strict=True):
            seed = draw_seed(Purpose.AUGMENTATION, self._seed, self._fold, epoch, int(row))
            self._compose.set_random_seed(seed)
            image = self._compose(image=np.ascontiguousarray(crop.transpose(1, 2, 0)))["image"]
            out[...] = image.reshape(crop.shape[1], crop.shape[2], crop.shape[0]).transpose(2, 0, 1)
        return varied

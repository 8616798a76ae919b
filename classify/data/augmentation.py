"""Augmentation of training crops; the only module that imports albumentations."""

import inspect
import os
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from classify.augment_steps import Preset
from classify.config import ClassifySection, RandomCrop
from classify.data.seeds import Purpose, derive_seed
from hpa.channels import CHANNELS
from hpa.errors import UserError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import looks for a newer version online

import albumentations

STEPS: Final = (
    *("AdditiveNoise", "AdvancedBlur", "Affine", "AutoContrast", "Blur", "CenterCrop", "ChannelDropout"),
    *("ChannelShuffle", "CoarseDropout", "Crop", "CropAndPad", "D4", "Defocus", "Downscale", "ElasticTransform"),
    *("Emboss", "Erasing", "GaussNoise", "GaussianBlur", "GlassBlur", "GridDistortion", "GridDropout"),
    *("HorizontalFlip", "Illumination", "ImageCompression", "InvertImg", "MedianBlur", "Morphological", "MotionBlur"),
    *("MultiplicativeNoise", "OpticalDistortion", "PadIfNeeded", "Perspective", "PixelDropout"),
    *("PlasmaBrightnessContrast", "PlasmaShadow", "Posterize", "RandomBrightnessContrast", "RandomCrop"),
    *("RandomCropFromBorders", "RandomGamma", "RandomGridShuffle", "RandomResizedCrop", "RandomRotate90"),
    *("RandomScale", "RandomShadow", "RandomSizedCrop", "RandomToneCurve", "Resize", "RingingOvershoot", "Rotate"),
    *("SafeRotate", "SaltAndPepper", "Sharpen", "ShotNoise", "Solarize", "SquareSymmetry", "ThinPlateSpline"),
    *("Transpose", "UnsharpMask", "VerticalFlip", "XYMasking", "ZoomBlur"),
)
"""The transforms of albumentations that a recipe may name: of images alone, of any number of channels, 8 bits in and
out. None of them runs code that a parameter names, or reads a file."""

_PROTEIN: Final = "green"
_TRIALS: Final = 4  # random draws with which a list is checked


class DimProtein(albumentations.ImageOnlyTransform):  # type: ignore[misc] # albumentations ships no types
    """Dim the protein channel by a random factor, as in a cell that expresses less of it.

    Parameters
    ----------
    factor
        Range of the factor, within 0..1.
    channel
        Position of the protein channel; set by Cellwise.
    p
        Probability of the step.
    """

    class InitSchema(albumentations.ImageOnlyTransform.InitSchema):  # type: ignore[misc]
        """Types of the parameters."""

        factor: tuple[float, float]
        channel: int

    def __init__(self, factor: tuple[float, float] = (0.3, 1.0), channel: int = -1, p: float = 0.5) -> None:
        super().__init__(p=p)
        if not 0 <= factor[0] <= factor[1] <= 1:
            raise ValueError(f"factor: two rising numbers within 0..1, found {list(factor)}")
        self._factor = factor
        self._channel = channel

    def get_params(self) -> dict[str, float]:
        """Draw the factor."""
        return {"by": self.py_random.uniform(*self._factor)}

    def apply(self, img: NDArray[np.uint8], by: float, **_: Any) -> NDArray[np.uint8]:
        """Return a dimmed copy of an image of shape (H, W, C)."""
        dimmed = img.copy()
        dimmed[..., self._channel] = np.rint(dimmed[..., self._channel] * by)
        return dimmed


def _steps(
    section: ClassifySection, side_px: int, channels: Sequence[str]
) -> list[tuple[str, albumentations.BasicTransform]]:
    """Return the steps of the recipe's list, each with its name."""
    assert not isinstance(section.augment, str), "a list, not a preset"
    steps = enumerate(section.augment, start=1)
    return [(str(step["name"]), _step(dict(step), number, side_px, channels)) for number, step in steps]


def _step(
    parameters: dict[str, Any], number: int, side_px: int, channels: Sequence[str]
) -> albumentations.BasicTransform:
    name = parameters.pop("name")
    if name != DimProtein.__name__ and name not in STEPS:
        known = [DimProtein.__name__, *STEPS]
        similar = get_close_matches(name, known, n=1)
        hint = f"did you mean {similar[0]!r}?" if similar else ", ".join(known)
        raise UserError(f"expected steps of classify.augment that Cellwise knows, found {name!r} ({hint})")
    kind = DimProtein if name == DimProtein.__name__ else getattr(albumentations, name)
    known = [key for key in inspect.signature(kind.__init__).parameters if key not in ("self", "channel")]
    for key in parameters:
        if key not in known:
            similar = get_close_matches(key, known, n=1)
            hint = f"did you mean {similar[0]!r}?" if similar else ", ".join(known)
            raise UserError(
                f"expected parameters of {name} in step {number} of classify.augment, found {key!r} ({hint})"
            )
    if kind is DimProtein:
        if _PROTEIN not in channels:
            raise UserError(
                f"expected {_PROTEIN} among the channels of the network ({', '.join(channels)}) for {name} in"
                " classify.augment, found none"
            )
        parameters["channel"] = list(channels).index(_PROTEIN)
    if name in ("RandomResizedCrop", "RandomSizedCrop"):
        parameters.setdefault("size", (side_px, side_px))  # cut at random, then resized to the side of the crops
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return kind(**parameters)
    except Exception as error:  # warnings too: albumentations goes on with other values then
        raise UserError(f"expected usable parameters of {name} in classify.augment, found {_reason(error)}") from None


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if "validation error" in lines[0] and len(lines) > 2:
        return f"{lines[1]}: {lines[2].split(' [type=')[0].removeprefix('Value error, ')}"
    return lines[0]


def check_augment(section: ClassifySection, side_px: int, channels: Sequence[str]) -> None:
    """Check a recipe's list of steps: names, parameters, and that crops keep their shape.

    Parameters
    ----------
    section
        Recipe section; a preset needs no check.
    side_px
        Side of the crops after `random_crop`.
    channels
        Channels that the network sees.

    Raises
    ------
    UserError
        If a step or a parameter is unknown or unusable, or the shape or type of the pixels changes.
    """
    if isinstance(section.augment, str):
        return
    steps = _steps(section, side_px, channels)
    shape = (side_px, side_px, len(channels))
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for trial in range(_TRIALS):
        varied, changed = image, ""
        for name, step in steps:
            step.p = 1
            compose = albumentations.Compose([step])
            compose.set_random_seed(trial)
            before = varied.shape[:2]
            try:
                varied = compose(image=varied)["image"]
            except Exception as error:
                raise UserError(
                    f"expected {name} in classify.augment to accept {shape[2]}-channel crops of {side_px} px, found"
                    f" {_reason(error)}"
                ) from None
            changed = name if varied.shape[:2] != before else changed
        if varied.size != image.size or varied.shape[:2] != shape[:2] or varied.dtype != np.uint8:
            raise UserError(
                f"expected classify.augment to keep the shape of crops ({side_px} x {side_px} px), found"
                f" {' x '.join(map(str, varied.shape[:2]))} px after {changed or steps[-1][0]} (classify.random_crop"
                " cuts smaller crops)"
            )


def _preset(preset: Preset) -> list[albumentations.BasicTransform]:
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
        Recipe section with `random_crop` and `augment`, a list of steps or a preset: ``"none"``; ``"light"``, the eight
        dihedral views; ``"standard"``, those and small changes of scale, position, angle, brightness (per channel),
        contrast, blur and noise; ``"strong"``, larger changes, elastic deformation and missing blocks. `channels` of
        the section tells steps which channel is the protein; without it, all channels are meant in their order.
    seed
        The recipe's seed.
    fold
        Fold of the model that is trained.
    """

    def __init__(self, section: ClassifySection, seed: int, fold: int) -> None:
        self._section = section
        self._composed: dict[int, albumentations.Compose | None] = {}  # by the side of the crops
        self._side_px = section.random_crop_px if section.random_crop != "none" else 0
        self._seed = seed
        self._fold = fold

    def _compose(self, side_px: int) -> albumentations.Compose | None:
        if side_px not in self._composed:
            section, side = self._section, self._side_px or side_px
            transforms = _random_crop(section.random_crop, section.random_crop_px)
            if isinstance(section.augment, str):
                transforms += _preset(section.augment)
            else:
                transforms += [step for _, step in _steps(section, side, section.channels or CHANNELS)]
            self._composed[side_px] = albumentations.Compose(transforms) if transforms else None
        return self._composed[side_px]

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
        n, channels, height, width = pixels.shape
        compose = self._compose(height)
        if compose is None:
            return pixels
        side = (self._side_px, self._side_px) if self._side_px else (height, width)
        varied = np.empty((n, channels, *side), dtype=np.uint8)
        for crop, row, out in zip(pixels, rows, varied, strict=True):
            seed = derive_seed(Purpose.AUGMENTATION, self._seed, self._fold, epoch, int(row))
            compose.set_random_seed(seed)
            image = compose(image=np.ascontiguousarray(crop.transpose(1, 2, 0)))["image"]
            out[...] = image.reshape(*side, channels).transpose(2, 0, 1)
        return varied

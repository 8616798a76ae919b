"""Convert source images to the 8 bits per channel of a crop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from crops.config import CropsSection
from hpa.pixels import Pixels

_MAX_16: Final = 65_535


@dataclass(frozen=True)
class Planes:
    """The channels of one image in 8 bits, with the source values they were scaled from.

    Parameters
    ----------
    pixels
        Shape (C, H, W), a view of contiguous memory in (H, W, C) order (`channels_last`).
    black, white
        Shape (C,), int32: the source values that became 0 and 255.
    """

    pixels: NDArray[np.uint8]
    black: NDArray[np.int32]
    white: NDArray[np.int32]


def to_8_bit(pixels: Pixels | Sequence[Pixels], section: CropsSection) -> Planes:
    """Convert an image to 8 bits: keep 8-bit values, scale 16-bit values as the recipe's `depth_16` says.

    ``full`` maps 65,535 to white. ``percentiles`` maps two percentiles of each channel to black and white, clips values
    outside them, and rounds.

    Parameters
    ----------
    pixels
        Shape (C, H, W), uint8 or uint16, or C planes of shape (H, W).
    section
        Gives `depth_16` and the percentiles.
    """
    black, white = np.zeros(len(pixels), np.int32), np.full(len(pixels), 255, np.int32)
    if pixels[0].dtype == np.uint8:
        return Planes(_channels_first(cast(Sequence[NDArray[np.uint8]], pixels)), black, white)
    white[:] = _MAX_16
    if section.depth_16 == "percentiles":
        for i, plane in enumerate(pixels):
            black[i], white[i] = _percentiles(plane, section.low_percentile, section.high_percentile)
    scaled = [_lookup_table(int(low), int(high))[plane] for plane, low, high in zip(pixels, black, white, strict=True)]
    return Planes(_channels_first(scaled), black, white)


def channels_last(pixels: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return planes (C, H, W) as a contiguous array (H, W, C), so that one resize handles all channels.

    The result of `to_8_bit` is not copied again.

    Parameters
    ----------
    pixels
        Shape (C, H, W), or C planes of shape (H, W).
    """
    if isinstance(pixels, np.ndarray) and (view := np.moveaxis(pixels, 0, -1)).flags.c_contiguous:
        return view
    return np.asarray(cv2.merge(list(pixels)), dtype=np.uint8).reshape(*pixels[0].shape, len(pixels))


def _channels_first(pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.moveaxis(channels_last(pixels), -1, 0)


def _percentiles(plane: Pixels, low: float, high: float) -> tuple[int, int]:
    cumulative = np.cumsum(np.bincount(plane.ravel(), minlength=_MAX_16 + 1))
    ranks = np.ceil(np.array([low, high]) / 100 * plane.size)
    black, white = (int(value) for value in np.searchsorted(cumulative, np.maximum(ranks, 1)))
    return black, max(white, black + 1)


def _lookup_table(black: int, white: int) -> NDArray[np.uint8]:
    """Return the 8-bit value of every 16-bit value."""
    scaled = (np.arange(_MAX_16 + 1, dtype=np.float64) - black) * (255 / (white - black))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)

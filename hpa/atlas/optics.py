"""Convert light to 8-bit pixels: blur, defocus, photon noise, black level and gain."""

from dataclasses import dataclass
from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.atlas.geometry.field import Field
from hpa.atlas.imaging import ORDINARY, Imaging
from hpa.atlas.noise import Image, blur
from hpa.channels import Channel


@dataclass(frozen=True)
class Exposure:
    """Exposure of one channel, fitted to intensity statistics of real images; lengths are at 512 px.

    Parameters
    ----------
    top, top_sigma
        Median over images of the gray value that 1% of the pixels exceed, and the sigma of its logarithm.
    sigma_px
        Blur of the optics.
    photon, photon_sigma
        Median over images of the gray value of one photon, and the sigma of its logarithm.
    background
        Median of the uniform background light, as a gray value.
    floor
        Gray value subtracted at the end, so that most of the background becomes 0.
    """

    top: float
    top_sigma: float
    sigma_px: float
    photon: float
    photon_sigma: float
    background: float
    floor: float


EXPOSURES: Final[dict[Channel, Exposure]] = {
    "red": Exposure(165, 0.35, 0.32, 2.8, 0.35, 0.8, 3.0),
    "green": Exposure(110, 0.65, 0.25, 5.0, 0.5, 1.0, 4.0),
    "blue": Exposure(155, 0.50, 0.35, 1.3, 0.35, 0.3, 1.5),
    "yellow": Exposure(140, 0.35, 0.35, 5.0, 0.45, 1.0, 4.0),
}


AVERAGED: Final = 0.2
"""Share of images that were reduced from a larger frame by averaging, which leaves little photon noise.

The competition's files of 512 px keep it: they have the share of power at 2 to 3 px of frames of 2,048 px of which
every fourth pixel is taken, and more than twice that of the same frames averaged."""


def record(
    rng: np.random.Generator,
    field: Field,
    light: Image,
    channel: Channel,
    focus: Image,
    brightest: float | None = None,
    *,
    averaged: bool = False,
    imaging: Imaging = ORDINARY,
) -> NDArray[np.uint8]:
    """Record one channel.

    Parameters
    ----------
    rng, field
        Random number generator and the cells.
    light
        Light of the structures, float32 (H, W).
    channel
        Channel, which determines the exposure.
    focus
        0 in focus to 1 far out of focus, float32 (H, W).
    brightest
        Light that is mapped to the exposure's top gray value; None uses the 99th percentile.
    averaged
        Whether each pixel is the mean of several photographed ones.
    imaging
        Its blur, photons and stray light; `Imaging.edit` applies the rest.

    Returns
    -------
    NDArray
        uint8 (H, W).
    """
    exposure, s = EXPOSURES[channel], field.scale
    sharp = blur(light, (exposure.sigma_px + 0.15 * averaged + imaging.blur_px) * s)
    soft = blur(light, 3.5 * s)
    visible = (sharp + (soft - sharp) * focus) * (1 - 0.45 * focus) + rng.uniform(0.005, 0.03) * soft
    if imaging.stray:
        visible = (1 - imaging.stray) * visible + imaging.stray * _spread(visible, 14 * s)
    top = exposure.top * float(np.exp(rng.normal(0, exposure.top_sigma)))
    bright = float(np.percentile(visible[::3, ::3], 99)) if brightest is None else brightest
    visible = visible * (top / max(bright, 1e-3)) + exposure.background * float(rng.lognormal(0, 0.7))
    # gains are set so that little saturates
    visible = np.minimum(visible, 165 + 0.25 * visible)
    # a larger image distributes the same photons over more pixels
    photon = exposure.photon * float(np.sqrt(top / exposure.top) * np.exp(rng.normal(0, exposure.photon_sigma))) * s
    photon *= imaging.photon
    if averaged:
        photon /= 8
    counted = count_photons(rng, visible / np.float32(photon)) * np.float32(photon)
    return np.asarray(np.clip(counted - exposure.floor, 0, 255), dtype=np.uint8)


def _spread(light: Image, sigma_px: float) -> Image:
    """Blur an image widely, on a quarter of its rows and columns."""
    small = cv2.resize(light, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    wide = cv2.GaussianBlur(small, (0, 0), sigma_px / 4)
    return np.asarray(cv2.resize(wide, light.shape[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.float32)


FEW: Final = 15
"""From so many expected photons a normal variate is drawn: as accurate, and faster."""


@cache
def _counts() -> NDArray[np.uint8]:
    """Tabulate Poisson counts: rows of expected photons in steps of 1/64, columns of 1,024 quantiles."""
    expected = np.arange(FEW * 64 + 2) / 64
    count = np.arange(1, 60)
    chance = np.concatenate([np.zeros(1), np.cumsum(np.log(count))])
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.arange(60) * np.log(expected)[:, None] - expected[:, None] - chance
    terms[0] = np.where(np.arange(60) == 0, 0, -np.inf)
    below = np.cumsum(np.exp(terms), axis=1)
    quantiles = (np.arange(1024) + 0.5) / 1024
    return np.stack([np.searchsorted(row, quantiles) for row in below]).astype(np.uint8)


def count_photons(rng: np.random.Generator, expected: Image) -> Image:
    """Draw Poisson counts, small ones from a table of quantiles."""
    draw = rng.integers(0, 1 << 16, expected.shape, dtype=np.uint16)
    # ten bits choose the quantile; the other six round the expectation up or down, so that the mean stays as it is
    row = (np.minimum(expected, FEW) * np.float32(64) + (draw & 63) * np.float32(1 / 64)).astype(np.int32)
    counted = _counts()[row, draw >> 6].astype(np.float32)
    many = expected > FEW
    sure = expected[many]
    noise = rng.standard_normal(len(sure), dtype=np.float32) * np.sqrt(sure)
    counted[many] = np.maximum(np.round(sure + noise), 0)
    return np.asarray(counted, dtype=np.float32)

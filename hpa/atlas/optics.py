"""Convert light to 8-bit pixels: blur, defocus, photon noise, black level and gain."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpa.atlas.geometry.field import Field
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
    "red": Exposure(165, 0.35, 0.32, 4.5, 0.35, 0.8, 1.5),
    "green": Exposure(84, 0.65, 0.35, 9.5, 0.5, 1.0, 1.5),
    "blue": Exposure(155, 0.50, 0.35, 1.3, 0.35, 0.3, 1.5),
    "yellow": Exposure(140, 0.35, 0.35, 5.0, 0.45, 1.0, 1.5),
}


def record(
    rng: np.random.Generator, field: Field, light: Image, channel: Channel, focus: Image, brightest: float | None = None
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

    Returns
    -------
    NDArray
        uint8 (H, W).
    """
    exposure, s = EXPOSURES[channel], field.scale
    sharp = blur(light, exposure.sigma_px * s)
    soft = blur(light, 3.5 * s)
    visible = (sharp + (soft - sharp) * focus) * (1 - 0.45 * focus) + rng.uniform(0.005, 0.03) * soft
    top = exposure.top * float(np.exp(rng.normal(0, exposure.top_sigma)))
    bright = float(np.percentile(visible[::3, ::3], 99)) if brightest is None else brightest
    visible = visible * (top / max(bright, 1e-3)) + exposure.background * float(rng.lognormal(0, 0.7))
    # a larger image distributes the same photons over more pixels
    photon = exposure.photon * float(np.sqrt(top / exposure.top) * np.exp(rng.normal(0, exposure.photon_sigma))) * s
    counted = count_photons(rng, np.minimum(visible, 600) / np.float32(photon)) * np.float32(photon)
    return np.asarray(np.clip(blur(counted, 0.3) - exposure.floor, 0, 255), dtype=np.uint8)


def count_photons(rng: np.random.Generator, expected: Image) -> Image:
    """Draw Poisson counts; from 15 expected photons a normal variate is used, which is much faster and as accurate."""
    noise = rng.standard_normal(expected.shape, dtype=np.float32)
    counted = np.round(expected + noise * np.sqrt(expected))
    few = expected < 15
    counted[few] = rng.poisson(expected[few])
    return np.asarray(counted, dtype=np.float32)

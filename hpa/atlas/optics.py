"""From light to 8-bit pixels: blur, cells out of focus, shot noise, black level, gain."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpa.atlas.field import Field
from hpa.atlas.noise import Image, blur
from hpa.channels import Channel


@dataclass(frozen=True)
class Exposure:
    """How one channel is recorded at 512 px.

    Parameters
    ----------
    top
        Median over images of the gray value that the brightest hundredth of the pixels exceeds.
    top_sigma
        Sigma of its logarithm.
    sigma_px
        Blur of the optics.
    shot
        Shot noise: standard deviation at gray value 100.
    floor
        Gray value subtracted at the end, so that much of the background becomes 0.
    background
        Light that falls everywhere, as a gray value before the floor is subtracted.
    """

    top: float
    top_sigma: float
    sigma_px: float
    shot: float
    floor: float
    background: float


EXPOSURES: Final[dict[Channel, Exposure]] = {
    "red": Exposure(156, 0.35, 0.6, 12, 3, 3),
    "green": Exposure(82, 0.75, 0.6, 16, 4, 3),
    "blue": Exposure(144, 0.50, 0.8, 8, 4, 2),
    "yellow": Exposure(161, 0.35, 0.6, 14, 3, 3),
}


def record(
    rng: np.random.Generator, field: Field, light: Image, channel: Channel, focus: Image, gain: float = 1.0
) -> NDArray[np.uint8]:
    """Record one channel.

    Parameters
    ----------
    rng, field
        Chance and the cells.
    light
        Light of the structures, float32 (H, W).
    channel
        Which stain, for its exposure.
    focus
        0 in focus to 1 far out of it, float32 (H, W).
    gain
        Further factor on the brightness.

    Returns
    -------
    NDArray
        uint8 (H, W).
    """
    exposure, s = EXPOSURES[channel], field.scale
    sharp = blur(light, exposure.sigma_px * s)
    soft = blur(light, 5 * s)
    seen = sharp + (soft - sharp) * focus + 0.04 * soft
    top = exposure.top * float(np.exp(rng.normal(0, exposure.top_sigma))) * gain
    bright = float(np.percentile(seen[::3, ::3], 99))
    seen = seen * (top / max(bright, 1e-3)) + exposure.background
    noise = rng.standard_normal(field.shape, dtype=np.float32)
    seen = seen + noise * np.sqrt(np.maximum(seen, 0)) * np.float32(exposure.shot / 10) - exposure.floor
    return np.asarray(np.clip(seen, 0, 255), dtype=np.uint8)

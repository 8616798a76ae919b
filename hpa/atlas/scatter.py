"""Place small round structures in cells: positions, numbers, brightness and dots."""

import numpy as np
from numpy.typing import NDArray

from hpa.atlas.geometry.field import Field
from hpa.atlas.noise import Image, blur, splat

Points = NDArray[np.float32]


def scatter(
    rng: np.random.Generator, field: Field, density: Image, number: float, spread: float = 0.4, growth: float = 1.5
) -> tuple[Points, NDArray[np.int32]]:
    """Draw random positions in every cell.

    Parameters
    ----------
    rng, field
        Random number generator and the cells.
    density
        Relative density of positions, not negative, float32 (H, W); it is normalised within each cell.
    number
        Median number in a complete cell 100 px across; a cell cropped by the frame gets the visible part of it.
    spread
        Sigma of the logarithm of the number.
    growth
        Exponent of the growth of the number with the cell's diameter.

    Returns
    -------
    tuple
        Rows and columns in px, float32 (K, 2), and the cell 1..N of each, int32 (K,).
    """
    cells = field.population
    owner = field.owner.ravel()
    weight = np.where(owner > 0, density.ravel(), 0)
    total = np.bincount(owner, weight, len(cells) + 1)
    visible = np.bincount(owner, minlength=len(cells) + 1)
    whole = np.concatenate([[1.0], np.pi * cells.radius_px**2])
    size = np.concatenate([[1.0], cells.radius_px / (50 * field.scale)]) ** growth
    wanted = size * number * rng.lognormal(0, spread, len(cells) + 1) * np.minimum(visible / whole, 1.2) * (total > 0)
    wanted[0] = 0
    chance = np.cumsum(weight * (wanted / np.maximum(total, 1e-9))[owner])
    count = rng.poisson(wanted.sum())
    if count == 0 or chance[-1] <= 0:
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
    pixel = np.minimum(np.searchsorted(chance, rng.random(count) * chance[-1]), len(owner) - 1)
    at = np.stack(np.unravel_index(pixel, field.shape), axis=1) + rng.uniform(-0.5, 0.5, (count, 2))
    return at.astype(np.float32), owner[pixel].astype(np.int32)


def dots(field: Field, at: Points, light: NDArray[np.float32], sigma_px: float) -> Image:
    """Draw Gaussian dots with peaks of the given brightness.

    Parameters
    ----------
    field
        Gives the frame and its scale.
    at
        Rows and columns in px, shape (K, 2).
    light
        Peak brightness, shape (K,).
    sigma_px
        Standard deviation of the dots in a frame of 512 px.
    """
    sigma = sigma_px * field.scale
    return blur(splat(at, light, field.shape), sigma) * np.float32(2 * np.pi * max(sigma, 0.4) ** 2)


def lights(rng: np.random.Generator, count: int, sigma: float = 0.4) -> NDArray[np.float32]:
    """Draw `count` brightnesses of mean 1, log-normal with the given sigma, float32 (count,)."""
    return rng.lognormal(-(sigma**2) / 2, sigma, count).astype(np.float32)

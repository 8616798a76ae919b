"""Estimate the diameter of a typical cell: of a data set from a sample of it, and of an image from its own cells."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from segment.network.scale import TYPICAL_DIAMETER

SAMPLE_IMAGES = 12
"""Maximum number of images sampled per image size."""

# Weight of the prior. Diameters vary by a factor of 1.2 between images and cells by 1.4 within one, whose median is
# then as certain from 1.57 * (ln 1.4 / ln 1.2)**2 = 5 cells as from the prior.
_PRIOR_CELLS = 5
_TOLERANCE = 0.1  # of the logarithm; masks hardly change within a tenth of the diameter
_BOUNDS = (0.4, 2.5)  # in typical diameters; beyond these the sample is more likely at fault


def typical_diameter_px(height_px: int, width_px: int) -> float:
    """Return the diameter of a typical cell in a field of view of the Human Protein Atlas of this size."""
    return TYPICAL_DIAMETER * min(height_px, width_px)


def sample_rows(images: pd.DataFrame) -> pd.DataFrame:
    """Choose images of each size, evenly spaced in the image table.

    Parameters
    ----------
    images
        The image table; rows of unknown size are skipped.

    Returns
    -------
    DataFrame
        At most `SAMPLE_IMAGES` rows per size.
    """
    known = images[(images["height_px"] > 0) & (images["width_px"] > 0)]
    chosen = [
        group.iloc[np.unique(np.linspace(0, len(group) - 1, SAMPLE_IMAGES).round().astype(int))]
        for _, group in known.groupby(["height_px", "width_px"])
    ]
    return pd.concat(chosen) if chosen else known


def estimate_diameter_px(areas_px: Iterable[int], prior_px: float, shape: tuple[int, int]) -> float:
    """Estimate the diameter of a typical cell from the areas of some cells.

    Parameters
    ----------
    areas_px
        Areas of the cells.
    prior_px
        Diameter that is likely before the cells are seen: the typical one for a data set, and that of the data set for
        one of its images.
    shape
        Height and width of the images.

    Returns
    -------
    float
        Median equivalent diameter, shrunk towards `prior_px` if there are few cells.
    """
    areas = np.fromiter(areas_px, dtype=np.float64)
    areas = areas[areas > 0]
    if not len(areas):
        return prior_px
    log_ratio = np.log(np.median(np.sqrt(areas * 4 / np.pi)) / prior_px) * len(areas) / (len(areas) + _PRIOR_CELLS)
    low, high = (bound * typical_diameter_px(*shape) for bound in _BOUNDS)
    return float(np.clip(prior_px * np.exp(log_ratio), low, high))


def own_diameter_px(cells: NDArray[np.integer[Any]], used_px: float) -> float | None:
    """Return the diameter at which to segment an image again, or None if its cells are about as large as assumed.

    Parameters
    ----------
    cells
        Shape (H, W), labels of the cells found at `used_px`.
    used_px
        Equivalent diameter of a typical cell for which the image was segmented.
    """
    own_px = estimate_diameter_px(np.bincount(cells.ravel())[1:], used_px, (cells.shape[0], cells.shape[1]))
    return own_px if abs(np.log(own_px / used_px)) > _TOLERANCE else None

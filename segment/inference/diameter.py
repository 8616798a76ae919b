"""The diameter of a typical cell, found once from a sample of the data."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from segment.network.scale import TYPICAL_DIAMETER

SAMPLE_IMAGES = 12
"""Images of each size that are looked at."""

_PRIOR_CELLS = 30  # a few cells say little: they are averaged with as many typical ones
_BOUNDS = (0.4, 2.5)  # of the typical diameter; beyond it is rather the sample that is odd


def typical_diameter_px(height_px: int, width_px: int) -> float:
    """Return the diameter of a typical cell of the Human Protein Atlas in a field of this size."""
    return TYPICAL_DIAMETER * min(height_px, width_px)


def sample_rows(images: pd.DataFrame) -> pd.DataFrame:
    """Choose images of every size, evenly over the image table.

    Parameters
    ----------
    images
        The image table; rows without a known size are left out.

    Returns
    -------
    DataFrame
        At most `SAMPLE_IMAGES` rows a size.
    """
    known = images[(images["height_px"] > 0) & (images["width_px"] > 0)]
    chosen = [
        group.iloc[np.unique(np.linspace(0, len(group) - 1, SAMPLE_IMAGES).round().astype(int))]
        for _, group in known.groupby(["height_px", "width_px"])
    ]
    return pd.concat(chosen) if chosen else known


def estimate_diameter_px(areas_px: Iterable[int], height_px: int, width_px: int) -> float:
    """Estimate the diameter of a typical cell from the areas of some.

    Parameters
    ----------
    areas_px
        Areas of cells.
    height_px, width_px
        Size of the images they lie in.

    Returns
    -------
    float
        Median equivalent diameter, drawn towards the typical one where the cells are few.
    """
    typical = typical_diameter_px(height_px, width_px)
    areas = np.fromiter(areas_px, dtype=np.float64)
    if not len(areas):
        return typical
    ratio = np.log(np.median(np.sqrt(areas * 4 / np.pi)) / typical) * len(areas) / (len(areas) + _PRIOR_CELLS)
    return float(typical * np.clip(np.exp(ratio), *_BOUNDS))

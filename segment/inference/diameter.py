"""Estimate the diameter of a typical cell from a sample of the data."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from segment.network.scale import TYPICAL_DIAMETER

SAMPLE_IMAGES = 12
"""Maximum number of images sampled per image size."""

_PRIOR_CELLS = 30  # weight of the typical diameter: a few cells alone are a poor sample
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


def estimate_diameter_px(areas_px: Iterable[int], height_px: int, width_px: int) -> float:
    """Estimate the diameter of a typical cell from the areas of some cells.

    Parameters
    ----------
    areas_px
        Areas of the cells.
    height_px, width_px
        Size of their images.

    Returns
    -------
    float
        Median equivalent diameter, shrunk towards the typical diameter if there are few cells.
    """
    typical = typical_diameter_px(height_px, width_px)
    areas = np.fromiter(areas_px, dtype=np.float64)
    if not len(areas):
        return typical
    log_ratio = np.log(np.median(np.sqrt(areas * 4 / np.pi)) / typical) * len(areas) / (len(areas) + _PRIOR_CELLS)
    return float(typical * np.clip(np.exp(log_ratio), *_BOUNDS))

"""The scale at which the networks work: a typical cell is 30 px wide."""

from typing import Final

NETWORK_DIAMETER_PX: Final = 30.0
"""Equivalent diameter of a typical cell at the network's scale, following Cellpose's convention."""

TYPICAL_DIAMETER: Final = 98 / 512
"""Median equivalent diameter of a cell in 328 images of the Human Protein Atlas, as a share of the image's side."""

_MIN_SIDE_PX: Final = 16


def network_shape(height_px: int, width_px: int, diameter_px: float) -> tuple[int, int]:
    """Return the height and width to which an image is reduced for the network.

    At this size a typical cell has the diameter `NETWORK_DIAMETER_PX`. Neither side is below 16 px.

    Parameters
    ----------
    height_px, width_px
        Size of the image.
    diameter_px
        Equivalent diameter of a typical cell in the image.

    Examples
    --------
    >>> network_shape(512, 1024, 100)
    (154, 307)
    """
    scale = NETWORK_DIAMETER_PX / diameter_px
    return max(_MIN_SIDE_PX, round(height_px * scale)), max(_MIN_SIDE_PX, round(width_px * scale))

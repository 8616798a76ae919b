"""The scale the networks work at: a typical cell is 30 px wide."""

from typing import Final

NETWORK_DIAMETER_PX: Final = 30.0
"""Equivalent diameter of a typical cell at the size the network works at; Cellpose's own convention."""

TYPICAL_DIAMETER: Final = 98 / 512
"""Median equivalent diameter of a cell in 328 images of the Human Protein Atlas, as a share of the image's side."""

_MIN_SIDE_PX: Final = 16


def network_shape(height_px: int, width_px: int, diameter_px: float) -> tuple[int, int]:
    """Return the height and width at which a typical cell has `NETWORK_DIAMETER_PX`.

    Parameters
    ----------
    height_px, width_px
        Size of the image.
    diameter_px
        Equivalent diameter of a typical cell in the image.
    """
    scale = NETWORK_DIAMETER_PX / diameter_px
    return max(_MIN_SIDE_PX, round(height_px * scale)), max(_MIN_SIDE_PX, round(width_px * scale))

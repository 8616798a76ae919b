"""From a row of the image table to what the network sees."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from hpa.channels import Channel
from hpa.config import DataSection
from hpa.errors import UserError
from hpa.pixels import read_channels
from segment.config import SegmentSection
from segment.inference.diameter import typical_diameter_px
from segment.inference.predict import NetworkInput, prepare_input
from segment.network.compact import ER, NUCLEUS_PLANE, TUBULES

INPUT_OF: Final[Mapping[Channel, int]] = {"yellow": ER, "blue": NUCLEUS_PLANE, "red": TUBULES}
"""Which input of the network a channel is."""


def channels_to_read(section: SegmentSection, data: DataSection) -> tuple[Channel, ...]:
    """Return the channels that the network reads; without an ER channel, nucleus and microtubules.

    Raises
    ------
    UserError
        If the run lacks one of them.
    """
    wanted = section.channels
    if "yellow" in wanted and "yellow" not in data.channels and "red" in data.channels:
        print("segment: the data have no ER channel (yellow); cells are found on nucleus and microtubules")
        wanted = ("red", "blue")
    if missing := [channel for channel in wanted if channel not in data.channels]:
        raise UserError(
            f"expected the channels {', '.join(wanted)} to segment on, found no {' and no '.join(missing)} in [data]"
        )
    return wanted


def size_name(height_px: int, width_px: int) -> str:
    """Name an image size, for example ``"512x512"``."""
    return f"{height_px}x{width_px}"


def load_input(
    image: Mapping[Any, Any],
    channels: tuple[Channel, ...],
    diameter_px: float,
    diameters_px: Mapping[str, float] = MappingProxyType({}),
) -> NetworkInput:
    """Read an image and reduce it to what the network sees.

    Parameters
    ----------
    image
        A row of the image table.
    channels
        Which to read.
    diameter_px
        Of a typical cell; 0 takes that of the image's size.
    diameters_px
        By size, for example ``{"512x512": 98.0}``; other sizes are taken for whole fields of view.

    Raises
    ------
    ImageError
        If it cannot be read.
    """
    planes = read_channels(image, channels)
    height, width = planes.shape[1:]
    diameter = diameter_px or diameters_px.get(size_name(height, width)) or typical_diameter_px(height, width)
    return prepare_input(planes, diameter, [INPUT_OF[channel] for channel in channels])

"""Pictures for people: planes in the colours of their stains, tiles with titles side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.channels import Channel
from hpa.errors import ImageError
from hpa.files import write_bytes
from hpa.pixels import Pixels, read_channels

Picture = NDArray[np.uint8]
"""Shape (H, W, 3), blue-green-red."""

# Yellow is dimmer where channels are merged: it fills the cell and would hide what lies in it.
_MERGED: Final[Mapping[Channel, tuple[float, float, float]]] = {
    "red": (0, 0, 1),
    "green": (0, 1, 0),
    "blue": (1, 0, 0),
    "yellow": (0, 0.45, 0.45),
}
_TITLE_PX: Final = 18
_LETTER_PX: Final = 7
_LEAST_TOP: Final = 24  # gray levels of 255 that are shown as white at the most: an empty plane stays dark


def brighten(planes: Pixels) -> NDArray[np.float32]:
    """Scale each plane of (C, H, W) by itself so that its 99.8th percentile is white, 255."""
    depth = 255 if planes.dtype == np.uint8 else 65535
    top = np.maximum(np.percentile(planes, 99.8, axis=(1, 2)), 1 if depth > 255 else _LEAST_TOP)
    return np.asarray(planes * (255 / top)[:, None, None], dtype=np.float32)


def composite(planes: Pixels, channels: Sequence[Channel]) -> Picture:
    """Merge planes (C, H, W) into one picture, each channel in its colour and brightened by itself."""
    colors = np.array([_MERGED[channel] for channel in channels], dtype=np.float32)
    return _clipped(np.einsum("chw,cb->hwb", brighten(planes), colors))


def colored(plane: Pixels, channel: Channel) -> Picture:
    """Show one plane (H, W) in the colour of its stain."""
    color = np.array(_MERGED[channel], dtype=np.float32)
    return _clipped(brighten(plane[None])[0][..., None] * (color > 0))


def image_row(image: Mapping[Any, Any], channels: Sequence[Channel], title: str, side_px: int) -> Picture:
    """Show an image of the image table below a title: its composite, then each channel; black if it cannot be read.

    Parameters
    ----------
    image
        A row of the image table (`hpa.images`).
    channels
        Which are shown.
    title
        In ASCII; other characters become question marks.
    side_px
        Of each tile.

    Returns
    -------
    ndarray
        Shape (H, side_px * (C + 1), 3), blue-green-red.
    """
    try:
        planes = read_channels(image, channels)
    except ImageError as error:
        planes, title = np.zeros((len(channels), 1, 1), np.uint8), f"{title}: {error}"
    small = cast(Pixels, np.stack([cv2.resize(p, (side_px, side_px), interpolation=cv2.INTER_AREA) for p in planes]))
    tiles = [composite(small, channels), *map(colored, small, channels)]
    for tile, name in zip(tiles, ("", *channels), strict=True):
        _write(tile, name, side_px - _LETTER_PX // 2)
    return np.concatenate([_strip(title, side_px * len(tiles)), np.concatenate(tiles, axis=1)])


def titled(picture: Picture, title: str, side_px: int) -> Picture:
    """Scale a picture to a square below a strip with a title, cut where it is too long.

    Parameters
    ----------
    picture
        Shape (H, W, 3), blue-green-red.
    title
        In ASCII; other characters become question marks.
    side_px
        Of the square.
    """
    return np.concatenate([_strip(title, side_px), cv2.resize(picture, (side_px,) * 2, interpolation=cv2.INTER_AREA)])


def _strip(title: str, width_px: int) -> Picture:
    strip = np.zeros((_TITLE_PX, width_px, 3), np.uint8)
    most = width_px // _LETTER_PX
    _write(strip, title if len(title) < most else title[: max(most - 2, 1)] + "..", 13)
    return strip


def _write(picture: Picture, text: str, bottom_px: int) -> None:
    # OpenCV's letters are ASCII; anything else would show as question marks of its own.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(picture, plain, (3, bottom_px), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (235, 235, 235), 1, cv2.LINE_AA)


def save_tiles(tiles: Sequence[Picture], columns: int, out: Path) -> None:
    """Write tiles row by row as a PNG, whole or not at all, coarsened to 16 levels so that the file stays small.

    Parameters
    ----------
    tiles
        At least one, all of one shape (H, W, 3), blue-green-red.
    columns
        How many stand in a row.
    out
        The file.
    """
    filled = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    rows = [np.concatenate(filled[k : k + columns], axis=1) for k in range(0, len(filled), columns)]
    _, content = cv2.imencode(".png", np.concatenate(rows) & np.uint8(0xF0), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    write_bytes(out, content.tobytes())


def _clipped(picture: NDArray[Any]) -> Picture:
    return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)

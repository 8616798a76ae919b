"""Pictures for people: planes in the colours of their stains, outlines, titles, tiles in lines, saved as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.channels import Channel
from hpa.errors import ImageError
from hpa.pixels import Pixels, read_channels
from hpa.work.files import atomic_write, write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = NDArray[np.uint8]
"""Shape (H, W, 3), blue-green-red."""

Color = tuple[int, int, int]
"""Blue, green, red; 0..255."""

WHITE: Final[Color] = (235, 235, 235)

# Yellow is dimmer where channels are merged: it fills the cell and would hide what lies in it.
_MERGED: Final[Mapping[Channel, tuple[float, float, float]]] = {
    "red": (0, 0, 1),
    "green": (0, 1, 0),
    "blue": (1, 0, 0),
    "yellow": (0, 0.45, 0.45),
}
_TITLE_PX: Final = 18
_LETTER_PX: Final = 7
_MIN_TOP: Final = 24  # gray levels of 255 that are shown as white at the most: an empty plane stays dark


def brighten(planes: Pixels) -> NDArray[np.float32]:
    """Scale each plane of (C, H, W) by itself so that its 99.8th percentile is white, 255."""
    depth = 255 if planes.dtype == np.uint8 else 65535
    top = np.maximum(np.percentile(planes, 99.8, axis=(1, 2)), 1 if depth > 255 else _MIN_TOP)
    return np.asarray(planes * (255 / top)[:, None, None], dtype=np.float32)


def composite(planes: Pixels, channels: Sequence[Channel], gamma: float = 1.0) -> Picture:
    """Merge planes (C, H, W) into one picture, each channel in its colour and brightened by itself.

    Parameters
    ----------
    planes
        Shape (C, H, W).
    channels
        Of the planes.
    gamma
        Exponent of the brightness; below 1 it shows what is dim.
    """
    colors = np.array([_MERGED[channel] for channel in channels], dtype=np.float32)
    bright = brighten(planes)
    if gamma != 1:
        bright = 255 * (bright / 255).clip(0, 1) ** np.float32(gamma)
    return _clipped(np.einsum("chw,cb->hwb", bright, colors))


def colored(plane: Pixels, channel: Channel) -> Picture:
    """Show one plane (H, W) in the colour of its stain."""
    color = np.array(_MERGED[channel], dtype=np.float32)
    return _clipped(brighten(plane[None])[0][..., None] * (color > 0))


def fitted(planes: Pixels, side_px: int) -> Pixels:
    """Scale planes (C, H, W) so that their longer side is `side_px`."""
    return cast(Pixels, np.stack([_fitted(plane, side_px) for plane in planes]))


def outlined(picture: Picture, labels: NDArray[Any], color: Color) -> Picture:
    """Draw the outlines of a label image over a picture.

    Parameters
    ----------
    picture
        Shape (H, W, 3).
    labels
        Label image, or a mask, of any size; it is scaled to that of the picture.
    color
        Of the lines.
    """
    height, width = picture.shape[:2]
    # OpenCV scales no bool.
    whole_numbers = labels.view(np.uint8) if labels.dtype == bool else labels
    shown = np.asarray(cv2.resize(whole_numbers, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))
    edges = np.zeros(shown.shape, dtype=bool)
    edges[:-1] |= shown[:-1] != shown[1:]
    edges[:, :-1] |= shown[:, :-1] != shown[:, 1:]
    drawn = picture.copy()
    drawn[edges] = color
    return drawn


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
        planes = fitted(read_channels(image, channels), side_px)
    except ImageError as error:
        planes, title = np.zeros((len(channels), 1, 1), np.uint8), f"{title}: {error}"
    tiles = [_squared(one, side_px) for one in (composite(planes, channels), *map(colored, planes, channels))]
    for tile, name in zip(tiles, ("", *channels), strict=True):
        _write(tile, name, side_px - _LETTER_PX // 2, WHITE)
    return np.concatenate([_strip(title, side_px * len(tiles), WHITE), np.concatenate(tiles, axis=1)])


def titled(picture: Picture, title: str, side_px: int, color: Color = WHITE) -> Picture:
    """Fit a picture into a square below its title, one strip for each of its lines, cut where they are too long.

    Parameters
    ----------
    picture
        Shape (H, W, 3); what is left of the square beside a picture that is not square is black.
    title
        One line or several.
    side_px
        Of the square.
    color
        Of the letters.
    """
    strips = [_strip(line, side_px, color) for line in title.split("\n")]
    return np.concatenate([*strips, _squared(cast(Picture, _fitted(picture, side_px)), side_px)])


def save_tiles(tiles: Sequence[Picture], columns: int, out: Path) -> None:
    """Write tiles of one size row by row as a PNG, whole or not at all."""
    _save(_rows(tiles, columns), out)


def save_lines(lines: Mapping[str, Sequence[Picture]], columns: int, out: Path) -> None:
    """Write tiles of one size as a PNG, those of each title below it; more than fit a line go over several.

    Parameters
    ----------
    lines
        Title to tiles, at least one.
    columns
        Tiles side by side.
    out
        The file, whole or not at all.
    """
    parts: list[Picture] = []
    for title, tiles in lines.items():
        rows = _rows(tiles, columns)
        parts += [_strip(title, rows[0].shape[1], WHITE), *rows]
    _save(parts, out)


def save_figure(figure: "Figure", out: Path) -> None:
    """Write a figure of matplotlib as a PNG, whole or not at all."""
    with atomic_write(out) as partial:
        figure.savefig(partial, dpi=110)


def _rows(tiles: Sequence[Picture], columns: int) -> list[Picture]:
    filled = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    rows = [np.concatenate(filled[k : k + columns], axis=1) for k in range(0, len(filled), columns)]
    width = tiles[0].shape[1]
    for row in rows:
        row[:, width - 1 :: width] = 0  # a seam, or neighbours would look like one picture
    return rows


def _save(rows: Sequence[Picture], out: Path) -> None:
    # 16 levels are enough for the eye, and the file stays small. Level 9 takes nine times as long for 7% less.
    _, content = cv2.imencode(".png", np.concatenate(rows) & np.uint8(0xF0), [cv2.IMWRITE_PNG_COMPRESSION, 6])
    write_bytes(out, content.tobytes())


def _fitted(plane: NDArray[Any], side_px: int) -> NDArray[Any]:
    height, width = plane.shape[:2]
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))


def _squared(picture: Picture, side_px: int) -> Picture:
    height, width = picture.shape[:2]
    top, left = (side_px - height) // 2, (side_px - width) // 2
    return np.pad(picture, ((top, side_px - height - top), (left, side_px - width - left), (0, 0)))


def _strip(title: str, width_px: int, color: Color) -> Picture:
    strip = np.zeros((_TITLE_PX, width_px, 3), np.uint8)
    most = width_px // _LETTER_PX
    _write(strip, title if len(title) < most else title[: max(most - 2, 1)] + "..", 13, color)
    return strip


def _write(picture: Picture, text: str, bottom_px: int, color: Color) -> None:
    # OpenCV's letters are ASCII; anything else would show as question marks of its own.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(picture, plain, (3, bottom_px), cv2.FONT_HERSHEY_SIMPLEX, 0.38, color, 1, cv2.LINE_AA)


def _clipped(picture: NDArray[Any]) -> Picture:
    return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)

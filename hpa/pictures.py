"""Pictures for people: planes in the colours of their stains, outlines, titles and tiles, and how they are saved."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.channels import Channel
from hpa.errors import ImageError, UserError
from hpa.pixels import Pixels, read_channels
from hpa.work.files import atomic_write, write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = NDArray[np.uint8]
"""Array of shape (H, W, 3), blue-green-red."""

Color = tuple[int, int, int]
"""Blue, green, red; 0..255."""

WHITE: Final[Color] = (235, 235, 235)

# Yellow is dimmed in merged pictures: the ER fills the cell and would hide the other channels.
_MERGED: Final[Mapping[Channel, tuple[float, float, float]]] = {
    "red": (0, 0, 1),
    "green": (0, 1, 0),
    "blue": (1, 0, 0),
    "yellow": (0, 0.45, 0.45),
}
_TITLE_PX: Final = 18
_TILES_DPI: Final = 144  # of tiles in a PDF or SVG
_LETTER_PX: Final = 7
_MIN_TOP: Final = 24  # lowest gray level (of 255) that may be scaled to white, so that an empty plane stays dark


def brighten(planes: Pixels) -> NDArray[np.float32]:
    """Scale each plane separately so that its 99.8th percentile becomes white, 255.

    Parameters
    ----------
    planes
        Shape (C, H, W), uint8 or uint16.

    Returns
    -------
    ndarray
        Shape (C, H, W), float32; brighter pixels exceed 255.
    """
    depth = 255 if planes.dtype == np.uint8 else 65535
    top = np.maximum(np.percentile(planes, 99.8, axis=(1, 2)), 1 if depth > 255 else _MIN_TOP)
    return np.asarray(planes * (255 / top)[:, None, None], dtype=np.float32)


def composite(planes: Pixels, channels: Sequence[Channel], gamma: float = 1.0) -> Picture:
    """Merge planes into one picture, each channel in its colour and brightened separately.

    Parameters
    ----------
    planes
        Shape (C, H, W).
    channels
        Channel of each plane.
    gamma
        Exponent of the brightness; values below 1 emphasise dim structures.
    """
    colors = np.array([_MERGED[channel] for channel in channels], dtype=np.float32)
    bright = brighten(planes)
    if gamma != 1:
        bright = 255 * (bright / 255).clip(0, 1) ** np.float32(gamma)
    return _clipped(np.einsum("chw,cb->hwb", bright, colors))


def colored(plane: Pixels, channel: Channel) -> Picture:
    """Draw one plane (H, W) in the colour of its stain."""
    color = np.array(_MERGED[channel], dtype=np.float32)
    return _clipped(brighten(plane[None])[0][..., None] * (color > 0))


def fitted(planes: Pixels, side_px: int) -> Pixels:
    """Resize planes (C, H, W) so that their longer side is `side_px`."""
    return cast(Pixels, np.stack([_fitted(plane, side_px) for plane in planes]))


def outlined(picture: Picture, labels: NDArray[Any], color: Color) -> Picture:
    """Draw the outlines of a label image over a picture.

    Parameters
    ----------
    picture
        Shape (H, W, 3).
    labels
        Label image or boolean mask of any size; it is resized to the picture.
    color
        Colour of the lines.
    """
    height, width = picture.shape[:2]
    # OpenCV cannot resize bool.
    integers = labels.view(np.uint8) if labels.dtype == bool else labels
    shown = np.asarray(cv2.resize(integers, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))
    edges = np.zeros(shown.shape, dtype=bool)
    edges[:-1] |= shown[:-1] != shown[1:]
    edges[:, :-1] |= shown[:, :-1] != shown[:, 1:]
    drawn = picture.copy()
    drawn[edges] = color
    return drawn


class ScaleBar(NamedTuple):
    """A bar of a round length: 1, 2 or 5 times a power of ten.

    Parameters
    ----------
    length_px
        Its length in pixels of the image.
    text
        Its length in words, ``20 µm`` or ``100 px``.
    """

    length_px: float
    text: str


def scale_bar(side_px: int, pixel_um: float = 0.0) -> ScaleBar:
    """Return the longest bar within a quarter of an image.

    Parameters
    ----------
    side_px
        The longer side of the image.
    pixel_um
        Side of a pixel, in micrometres; 0 if it is not known: the bar is then a number of pixels.

    Examples
    --------
    >>> [scale_bar(side).text for side in (64, 512, 2048)]
    ['10 px', '100 px', '500 px']
    >>> scale_bar(1000, pixel_um=0.4)
    ScaleBar(length_px=250.0, text='100 µm')
    """
    unit, name = (pixel_um, "µm") if pixel_um else (1.0, "px")
    aim = side_px * unit / 4 if pixel_um else max(side_px / 4, 1)
    power = 10.0 ** math.floor(math.log10(aim))
    length = max(step * power for step in (1, 2, 5) if step * power <= aim * (1 + 1e-9))
    return ScaleBar(length / unit, f"{length:g} {name}")


def with_scale_bar(picture: Picture, side_px: int, pixel_um: float = 0.0) -> Picture:
    """Draw a scale bar into the lower right corner of a picture.

    Parameters
    ----------
    picture
        The image at any size.
    side_px, pixel_um
        As for `scale_bar`, of the image before it was resized.
    """
    bar = scale_bar(side_px, pixel_um)
    bottom, right = picture.shape[0] - 8, picture.shape[1] - 8
    left = right - max(1, round(bar.length_px * max(picture.shape[:2]) / side_px))
    text = bar.text.replace("µ", "u")  # OpenCV can only draw ASCII
    drawn = picture.copy()
    for color, thickness in (((0, 0, 0), 5), ((255, 255, 255), 3)):
        cv2.line(drawn, (left, bottom), (right, bottom), color, thickness)
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(drawn, text, (left, bottom - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.38, color, thickness, cv2.LINE_AA)
    return drawn


def image_row(image: Mapping[Any, Any], channels: Sequence[Channel], title: str, side_px: int) -> Picture:
    """Draw a row of tiles for one image below a title: its composite, then each channel; black if it cannot be read.

    Parameters
    ----------
    image
        A row of the image table (`hpa.images`).
    channels
        Channels to show.
    title
        ASCII text; other characters become question marks.
    side_px
        Side of each tile.

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
    """Fit a picture into a square below its title, which has one strip per line; lines that are too long are truncated.

    Parameters
    ----------
    picture
        Shape (H, W, 3); if it is not square, the rest of the square is black.
    title
        One or more lines.
    side_px
        Side of the square.
    color
        Colour of the letters.
    """
    strips = [_strip(line, side_px, color) for line in title.split("\n")]
    return np.concatenate([*strips, _squared(cast(Picture, _fitted(picture, side_px)), side_px)])


FigureFormat = Literal["png", "pdf", "svg"]
"""Formats of figures, and the suffixes of their files."""


def check_figure(path: Path) -> None:
    """Check the suffix of a figure.

    Raises
    ------
    UserError
        If it is none of .png, .pdf and .svg.
    """
    if path.suffix.lower().removeprefix(".") not in get_args(FigureFormat):
        raise UserError(f"expected a figure that ends in .png, .pdf or .svg, found {path.name}")


def save_tiles(tiles: Sequence[Picture], columns: int, out: Path) -> None:
    """Write tiles of equal size row by row as a PNG, PDF or SVG, atomically."""
    _save(_rows(tiles, columns), out)


def save_lines(lines: Mapping[str, Sequence[Picture]], columns: int, out: Path) -> None:
    """Write titled groups of tiles of equal size as a PNG, PDF or SVG, atomically; a group may take several rows.

    Parameters
    ----------
    lines
        Tiles by title, at least one per title.
    columns
        Number of tiles per row.
    out
        The file to write.
    """
    parts: list[Picture] = []
    for title, tiles in lines.items():
        rows = _rows(tiles, columns)
        parts += [_strip(title, rows[0].shape[1], WHITE), *rows]
    _save(parts, out)


def save_figure(figure: "Figure", out: Path, dpi: int = 110) -> None:
    """Write a matplotlib figure, atomically; equal figures give equal bytes.

    Parameters
    ----------
    figure
        The figure.
    out
        The file, whose suffix chooses the format: ``.png``, or ``.pdf`` or ``.svg`` with letters that stay letters.
    dpi
        Of a PNG.
    """
    from matplotlib import rc_context

    dates: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with (
        rc_context({"svg.hashsalt": "cellwise", "svg.fonttype": "none", "pdf.fonttype": 42}),
        atomic_write(out) as partial,
    ):
        figure.savefig(partial, dpi=dpi, metadata=dates.get(out.suffix.lower()))


def _rows(tiles: Sequence[Picture], columns: int) -> list[Picture]:
    filled = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    rows = [np.concatenate(filled[k : k + columns], axis=1) for k in range(0, len(filled), columns)]
    width = tiles[0].shape[1]
    for row in rows:
        row[:, width - 1 :: width] = 0  # a seam, or neighbours would look like one picture
    return rows


def _save(rows: Sequence[Picture], out: Path) -> None:
    """Write rows of tiles; a PDF or SVG holds them as one picture, with the pixels of the PNG."""
    picture = np.concatenate(rows) & np.uint8(0xF0)
    if out.suffix.lower() != ".png":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(picture.shape[1] / _TILES_DPI, picture.shape[0] / _TILES_DPI), dpi=_TILES_DPI)
        figure.figimage(picture[..., ::-1])  # OpenCV's order is blue, green, red
        save_figure(figure, out, dpi=_TILES_DPI)
        return
    # 16 gray levels suffice for the eye and keep the file small. Compression level 9 takes nine times as long and saves
    # only 7%.
    _, content = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 6])
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
    max_letters = width_px // _LETTER_PX
    _write(strip, title if len(title) < max_letters else title[: max(max_letters - 2, 1)] + "..", 13, color)
    return strip


def _write(picture: Picture, text: str, bottom_px: int, color: Color) -> None:
    # OpenCV can only draw ASCII and would draw several question marks for one other character.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(picture, plain, (3, bottom_px), cv2.FONT_HERSHEY_SIMPLEX, 0.38, color, 1, cv2.LINE_AA)


def _clipped(picture: NDArray[Any]) -> Picture:
    return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)

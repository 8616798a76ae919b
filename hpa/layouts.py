"""Data layouts: from a folder of a user's to the image table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd
from PIL import Image

from hpa import folder, kaggle2018
from hpa.channels import Channel
from hpa.errors import UserError
from hpa.found import Found
from hpa.pixels import ONLY_PLANE
from hpa.vocabulary import Vocabulary

LAYOUTS: Final[Mapping[str, Callable[[Path, Vocabulary], Found]]] = {
    "kaggle2018": kaggle2018.find,
    "folder": folder.find,
}


_COLOURED: Final = (".jpg", ".jpeg")
_PLANES: Final[Mapping[Channel, int]] = {"red": 0, "green": 1, "blue": 2, "yellow": 0}  # yellow is red and green alike


@dataclass(frozen=True)
class Indexed:
    """What indexing a data folder gave.

    Parameters
    ----------
    images
        The image table (`hpa.images`).
    notices
        What the user should know, one sentence each: files that were passed over, images without files.
    """

    images: pd.DataFrame
    notices: tuple[str, ...]


def index(data: Path, layout: str, vocabulary: Vocabulary, channels: Sequence[Channel]) -> Indexed:
    """Find the images of a data folder.

    Parameters
    ----------
    data
        The folder.
    layout
        A name of `LAYOUTS`, or ``"auto"``: Kaggle 2018 where there is a ``train.csv`` or ``sample_submission.csv``.
    vocabulary, channels
        Of the run.

    Raises
    ------
    UserError
        If the folder is missing, holds no image, or its tables are wrong.
    """
    if not data.is_dir():
        raise UserError(f"expected a data folder, found no folder {data}")
    if layout == "auto":
        layout = "kaggle2018" if kaggle2018.matches(data) else "folder"
    found = LAYOUTS[layout](data.resolve(), vocabulary)
    if found.rows.empty:
        raise UserError(f"expected images {{Id}}_{{color}}.png in {data} (layout {layout}), found none")
    table = found.rows.assign(source=data.resolve().name)
    sizes = pd.DataFrame([_header(paths, channels) for paths in found.paths], dtype="int32")
    table = pd.concat([table, sizes], axis=1)
    missing = int(sum(1 for paths in found.paths if not all(channel in paths for channel in channels)))
    for channel in channels:
        paths = [found.path_or_guess(i, channel) for i in range(len(table))]
        table[f"path_{channel}"] = [str(path) for path in paths]
        table[f"plane_{channel}"] = pd.Series([_plane(path, channel) for path in paths], dtype="int16")
        table[f"bytes_{channel}"] = pd.Series(
            [path.stat().st_size if path.is_file() else 0 for path in paths], dtype="int64"
        )
    notices = list(found.notices)
    if missing:
        notices.append(f"{missing} images lack at least one channel file; they are kept and will be listed as failed")
    order = ["image_id", "source", "split", "target", "antibody", "height_px", "width_px"]
    rest = [column for column in table.columns if column.startswith(("path_", "plane_", "bytes_"))]
    return Indexed(table[order + rest], tuple(notices))


def _plane(path: Path, channel: Channel) -> int:
    """Return the plane of a file that holds a channel; only JPEG files may be coloured, as those of the atlas are."""
    if path.suffix.lower() not in _COLOURED or not path.is_file():
        return ONLY_PLANE
    try:
        with Image.open(path) as image:
            return _PLANES[channel] if image.mode == "RGB" else ONLY_PLANE
    except (OSError, Image.DecompressionBombError):
        return ONLY_PLANE


def _header(paths: Mapping[Channel, Path], channels: Sequence[Channel]) -> dict[str, int]:
    size = (0, 0)
    for channel in channels:
        if channel in paths:
            try:
                with Image.open(paths[channel]) as image:
                    size = (image.height, image.width)
                break
            except (OSError, Image.DecompressionBombError):
                continue
    return {"height_px": size[0], "width_px": size[1]}

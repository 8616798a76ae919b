"""Data layouts: from a folder of a user's to the image table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd
from PIL import Image

from hpa.channels import Channel
from hpa.errors import UserError
from hpa.layouts import bare_folder as folder
from hpa.layouts import hpa_v18, jovian, kaggle2018, kaggle2021
from hpa.layouts import table as any_table
from hpa.layouts.conversion import converter
from hpa.layouts.listing import DatasetListing, PlaneFile
from hpa.vocabulary import Vocabulary


class Layout(NamedTuple):
    """How a data folder is recognised and read."""

    matches: Callable[[Path], bool]
    find: Callable[[Path, Vocabulary], DatasetListing]


LAYOUTS: Final[Mapping[str, Layout]] = {
    "table": Layout(any_table.matches, any_table.find),
    "kaggle2021": Layout(kaggle2021.matches, kaggle2021.find),
    "jovian": Layout(jovian.matches, jovian.find),
    "hpa_v18": Layout(hpa_v18.matches, hpa_v18.find),
    "kaggle2018": Layout(kaggle2018.matches, kaggle2018.find),
    "folder": Layout(folder.matches, folder.find),
}
"""In the order in which ``"auto"`` tries them."""


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
        The folder, or the table of the layout ``table`` (`hpa.layouts.table`).
    layout
        A name of `LAYOUTS`, or ``"auto"``: the first one that recognises the folder.
    vocabulary, channels
        Of the run; targets in another vocabulary are converted (`hpa.layouts.conversion`).

    Raises
    ------
    UserError
        If the folder is missing, holds no image, or its tables are wrong.
    """
    if not data.is_dir() and not (data.is_file() and any_table.matches(data)):
        raise UserError(f"expected a data folder, found no folder {data}")
    if data.is_file() and layout not in ("auto", "table"):
        raise UserError(f"expected a folder for the layout {layout}, found the file {data}")
    if layout == "auto":
        layout = next(name for name, one in LAYOUTS.items() if one.matches(data))
    found = LAYOUTS[layout].find(data.resolve(), vocabulary)
    if found.rows.empty:
        raise UserError(f"expected images {{Id}}_{{color}}.png in {data} (layout {layout}), found none")
    images = _with_labels(found, vocabulary).assign(source=data.resolve().name)
    files = [{channel: found.file_or_guess(i, channel) for channel in channels} for i in range(len(images))]
    sizes = {path: _size(path) for row in files for path in {file.path for file in row.values()}}
    images = pd.concat([images, pd.DataFrame([_header(row, sizes) for row in files], dtype="int32")], axis=1)
    for channel in channels:
        images[f"path_{channel}"] = [str(row[channel].path) for row in files]
        images[f"plane_{channel}"] = pd.Series([row[channel].plane for row in files], dtype="int16")
        images[f"bytes_{channel}"] = pd.Series([sizes[row[channel].path] for row in files], dtype="int64")
    missing = int((images[[f"bytes_{channel}" for channel in channels]] == 0).any(axis=1).sum())
    notices = list(found.notices)
    if missing:
        notices.append(f"{missing} images lack at least one channel file; they are kept and will be listed as failed")
    order = ["image_id", "source", "split", "target", "unknown_classes", "antibody", "well", "height_px", "width_px"]
    return Indexed(images[order + [column for column in images.columns if column not in order]], tuple(notices))


def _with_labels(found: DatasetListing, vocabulary: Vocabulary) -> pd.DataFrame:
    """Convert targets to the run's vocabulary; a train image without a target has no known class."""
    convert = converter(found.vocabulary, vocabulary)
    nothing = tuple(range(len(vocabulary)))
    splits, targets = found.rows["split"], found.rows["target"]
    labels = [convert(target) if target else ((), nothing) for target in targets]
    return found.rows.assign(
        target=pd.Series([target for target, _ in labels], dtype=object),
        unknown_classes=pd.Series(
            [
                unknown_classes if split == "train" else ()
                for (_, unknown_classes), split in zip(labels, splits, strict=True)
            ],
            dtype=object,
        ),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # a name too long, a folder that may not be entered
        return 0


def _header(files: Mapping[Channel, PlaneFile], sizes: Mapping[Path, int]) -> dict[str, int]:
    for file in files.values():
        if sizes[file.path]:
            try:
                with Image.open(file.path) as image:
                    return {"height_px": image.height, "width_px": image.width}
            except (
                OSError,
                SyntaxError,
                ValueError,
                Image.DecompressionBombError,
            ):  # whatever a damaged file brings up
                continue
    return {"height_px": 0, "width_px": 0}

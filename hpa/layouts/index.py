"""Turn a data folder of any supported layout into an image table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from hpa.channels import Channel
from hpa.errors import UserError
from hpa.images import check_ids
from hpa.layouts.conversion import converter
from hpa.layouts.hpa_v18 import is_hpa_v18, list_hpa_v18
from hpa.layouts.jovian import is_jovian, list_jovian
from hpa.layouts.kaggle import is_kaggle2018, is_kaggle2021, list_kaggle2018, list_kaggle2021
from hpa.layouts.listing import DatasetListing, PlaneFile, Row, is_text, list_files, part_folders, rows_to_table
from hpa.layouts.table import is_table, list_table
from hpa.ome_zarr import has_zarr, is_store, size_bytes
from hpa.pixels import BIT_DEPTHS, read_header
from hpa.vocabulary import HPA19, HPA28, JOVIAN10, Vocabulary


def list_bare_folder(data: Path, vocabulary: Vocabulary) -> DatasetListing:
    """List ``{Id}_{color}`` files of a folder without tables: all test images, sorted by Id; other files are ignored.

    Raises
    ------
    UserError
        If an Id cannot be a file name.
    """
    listing = list_files(part_folders(data), recursive=False)
    ids = sorted(listing.files)
    check_ids(ids, str(data))
    rows = rows_to_table(Row(image_id, "test") for image_id in ids)
    files = [listing.files[image_id] for image_id in ids]
    return DatasetListing(rows, files, [data] * len(ids), vocabulary, listing.notices(data))


class Layout(NamedTuple):
    """How a data folder is recognised and listed, and the vocabulary of its labels if that is fixed."""

    is_layout: Callable[[Path], bool]
    list_images: Callable[[Path, Vocabulary], DatasetListing]
    vocabulary: Vocabulary | None = None


LAYOUTS: Final[Mapping[str, Layout]] = {
    "table": Layout(is_table, list_table),
    "kaggle2021": Layout(is_kaggle2021, list_kaggle2021, HPA19),
    "jovian": Layout(is_jovian, list_jovian, JOVIAN10),
    "hpa_v18": Layout(is_hpa_v18, list_hpa_v18, HPA28),
    "kaggle2018": Layout(is_kaggle2018, list_kaggle2018, HPA28),
    "folder": Layout(Path.is_dir, list_bare_folder),
}
"""In the order in which ``"auto"`` tries them."""


def find_layout(data: Path, layout: str) -> str:
    """Return the name of the layout of a data folder.

    Parameters
    ----------
    data
        The folder, or the table of the layout ``table`` (`hpa.layouts.table`).
    layout
        A name in `LAYOUTS`, or ``"auto"`` for the first one that recognises the folder.

    Raises
    ------
    UserError
        If the folder is missing, or a file is given for another layout than ``table``.
    """
    if not data.is_dir() and not (data.is_file() and is_table(data)):
        raise UserError(f"expected a data folder, found no folder {data}")
    if not is_text(str(data.resolve())):
        raise UserError(f"expected a data folder with a name in UTF-8, found {str(data.resolve())!r}")
    if data.is_file() and layout not in ("auto", "table"):
        raise UserError(f"expected a folder for the layout {layout}, found the file {data}")
    if layout != "auto":
        return layout
    return next(name for name, candidate in LAYOUTS.items() if candidate.is_layout(data))


@dataclass(frozen=True)
class IndexedDataset:
    """The image table of one data folder.

    Parameters
    ----------
    images
        The image table (`hpa.images`).
    notices
        Messages for the user, one sentence each: ignored files, images without files.
    """

    images: pd.DataFrame
    notices: tuple[str, ...]


def index_dataset(data: Path, layout: str, vocabulary: Vocabulary, channels: Sequence[Channel]) -> IndexedDataset:
    """Build the image table of a data folder.

    Parameters
    ----------
    data, layout
        As for `find_layout`.
    vocabulary, channels
        Vocabulary and channels of the run; targets in another vocabulary are converted (`hpa.layouts.conversion`).

    Raises
    ------
    UserError
        If the folder is missing or contains no image, or its tables are wrong.
    """
    layout = find_layout(data, layout)
    return index_listing(LAYOUTS[layout].list_images(data.resolve(), vocabulary), data, layout, vocabulary, channels)


def index_listing(
    listing: DatasetListing, data: Path, layout: str, vocabulary: Vocabulary, channels: Sequence[Channel]
) -> IndexedDataset:
    """Build the image table of what a layout has listed; the parameters are those of `index_dataset`.

    Raises
    ------
    UserError
        If there is no image.
    """
    if listing.rows.empty:
        raise UserError(f"expected images {{Id}}_{{color}}{listing.suffix} in {data} (layout {layout}), found none")
    images = _convert_labels(listing, vocabulary).assign(source=data.resolve().name)
    files = [{channel: listing.file_or_guess(i, channel) for channel in channels} for i in range(len(images))]
    sizes = {path: _file_size(path) for row in files for path in {file.path for file in row.values()}}
    images = pd.concat([images, pd.DataFrame([_image_size(row, sizes) for row in files], dtype="int32")], axis=1)
    images["bit_depth"] = pd.Series(BIT_DEPTHS[-1], index=images.index, dtype="int16")
    for channel in channels:
        images[f"path_{channel}"] = [str(row[channel].path) for row in files]
        images[f"plane_{channel}"] = pd.Series([row[channel].plane for row in files], dtype="int16")
        images[f"bytes_{channel}"] = pd.Series([sizes[row[channel].path] for row in files], dtype="int64")
    missing = int((images[[f"bytes_{channel}" for channel in channels]] == 0).any(axis=1).sum())
    notices = list(listing.notices)
    if missing:
        notices.append(f"{missing} images lack at least one channel file; they are kept and will be listed as failed")
    first = ["image_id", "source", "split", "target", "unknown_classes", "antibody", "well"]
    return IndexedDataset(images[first + [column for column in images.columns if column not in first]], tuple(notices))


def _convert_labels(listing: DatasetListing, vocabulary: Vocabulary) -> pd.DataFrame:
    """Convert targets to the run's vocabulary; a train image without a target has no known class."""
    convert = converter(listing.vocabulary, vocabulary)
    all_classes = tuple(range(len(vocabulary)))
    splits, targets = listing.rows["split"], listing.rows["target"]
    labels = [convert(target) if target else ((), all_classes) for target in targets]
    return listing.rows.assign(
        target=pd.Series([target for target, _ in labels], dtype=object),
        unknown_classes=pd.Series(
            [unknown if split == "train" else () for (_, unknown), split in zip(labels, splits, strict=True)],
            dtype=object,
        ),
    )


def _file_size(path: Path) -> int:
    try:
        if is_store(path):
            if not has_zarr():
                raise UserError(f"expected zarr (pip install 'cellwise[zarr]') to read {path.name}, found none")
            return size_bytes(path)
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # a name that is too long, a folder without permission
        return 0


def _image_size(files: Mapping[Channel, PlaneFile], sizes: Mapping[Path, int]) -> dict[str, int]:
    for file in files.values():
        if sizes[file.path] and (header := read_header(file.path)):
            return {"height_px": header.height_px, "width_px": header.width_px}
    return {"height_px": 0, "width_px": 0}

"""What a layout finds in a data folder, and the search for ``{Id}_{color}`` files that the layouts share."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from hpa.channels import CHANNELS, Channel
from hpa.ome_zarr import is_store
from hpa.pixels import ONLY_PLANE
from hpa.vocabulary import Vocabulary

JPEG: Final = (".jpg", ".jpeg")
SUFFIXES: Final = (".png", ".tif", ".tiff", *JPEG)
"""In order of preference if a plane exists in several formats."""

PART: Final = "part-"
"""Prefix of the folders into which `hpa.layouts.split_folder` splits a large one."""

STAIN_PLANE: Final[Mapping[Channel, int]] = {"red": 0, "green": 1, "blue": 2, "yellow": 0}
"""The RGB sample that holds a stain's intensity in a picture drawn in the stain's colour; yellow is red plus green."""


class PlaneFile(NamedTuple):
    """Location of one channel: a file and the plane in it (`hpa.pixels.read_plane`)."""

    path: Path
    plane: int


class Row(NamedTuple):
    """One image as listed by a layout; the target is in the layout's vocabulary and empty where unknown."""

    image_id: str
    split: str
    target: tuple[int, ...] = ()
    antibody: str | None = None
    well: str | None = None


@dataclass(frozen=True)
class DatasetListing:
    """The images of a data folder.

    Parameters
    ----------
    rows
        One row per image: the fields of `Row`.
    files
        For each row, the location of every channel that was found.
    folders
        For each row, the folder that was searched; used to name a missing file.
    vocabulary
        Vocabulary of the targets.
    notices
        Messages for the user, one sentence each.
    suffix
        Suffix of the files that the layout usually has; used to name a missing file.
    """

    rows: pd.DataFrame
    files: Sequence[Mapping[Channel, PlaneFile]]
    folders: Sequence[Path]
    vocabulary: Vocabulary
    notices: Sequence[str]
    suffix: str = SUFFIXES[0]

    def file_or_guess(self, row: int, channel: Channel) -> PlaneFile:
        """Return the location of a channel, or where it was expected if it is missing."""
        found = self.files[row].get(channel)
        if found:
            return found
        return _single_channel(self.folders[row] / f"{self.rows['image_id'].iloc[row]}_{channel}{self.suffix}", channel)


def rows_to_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Return the table for `DatasetListing.rows`."""
    listed = list(rows)
    dtypes = {"image_id": str, "split": str}
    return pd.DataFrame(
        {
            name: pd.Series([row[i] for row in listed], dtype=dtypes.get(name, object))
            for i, name in enumerate(Row._fields)
        }
    )


@dataclass(frozen=True)
class FileListing:
    """The channel files in or below some folders.

    Parameters
    ----------
    files
        For every Id, the file of each of its channels.
    n_ignored
        Number of other files.
    example
        Name of an ignored file that is an image, or empty.
    """

    files: Mapping[str, Mapping[Channel, PlaneFile]]
    n_ignored: int
    example: str

    def notices(self, where: Path) -> list[str]:
        """Return a message about the ignored files, or nothing if there are none."""
        if not self.n_ignored:
            return []
        example = f", for example {self.example}" if self.example else ""
        return [f"{self.n_ignored} files in {where} are not named {{Id}}_{{color}} and are ignored{example}"]


def list_files(folders: Sequence[Path], *, recursive: bool) -> FileListing:
    """Find all files ``{Id}_{color}.png``, TIFF or JPEG; colour and suffix may be in upper or lower case.

    Parameters
    ----------
    folders
        Folders to search; if a file exists in several, the earliest folder wins.
    recursive
        Whether to search sub-folders too; links to folders are not followed.
    """
    found: dict[str, dict[Channel, PlaneFile]] = {}
    colors: Mapping[str, Channel] = {channel: channel for channel in CHANNELS}
    n_ignored, example = 0, ""
    for folder in folders:
        for path in sorted(files_below(folder, recursive=recursive), key=lambda path: (_preference(path), path)):
            image_id, _, color = path.stem.rpartition("_")
            channel = colors.get(color.lower())
            if _preference(path) < len(SUFFIXES) and channel and image_id:
                found.setdefault(image_id, {}).setdefault(channel, _single_channel(path, channel))
            else:
                n_ignored += 1
                example = example or (path.name if _preference(path) < len(SUFFIXES) else "")
    return FileListing(found, n_ignored, example)


def part_folders(folder: Path) -> list[Path]:
    """Return a folder followed by the parts that `hpa.layouts.split_folder` made of it, sorted."""
    return [folder, *sorted(path for path in folder.glob(f"{PART}*") if path.is_dir() and is_text(path.name))]


def is_text(name: str) -> bool:
    """Return whether the name of a file is in UTF-8; Linux allows any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def files_below(folder: Path, *, recursive: bool, stores: bool = False) -> Iterator[Path]:
    """Yield the regular files of a folder, including links to such, and optionally those of its sub-folders.

    Files and folders whose names are not in UTF-8 are left out.

    Parameters
    ----------
    folder
        The folder.
    recursive
        Whether to search sub-folders too; links to folders are not followed.
    stores
        Whether folders that are OME-Zarr images count as files.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_text(entry.name):
                continue
            # Unlike that of an entry, `is_file` of a path is false for a link that leads to itself.
            if entry.is_file(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_file()):
                yield Path(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                if stores and is_store(Path(entry.path)):
                    yield Path(entry.path)
                elif recursive:
                    yield from files_below(Path(entry.path), recursive=True, stores=stores)


def _single_channel(path: Path, channel: Channel) -> PlaneFile:
    """Return the plane to read from a channel's own file: its only plane, or in a JPEG that of the stain's colour."""
    return PlaneFile(path, STAIN_PLANE[channel] if path.suffix.lower() in JPEG else ONLY_PLANE)


def _preference(path: Path) -> int:
    suffix = path.suffix.lower()
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else len(SUFFIXES)

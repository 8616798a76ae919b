"""What a layout finds in a data folder, and the walk over `{Id}_{color}` files that layouts share."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from hpa.channels import CHANNELS, Channel
from hpa.pixels import ONLY_PLANE
from hpa.vocabulary import Vocabulary

JPEG: Final = (".jpg", ".jpeg")
SUFFIXES: Final = (".png", ".tif", ".tiff", *JPEG)
"""In the order of preference, should one plane be there twice."""

PART: Final = "part-"
"""How the names of folders begin into which `hpa.layouts.split_folder` splits a large one."""

STAIN_PLANE: Final[Mapping[Channel, int]] = {"red": 0, "green": 1, "blue": 2, "yellow": 0}
"""Where the intensity of a stain lies in a picture that is drawn in the stain's colour; yellow is red and green."""


class PlaneFile(NamedTuple):
    """Where a channel lies: a file and the plane in it (`hpa.pixels.read_plane`)."""

    path: Path
    plane: int


class Row(NamedTuple):
    """An image as a layout tells it; the target in the layout's vocabulary, empty where unknown."""

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
        One row an image: the fields of `Row`.
    files
        Of each row, where its channels lie, as far as they were found.
    folders
        Of each row, where its files were looked for, to name a missing file by.
    vocabulary
        Of the targets.
    notices
        What the user should know, one sentence each.
    """

    rows: pd.DataFrame
    files: Sequence[Mapping[Channel, PlaneFile]]
    folders: Sequence[Path]
    vocabulary: Vocabulary
    notices: Sequence[str]

    def file_or_guess(self, row: int, channel: Channel) -> PlaneFile:
        """Return where a channel lies, or where it was expected."""
        found = self.files[row].get(channel)
        if found:
            return found
        return PlaneFile(self.folders[row] / f"{self.rows['image_id'].iloc[row]}_{channel}{SUFFIXES[0]}", ONLY_PLANE)


def table_of(rows: Iterable[Row]) -> pd.DataFrame:
    """Make the table of `DatasetListing.rows`."""
    listed = list(rows)
    kinds = {"image_id": str, "split": str}
    return pd.DataFrame(
        {
            name: pd.Series([row[i] for row in listed], dtype=kinds.get(name, object))
            for i, name in enumerate(Row._fields)
        }
    )


def plane_of(path: Path, channel: Channel) -> PlaneFile:
    """Return a channel's own plane of its own file: the only one, in a JPEG that of the stain's colour."""
    return PlaneFile(path, STAIN_PLANE[channel] if path.suffix.lower() in JPEG else ONLY_PLANE)


@dataclass(frozen=True)
class FileListing:
    """The channel files below some folders.

    Parameters
    ----------
    files
        For every Id the file of each of its channels.
    others
        How many other files there were.
    example
        One of them that is an image, or empty.
    """

    files: Mapping[str, Mapping[Channel, PlaneFile]]
    others: int
    example: str

    def notice(self, where: Path) -> list[str]:
        """Tell about the other files, if there were any."""
        if not self.others:
            return []
        example = f", for example {self.example}" if self.example else ""
        return [f"{self.others} files in {where} are not named {{Id}}_{{color}} and are ignored{example}"]


def channel_files(folders: Sequence[Path], *, recursive: bool) -> FileListing:
    """Find all files ``{Id}_{color}.png``, TIFF or JPEG; upper and lower case are one.

    Parameters
    ----------
    folders
        Where to look; of a file that is there twice the one in the earlier folder counts.
    recursive
        Whether to look below them too; links to folders are not followed.
    """
    found: dict[str, dict[Channel, PlaneFile]] = {}
    colors: Mapping[str, Channel] = {channel: channel for channel in CHANNELS}
    others, example = 0, ""
    for folder in folders:
        for path in sorted(files_below(folder, recursive=recursive), key=lambda path: (_rank(path), path)):
            image_id, _, color = path.stem.rpartition("_")
            channel = colors.get(color.lower())
            if _rank(path) < len(SUFFIXES) and channel and image_id:
                found.setdefault(image_id, {}).setdefault(channel, plane_of(path, channel))
            else:
                others += 1
                example = example or (path.name if _rank(path) < len(SUFFIXES) else "")
    return FileListing(found, others, example)


def parts_of(folder: Path) -> list[Path]:
    """Return a folder and the parts that `hpa.layouts.split_folder` made of it, sorted."""
    return [folder, *sorted(path for path in folder.glob(f"{PART}*") if path.is_dir())]


def files_below(folder: Path, *, recursive: bool) -> Iterator[Path]:
    """Yield the files of a folder, links to files among them, and of its sub-folders where asked."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():
                yield Path(entry.path)
            elif recursive and entry.is_dir(follow_symlinks=False):
                yield from files_below(Path(entry.path), recursive=True)


def _rank(path: Path) -> int:
    suffix = path.suffix.lower()
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else len(SUFFIXES)

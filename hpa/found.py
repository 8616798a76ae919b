"""What a layout finds in a data folder, and the walk over `{Id}_{color}` files that layouts share."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from hpa.channels import CHANNELS, Channel

_SUFFIXES: Final = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
"""In the order of preference, should one plane be there twice."""

ChannelPaths = Mapping[Channel, Path]


@dataclass(frozen=True)
class Found:
    """The images of a data folder.

    Parameters
    ----------
    rows
        One row an image: image_id, split, target, antibody.
    paths
        Of each row, the files that were found.
    folders
        Of each row, where its files were looked for, to name a missing file by.
    notices
        What the user should know, one sentence each.
    """

    rows: pd.DataFrame
    paths: Sequence[ChannelPaths]
    folders: Sequence[Path]
    notices: Sequence[str]

    def path_or_guess(self, row: int, channel: Channel) -> Path:
        """Return the file of a channel, or where it was expected."""
        expected = self.folders[row] / f"{self.rows['image_id'].iloc[row]}_{channel}{_SUFFIXES[0]}"
        return self.paths[row].get(channel, expected)


def table_of(rows: Iterable[tuple[str, str, tuple[int, ...], str | None]]) -> pd.DataFrame:
    """Make the table of `Found.rows` from tuples of image_id, split, target and antibody."""
    listed = list(rows)
    return pd.DataFrame(
        {
            "image_id": pd.Series([row[0] for row in listed], dtype=str),
            "split": pd.Series([row[1] for row in listed], dtype=str),
            "target": pd.Series([row[2] for row in listed], dtype=object),
            "antibody": pd.Series([row[3] for row in listed], dtype=object),
        }
    )


def channel_files(folders: Sequence[Path], *, recursive: bool) -> tuple[dict[str, dict[Channel, Path]], int]:
    """Find all files ``{Id}_{color}.png`` (or TIFF, JPEG).

    Parameters
    ----------
    folders
        Where to look; of a file that is there twice the one in the earlier folder counts.
    recursive
        Whether to look below them too.

    Returns
    -------
    dict
        For every Id the file of each of its channels.
    int
        How many other files there were.
    """
    found: dict[str, dict[Channel, Path]] = {}
    others = 0
    for folder in folders:
        for path in sorted(_files(folder, recursive), key=lambda path: (_rank(path), path)):
            image_id, _, color = path.stem.rpartition("_")
            if _rank(path) == len(_SUFFIXES) or color not in CHANNELS or not image_id:
                others += 1
            else:
                found.setdefault(image_id, {}).setdefault(color, path)
    return found, others


def _rank(path: Path) -> int:
    suffix = path.suffix.lower()
    return _SUFFIXES.index(suffix) if suffix in _SUFFIXES else len(_SUFFIXES)


def _files(folder: Path, recursive: bool) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file():
                yield Path(entry.path)
            elif recursive and entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path), recursive)

"""Split a large folder of images into parts, for places that limit the number of files per folder or upload."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from hpa.channels import CHANNELS
from hpa.errors import UserError
from hpa.layouts.listing import PART, SUFFIXES, files_below
from hpa.layouts.table import is_table

METHODS: Final[Mapping[str, Callable[[Path, Path], object]]] = {
    "link": lambda source, target: os.link(source.resolve(), target),  # of a symbolic link, the file itself
    "symlink": lambda source, target: target.symlink_to(source),
    "copy": shutil.copyfile,
}
"""How a file can be put into the new folder."""


def split_folder(data: Path, out: Path, files: int, by: str) -> None:
    """Split every folder with more than `files` image files into folders ``part-00000``, ``part-00001``, ...

    The files of one image stay together; tables and all other files keep their places. The layouts find the same
    images in the new folder as in the old one.

    Parameters
    ----------
    data
        The folder, with its sub-folders.
    out
        The folder to make; it appears when it is complete.
    files
        Maximum number of files per part.
    by
        A name in `METHODS`.

    Raises
    ------
    UserError
        If there is nothing to split, `out` already exists or is inside `data`, or files cannot be linked.
    """
    if by not in METHODS:
        raise UserError(f"expected --by {', '.join(METHODS)}, found {by!r}")
    if not data.is_dir():
        raise UserError(f"expected a folder of images, found no folder {data}")
    if out.exists() or out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"expected a new folder outside {data}, found {out}")
    if is_table(data):
        raise UserError(f"expected images that are found by their names, found a table of their paths in {data}")
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    data = data.resolve()
    count = 0
    for source, place in _assign_places(data, files):
        target = unfinished / place
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            METHODS[by](source, target)
        except OSError as error:
            shutil.rmtree(unfinished)
            raise UserError(
                f"expected to put files into {out} by {by}, found: {error.strerror}; --by copy works everywhere"
            ) from None
        count += 1
    if not count:
        raise UserError(f"expected files in {data}, found none")
    unfinished.rename(out)
    print(f"split-folder: {count} files in {out}")


def _assign_places(folder: Path, files: int, below: Path = Path()) -> Iterator[tuple[Path, Path]]:
    """Yield every file and its destination, relative to the new folder."""
    images: dict[str, list[Path]] = {}
    for path in sorted(files_below(folder, recursive=False)):
        if path.suffix.lower() in SUFFIXES:
            images.setdefault(_image_of(path), []).append(path)
        else:
            yield path, below / path.name
    is_large = sum(map(len, images.values())) > files
    part, held = 0, 0
    for paths in images.values():
        if held and held + len(paths) > files:
            part, held = part + 1, 0
        held += len(paths)
        inner = below / f"{PART}{part:05d}" if is_large else below
        yield from ((path, inner / path.name) for path in paths)
    # The layouts follow a link to a folder only directly in the data folder.
    for child in sorted(
        path for path in folder.iterdir() if path.is_dir() and (not below.parts or not path.is_symlink())
    ):
        yield from _assign_places(child, files, below / child.name)


def _image_of(path: Path) -> str:
    image_id, _, color = path.stem.rpartition("_")
    return image_id if image_id and color.lower() in CHANNELS else path.stem

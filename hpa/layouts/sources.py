"""Join several data folders into one data set with one row per image, even if several sources have the image."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd

from hpa.config import DataSection
from hpa.errors import UserError
from hpa.layouts.conversion import ConvertedLabels, join_labels
from hpa.layouts.index import IndexedDataset, find_layout, index_dataset, index_listing
from hpa.layouts.pattern import list_by_pattern
from hpa.layouts.table import NAMES
from hpa.vocabulary import Vocabulary

SEPARATOR: Final = "+"
"""Separator between source names if an image is in several sources."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,199}")

CONFLICT_COLUMNS: Final = ("image_id", "sources", "targets", "joined", "reason")


class Source(NamedTuple):
    """A data folder and the name that its rows get."""

    name: str
    path: Path


@dataclass(frozen=True)
class JoinedDataset:
    """The image table of all sources.

    Parameters
    ----------
    images
        The image table (`hpa.images`).
    conflicts
        One row per image on which sources contradict each other: `CONFLICT_COLUMNS`.
    notices
        Messages for the user, one sentence each.
    """

    images: pd.DataFrame
    conflicts: pd.DataFrame
    notices: tuple[str, ...]


def parse_sources(texts: Sequence[str | Path]) -> list[Source]:
    """Parse ``PATH`` or ``NAME=PATH``; without a name the source is named after its folder.

    Raises
    ------
    UserError
        If there is none, or two have the same name.
    """
    sources = [_parse(str(text)) for text in texts]
    if not sources:
        raise UserError("expected at least one data folder, found none")
    for i, source in enumerate(sources):
        if source.name in [earlier.name for earlier in sources[:i]]:
            raise UserError(
                f"expected data folders of different names, found {source.name!r} twice; name one with --data NAME=PATH"
            )
    return sources


def _parse(text: str) -> Source:
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return Source(_name_of(Path(os.path.realpath(text))), Path(text))  # `resolve` raises for a link to itself
    if not _NAME.fullmatch(name):
        raise UserError(f"expected a source name of letters, digits and '_.- ' in --data NAME=PATH, found {name!r}")
    return Source(name, Path(path))


def _name_of(path: Path) -> str:
    """Name a source after its folder, or after its table if that does not have one of the standard names."""
    named = path.parent if path.is_file() and path.name in NAMES else path
    return (named.stem if named.is_file() else named.name).replace(SEPARATOR, "_")


def find_layouts(sources: Sequence[Source], section: DataSection) -> dict[str, str]:
    """Return the layout of every source by the source's name.

    Raises
    ------
    UserError
        If a folder is missing, or the recipe names a source that does not exist.
    """
    unknown = {*section.train_only, *section.source_layouts} - {source.name for source in sources}
    if unknown:
        names = ", ".join(source.name for source in sources)
        raise UserError(f"expected sources named in [data] among {names}, found {min(unknown)!r}")
    return {source.name: _find_layout(source, section) for source in sources}


def _find_layout(source: Source, section: DataSection) -> str:
    layout = section.source_layouts.get(source.name, section.layout)
    if layout == "pattern" or (layout == "auto" and section.pattern):
        find_layout(source.path, "folder")  # checks the folder
        return "pattern"
    return find_layout(source.path, layout)


def index_sources(sources: Sequence[Source], section: DataSection) -> JoinedDataset:
    """Build the image table of all sources and join images that are in several.

    A joined image uses the files of the source that lacks the fewest, the first one if several do. Its labels are
    joined (`hpa.layouts.conversion.join_labels`). An image that is a train image in one source and a test image in
    another is a test image.

    Raises
    ------
    UserError
        If a source is unusable, the recipe names a source that does not exist, or sources give one image different
        antibodies or wells.
    """
    layouts = find_layouts(sources, section)
    tables: list[pd.DataFrame] = []
    notices: list[str] = []
    for source in sources:
        indexed = _index(source, layouts[source.name], section)
        tables.append(indexed.images.assign(source=source.name))
        notices += indexed.notices
    images, conflicts = join_images(pd.concat(tables, ignore_index=True), section)
    several = images["source"].str.contains(SEPARATOR, regex=False).sum()
    if several:
        notices.append(f"{several} images are in several sources, one row each")
    if len(conflicts):
        notices.append(f"the sources contradict each other on {len(conflicts)} of them (conflicts.csv)")
    return JoinedDataset(images, conflicts, tuple(notices))


def _index(source: Source, layout: str, section: DataSection) -> IndexedDataset:
    if layout != "pattern":
        return index_dataset(source.path, layout, section.classes, section.channels)
    path = source.path.resolve()
    listing = list_by_pattern(path, section.pattern, section.file_channels, section.classes)
    return index_listing(listing, source.path, layout, section.classes, section.channels)


def join_images(images: pd.DataFrame, section: DataSection) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Merge all rows of an image into one.

    Parameters
    ----------
    images
        The image tables of all sources, concatenated.
    section
        Vocabulary and channels are read.

    Returns
    -------
    images
        Every image once, train rows first.
    conflicts
        `CONFLICT_COLUMNS`, one row per image on which sources contradict each other.
    """
    is_repeated = images["image_id"].duplicated(keep=False)
    conflicts: list[dict[str, str]] = []
    if is_repeated.any():
        missing = (images[[f"bytes_{channel}" for channel in section.channels]] == 0).sum(axis=1)
        records = images[is_repeated].assign(missing=missing).to_dict("records")
        of_image: dict[str, list[dict[Any, Any]]] = {}
        for record in records:
            of_image.setdefault(record["image_id"], []).append(record)
        joined = pd.DataFrame([_merge_rows(rows, section.classes, conflicts) for rows in of_image.values()])
        joined = joined[images.columns].astype(images.dtypes.to_dict())
        # Each joined row takes the position of its first source.
        joined.index = images.index[is_repeated & ~images["image_id"].duplicated()]
        images = pd.concat([images[~is_repeated], joined]).sort_index()
    images = images.sort_values("split", key=lambda split: split == "test", kind="stable", ignore_index=True)
    return images, pd.DataFrame(conflicts, columns=list(CONFLICT_COLUMNS))


def check_channels(images: pd.DataFrame, sources: Sequence[Source], section: DataSection) -> None:
    """Check that every source has the channels of the run in at least one image.

    Parameters
    ----------
    images
        The image table of all sources.
    sources
        The data folders.
    section
        Channels are read.

    Raises
    ------
    UserError
        If a source lacks a channel entirely: its files are named differently, or it does not have that stain.
    """
    for source in sources:
        rows = images[[source.name in name.split(SEPARATOR) for name in images["source"]]]
        for channel in section.channels:
            if not rows[f"bytes_{channel}"].any():
                raise UserError(
                    f"expected images with the channels {', '.join(section.channels)} in {source.path}, found none "
                    f"with {channel}; name the available channels with --set 'data.channels=[...]'"
                )


def _merge_rows(
    rows: Sequence[Mapping[Any, Any]], vocabulary: Vocabulary, conflicts: list[dict[str, str]]
) -> dict[Any, Any]:
    """Merge the rows of one image; `missing` in each row is the number of channel files that it lacks."""
    row = dict(min(rows, key=lambda row: row["missing"]))
    row["source"] = SEPARATOR.join(row["source"] for row in rows)
    for key in ("antibody", "well"):
        known = dict.fromkeys(row[key] for row in rows if isinstance(row[key], str))
        if len(known) > 1:  # images that share it share a fold: taking either of two could leak
            found = " and ".join(map(repr, known))
            raise UserError(
                f"expected one {key} for the image {row['image_id']!r} in all sources, found {found} in {row['source']}"
            )
        row[key] = next(iter(known), None)
    reason = ""
    if len({row["split"] for row in rows}) > 1:
        row |= {"split": "test", "target": (), "unknown_classes": ()}
        reason = "train in one, test in another: taken as test"
    else:
        labels = ConvertedLabels(rows[0]["target"], rows[0]["unknown_classes"])
        for other in rows[1:]:
            labels, differ = join_labels(labels, ConvertedLabels(other["target"], other["unknown_classes"]), vocabulary)
            reason = "different labels: joined" if differ else reason
        row["target"], row["unknown_classes"] = labels
    if reason:
        targets = " / ".join(vocabulary.format(row["target"]) for row in rows)
        values = (row["image_id"], row["source"], targets, vocabulary.format(row["target"]), reason)
        conflicts.append(dict(zip(CONFLICT_COLUMNS, values, strict=True)))
    return row

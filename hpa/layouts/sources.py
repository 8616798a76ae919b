"""Several data folders as one data set: every row keeps its source, an image that two sources have is one row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pandas as pd

from hpa.config import DataSection
from hpa.errors import UserError
from hpa.images import check_id
from hpa.layouts.conversion import Labels, join
from hpa.layouts.find import index
from hpa.layouts.table import NAMES
from hpa.vocabulary import Vocabulary

SEPARATOR: Final = "+"
"""Between the names of the sources of an image that several have."""

CONFLICT_COLUMNS: Final = ("image_id", "sources", "targets", "joined", "reason")


class Source(NamedTuple):
    """A data folder and what its rows are called after."""

    name: str
    path: Path


@dataclass(frozen=True)
class Joined:
    """The image table of all sources.

    Parameters
    ----------
    images
        The image table (`hpa.images`).
    conflicts
        Images about which sources contradict each other: `CONFLICT_COLUMNS`.
    notices
        What the user should know, one sentence each.
    """

    images: pd.DataFrame
    conflicts: pd.DataFrame
    notices: tuple[str, ...]


def parse_sources(texts: Sequence[str | Path]) -> list[Source]:
    """Read ``PATH`` or ``NAME=PATH``; without a name the source is called as its folder.

    Raises
    ------
    UserError
        If there is none, or two have one name.
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
        return Source(_name_of(Path(text).resolve()), Path(text))
    if SEPARATOR in name:
        raise UserError(f"expected a name of a source without {SEPARATOR!r}, found {name!r}")
    return Source(check_id(name), Path(path))


def _name_of(path: Path) -> str:
    """Name a source after its folder, or a table of planes, of which every folder may have one called as all are."""
    if not path.is_file():
        return path.name
    return path.parent.name if path.name in NAMES else path.stem


def index_sources(sources: Sequence[Source], section: DataSection) -> Joined:
    """Find the images of all sources and join those that several have.

    The files of a joined image are those of the first source that has all of them. Its labels are joined
    (`hpa.layouts.conversion.join`). An image that one source has for training and another one for testing is a test
    image.

    Raises
    ------
    UserError
        If a source is unusable, or the recipe names a source that is not there.
    """
    named = {*section.train_only, *section.source_layouts}
    unknown = named - {source.name for source in sources}
    if unknown:
        names = ", ".join(source.name for source in sources)
        raise UserError(f"expected sources named in [data] among {names}, found {min(unknown)!r}")
    tables: list[pd.DataFrame] = []
    notices: list[str] = []
    for source in sources:
        layout = section.source_layouts.get(source.name, section.layout)
        found = index(source.path, layout, section.classes, section.channels)
        tables.append(found.images.assign(source=source.name))
        notices += found.notices
    images, conflicts = join_images(pd.concat(tables, ignore_index=True), section)
    several = images["source"].str.contains(SEPARATOR, regex=False).sum()
    if several:
        notices.append(f"{several} images are in several sources, one row each")
    if len(conflicts):
        notices.append(f"of {len(conflicts)} of them the sources contradict each other (conflicts.csv)")
    return Joined(images, conflicts, tuple(notices))


def join_images(images: pd.DataFrame, section: DataSection) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make one row of all rows of an image.

    Parameters
    ----------
    images
        The image tables of all sources, one after the other.
    section
        Its vocabulary and channels.

    Returns
    -------
    images
        Every image once, train rows first.
    conflicts
        `CONFLICT_COLUMNS`, one row an image about which sources contradict each other.
    """
    twice = images["image_id"].duplicated(keep=False)
    conflicts: list[dict[str, str]] = []
    if twice.any():
        missing = (images[[f"bytes_{channel}" for channel in section.channels]] == 0).sum(axis=1)
        records = images[twice].assign(missing=missing).to_dict("records")
        of_image: dict[str, list[dict[Any, Any]]] = {}
        for record in records:
            of_image.setdefault(record["image_id"], []).append(record)
        joined = pd.DataFrame([_joined(rows, section.classes, conflicts) for rows in of_image.values()])
        joined = joined[images.columns].astype(images.dtypes.to_dict())
        # Each where its first row stood.
        joined.index = images.index[twice & ~images["image_id"].duplicated()]
        images = pd.concat([images[~twice], joined]).sort_index()
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
        Its channels.

    Raises
    ------
    UserError
        If it has not: then its files are called otherwise, or the run asks for stains that it lacks.
    """
    for source in sources:
        rows = images[[source.name in name.split(SEPARATOR) for name in images["source"]]]
        for channel in section.channels:
            if not rows[f"bytes_{channel}"].any():
                raise UserError(
                    f"expected images with the channels {', '.join(section.channels)} in {source.path}, found none "
                    f"with {channel}; name the channels that are there with --set 'data.channels=[...]'"
                )


def _joined(
    rows: Sequence[Mapping[Any, Any]], vocabulary: Vocabulary, conflicts: list[dict[str, str]]
) -> dict[Any, Any]:
    """Make one row of an image's rows, of which `missing` says how many channel files each lacks."""
    row = dict(min(rows, key=lambda row: row["missing"]))
    row["source"] = SEPARATOR.join(row["source"] for row in rows)
    for key in ("antibody", "well"):
        row[key] = next((row[key] for row in rows if isinstance(row[key], str)), None)
    reason = ""
    if len({row["split"] for row in rows}) > 1:
        row |= {"split": "test", "target": (), "unknown_classes": ()}
        reason = "train in one, test in another: taken as test"
    else:
        labels = Labels(rows[0]["target"], rows[0]["unknown_classes"])
        for other in rows[1:]:
            labels, differ = join(labels, Labels(other["target"], other["unknown_classes"]), vocabulary)
            reason = "different labels: joined" if differ else reason
        row["target"], row["unknown_classes"] = labels
    if reason:
        targets = " / ".join(vocabulary.format(row["target"]) for row in rows)
        values = (row["image_id"], row["source"], targets, vocabulary.format(row["target"]), reason)
        conflicts.append(dict(zip(CONFLICT_COLUMNS, values, strict=True)))
    return row

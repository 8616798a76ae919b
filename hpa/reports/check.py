"""Check a data folder before anything is made of it: how many images, of which sizes, and which files are missing."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hpa.channels import CHANNELS, Channel
from hpa.layouts.index import LAYOUTS, find_layout, index_dataset
from hpa.vocabulary import HPA28

PUBLISHED: Final[Mapping[str, Mapping[str, int]]] = {
    "kaggle2018": {"train": 31_072, "test": 11_702},
    "kaggle2021": {"train": 21_806},
    "hpa_v18": {"train": 74_606},
}
"""Number of images that each layout's publisher names in its tables."""


@dataclass(frozen=True)
class DataCheck:
    """What a data folder holds.

    Parameters
    ----------
    layout
        Name of its layout.
    splits
        Number of images named by its tables, or found in its folders, by split.
    complete
        Number of images that have the files of all channels that any image has.
    missing
        Ids of images without a file of a channel that others have, by channel.
    absent
        Channels that no image has.
    sizes
        Number of images by height and width in px, from the header of one file of each.
    n_bytes
        Size of all files.
    notices
        What else `init` would say.
    """

    layout: str
    splits: dict[str, int]
    complete: int
    missing: dict[Channel, list[str]]
    absent: list[Channel]
    sizes: Counter[tuple[int, int]]
    n_bytes: int
    notices: tuple[str, ...]

    @property
    def unlike_published(self) -> list[str]:
        """A sentence for each split whose number of images differs from the published one."""
        return [
            f"expected {n:,} {split} images as published, found {self.splits.get(split, 0):,}"
            for split, n in PUBLISHED.get(self.layout, {}).items()
            if self.splits.get(split, 0) != n
        ]

    def lines(self) -> list[str]:
        """Return the report, line by line."""
        counts = " and ".join(f"{n:,} {split}" for split, n in self.splits.items())
        found = [
            f"layout {self.layout}: {counts} images, {self.complete:,} of them complete, {self.n_bytes / 1e9:.2f} GB"
        ]
        if self.absent:
            found.append(f"no image has {', '.join(self.absent)}")
        found += [f"{n:,} images of {width} x {height} px" for (height, width), n in self.sizes.most_common(5)]
        if len(self.sizes) > 5:
            found.append(
                f"{sum(n for _, n in self.sizes.most_common()[5:]):,} images of {len(self.sizes) - 5} other sizes"
            )
        for channel, ids in self.missing.items():
            found.append(f"{len(ids):,} images have no file of {channel} or an empty one, the first is {ids[0]}")
        return [*found, *self.unlike_published, *self.notices]


def check_data(data: Path, layout: str = "auto") -> DataCheck:
    """Look at every file of a data folder, without decoding any.

    Parameters
    ----------
    data, layout
        As for `hpa.layouts.index.find_layout`.

    Raises
    ------
    UserError
        If the folder is missing or contains no image, or its tables are wrong.
    """
    name = find_layout(data, layout)
    indexed = index_dataset(data, name, LAYOUTS[name].vocabulary or HPA28, CHANNELS)
    images = indexed.images
    has = {channel: images[f"bytes_{channel}"] > 0 for channel in CHANNELS}
    present: list[Channel] = [channel for channel in CHANNELS if has[channel].any()]
    missing = {channel: list(images.loc[~has[channel], "image_id"]) for channel in present if not has[channel].all()}
    complete = images[[f"bytes_{channel}" for channel in present]].gt(0).all(axis=1)
    readable = images[images["height_px"] > 0]
    # One file may hold several channels.
    files = {
        path: int(size)
        for channel in present
        for path, size in zip(images[f"path_{channel}"], images[f"bytes_{channel}"], strict=True)
    }
    return DataCheck(
        layout=name,
        splits={str(split): int(n) for split, n in images["split"].value_counts(sort=False).items()},
        complete=int(complete.sum()) if present else 0,
        missing=missing,
        absent=[channel for channel in CHANNELS if channel not in present],
        sizes=Counter(zip(readable["height_px"].tolist(), readable["width_px"].tolist(), strict=True)),
        n_bytes=sum(files.values()),
        notices=tuple(notice for notice in indexed.notices if "lack at least one" not in notice),
    )

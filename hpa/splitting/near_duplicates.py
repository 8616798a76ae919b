"""Find images that look alike by their hashes, and read published lists of such images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.config import DataSection
from hpa.errors import UserError
from hpa.splitting.groups import join_groups, largest_group
from hpa.splitting.hashes import bit_distances, similar_pairs
from hpa.splitting.scan import hashes_of, scan_images
from hpa.vocabulary import HPA28, parse_target
from hpa.work.files import csv_header, read_csv

_PAIR_COLUMNS: Final = ("Train", "Extra")
_LABEL_COLUMNS: Final = ("Id", "Target")


@dataclass(frozen=True)
class SimilarImages:
    """Pairs of images that look alike.

    Parameters
    ----------
    images
        Number of images, N.
    pairs
        Positions in the image table, shape (P, 2), the smaller first.
    bits
        Number of differing bits of the hashes of each channel, shape (P, C).
    unusable
        Number of images that match nothing because a plane is flat or unreadable.
    """

    images: int
    pairs: NDArray[np.int64]
    bits: NDArray[np.uint8]
    unusable: int

    @classmethod
    def none(cls, images: int) -> "SimilarImages":
        """Return an instance without pairs, for images that were not compared."""
        return cls(images, np.empty((0, 2), np.int64), np.empty((0, 0), np.uint8), 0)

    def __str__(self) -> str:
        alike = join_groups(self.images, [], self.pairs)
        return (
            f"{len(self.pairs)} pairs of {self.images} images look alike, {self.images - len(np.unique(alike))} images "
            f"are redundant, {largest_group(alike)} images in the largest set; {self.unusable} have a flat or "
            f"unreadable plane"
        )


def find_similar(folder: Path, images: pd.DataFrame, section: DataSection, *, workers: int = 0) -> SimilarImages:
    """Find the images that look alike, scanning them first if that has not been done yet.

    Parameters
    ----------
    folder
        Folder ``scan`` of the work folder.
    images
        The image table.
    section
        The keys channels and duplicate_bits are read.
    workers
        Number of processes; 0 uses one per processor.

    Raises
    ------
    UserError
        If the run has none of the channels used for comparison.
    """
    scanned = scan_images(folder, images, section.channels, workers=workers)
    hashes, usable = hashes_of(scanned), scanned["usable"].to_numpy(bool)
    if not hashes.shape[1]:
        raise UserError("expected a red, green or blue channel to compare images by, found none in [data] channels")
    pairs = similar_pairs(hashes, usable, section.duplicate_bits)
    return SimilarImages(len(images), pairs, bit_distances(hashes, pairs), int((~usable).sum()))


def read_pairs(path: Path) -> pd.DataFrame:
    """Read a published list of pairs that look alike.

    The columns are Train and Extra (an Id, or the path of an image, of which only the file name without suffix is used)
    and any others, such as SimR, SimG and SimB, the number of bits in which hashes differ; the CSV may be compressed.

    Returns
    -------
    DataFrame
        Train and Extra as Ids, other columns as text.

    Raises
    ------
    UserError
        If it is not such a table.
    """
    table = read_csv(path, _PAIR_COLUMNS)
    return table.assign(**{name: [_id_of(text) for text in table[name]] for name in _PAIR_COLUMNS})


def is_label_list(path: Path) -> bool:
    """Return whether a published list contains labels of images (Id,Target) instead of pairs."""
    return set(_LABEL_COLUMNS) <= set(csv_header(path))


def read_label_list(path: Path) -> set[str]:
    """Read the Ids of a published list of images whose labels are public.

    Raises
    ------
    UserError
        If a label is unknown.
    """
    table = read_csv(path, _LABEL_COLUMNS)
    for image_id, text in zip(table["Id"], table["Target"], strict=True):
        parse_target(image_id, text, HPA28)
    return set(table["Id"])


def _id_of(text: object) -> str:
    name = str(text).replace("\\", "/").rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and suffix.lower() in ("png", "jpg", "jpeg", "tif", "tiff") else name


def pairs_within(listed: pd.DataFrame, image_ids: pd.Series) -> NDArray[np.int64]:
    """Return the positions of the listed pairs whose two images are both in `image_ids`, shape (P, 2)."""
    index = pd.Index(image_ids)
    places = np.column_stack([index.get_indexer(listed[name]) for name in _PAIR_COLUMNS])
    return np.sort(places[(places >= 0).all(axis=1)], axis=1).astype(np.int64)

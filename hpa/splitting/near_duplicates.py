"""Find images that look alike by their hashes, and read published lists of such images."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
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
from hpa.work.files import read_csv

_PAIR_COLUMNS: Final = ("Train", "Extra")
_LABEL_COLUMNS: Final = ("Id", "Target")


@dataclass(frozen=True)
class SimilarImages:
    """Images that look alike.

    Images with the same hashes are compared once, through the first of them, so that many copies of one image take no
    more memory than the images themselves.

    Parameters
    ----------
    first
        Position of the first image with the same hashes in every channel, its own if there is none before it, shape
        (N,).
    pairs
        Pairs of such first images that look alike, shape (P, 2), the smaller position first.
    bits
        Number of differing bits of the hashes of each channel, shape (P, C).
    unusable
        Number of images that match nothing because a plane is flat or unreadable.
    """

    first: NDArray[np.int64]
    pairs: NDArray[np.int32]
    bits: NDArray[np.uint8]
    unusable: int

    @classmethod
    def none(cls, images: int) -> "SimilarImages":
        """Return an instance without pairs, for images that were not compared."""
        return cls(np.arange(images), np.empty((0, 2), np.int32), np.empty((0, 0), np.uint8), 0)

    @classmethod
    def of_hashes(cls, hashes: NDArray[np.uint64], usable: NDArray[np.bool_], max_bits: int) -> "SimilarImages":
        """Compare the images by their hashes.

        Parameters
        ----------
        hashes
            Shape (N, C), one column per channel.
        usable
            Shape (N,); images with a flat or unreadable plane match nothing.
        max_bits
            Maximum number of differing bits per channel.

        Examples
        --------
        >>> import numpy as np
        >>> from hpa.splitting.near_duplicates import SimilarImages
        >>> hashes = np.array([[0b1100], [0b1100], [0b1101], [0b0011]], dtype=np.uint64)
        >>> similar = SimilarImages.of_hashes(hashes, np.ones(4, dtype=bool), max_bits=1)
        >>> similar.first, similar.pairs
        (array([0, 0, 2, 3]), array([[0, 2]], dtype=int32))
        >>> similar.n_pairs
        3
        """
        places = np.flatnonzero(usable)
        _, at, inverse = np.unique(hashes[places], axis=0, return_index=True, return_inverse=True)
        first = np.arange(len(hashes))
        first[places] = places[at[inverse.ravel()]]  # of shape (N, 1) in NumPy 2.0
        pairs = similar_pairs(hashes, usable & (first == np.arange(len(hashes))), max_bits)
        return cls(first, pairs, bit_distances(hashes, pairs), int((~usable).sum()))

    @property
    def edges(self) -> NDArray[np.int64]:
        """Pairs that connect all images that look alike, even indirectly, shape (E, 2): at most P + N."""
        copies = np.flatnonzero(self.first != np.arange(len(self.first)))
        return np.concatenate([self.pairs, np.column_stack([self.first[copies], copies])])

    @property
    def n_pairs(self) -> int:
        """Number of pairs of images that look alike, copies included."""
        copies = np.bincount(self.first, minlength=len(self.first)).astype(np.int64)
        between = copies[self.pairs[:, 0]] * copies[self.pairs[:, 1]]
        return int((copies * (copies - 1) // 2).sum() + between.sum())

    def closest_pairs(self) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """Yield every pair of images, copies included, with the bits that differ per channel; the closest first."""
        order = np.argsort(self.first, kind="stable")
        starts = np.flatnonzero(np.diff(self.first[order], prepend=-1))
        members = {int(self.first[same[0]]): same.tolist() for same in np.split(order, starts[1:]) if len(same)}
        same_bits = np.zeros(self.bits.shape[1], np.uint8)
        for copies in members.values():
            yield from ((a, b, same_bits) for a, b in combinations(copies, 2))
        for at in np.argsort(self.bits.sum(axis=1), kind="stable"):
            a, b = self.pairs[at].tolist()
            pairs = (sorted(pair) for pair in product(members[a], members[b]))
            yield from ((one, other, self.bits[at]) for one, other in pairs)

    def like(self, some: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which images look like at least one of `some`, those of `some` included, shape (N,)."""
        near = np.zeros(len(self.first), dtype=bool)
        near[self.first[some]] = True
        a, b = self.pairs.T
        near_a, near_b = a[near[b]], b[near[a]]
        near[near_a] = near[near_b] = True
        return near[self.first]

    def __str__(self) -> str:
        n = len(self.first)
        alike = join_groups(n, [], self.edges)
        return (
            f"{self.n_pairs} pairs of {n} images look alike, {n - len(np.unique(alike))} images "
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
    return SimilarImages.of_hashes(hashes, usable, section.duplicate_bits)


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
    return set(_LABEL_COLUMNS) <= set(read_csv(path).columns)


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

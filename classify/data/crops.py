"""The crops of a store, the labels that they inherit from their images, and the part of them that each fold uses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crops.config import OutsideCell
from crops.store import apply_outside_cell
from hpa.channels import Mixture, parse_mixture
from hpa.errors import UserError
from hpa.vocabulary import Vocabulary

NO_FOLD: Final = -2
"""Fold of crops whose image is in no fold: test images, and train images whose target is unknown."""

_STRETCH: Final = (1, 99)  # percentiles, as in the normalisation of the segmentation


class CropSource(Protocol):
    """The part of a store of crops (`crops.store`) that the classifier reads."""

    def __len__(self) -> int: ...

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return copies of the crops at `rows`, shape (N, C, S, S)."""

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pixels belong to the crop's own cell, shape (N, S, S)."""


@dataclass(frozen=True)
class CropArrays:
    """A source of crops in memory.

    Parameters
    ----------
    crops
        Shape (n, C, S, S), uint8.
    own
        Shape (n, S, S), bool: the pixels of each crop's own cell.
    """

    crops: NDArray[np.uint8]
    own: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.crops)

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return copies of the crops at `rows`, shape (N, C, S, S)."""
        return self.crops[rows]

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the masks of the own cells at `rows`, shape (N, S, S)."""
        return self.own[rows]


@dataclass(frozen=True)
class FeatureSource:
    """The features of crops in place of their pixels, for heads on a network that is not trained.

    Parameters
    ----------
    features
        Shape (n, F), float32.
    """

    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.features)

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return copies of the features at `rows`, shape (N, F)."""
        copied: NDArray[Any] = self.features[rows]
        return copied

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return no masks: the features know what crops show outside their own cell."""
        raise NotImplementedError


@dataclass(frozen=True)
class ChannelSource:
    """Some channels of a store of crops, or mixtures of several channels.

    Parameters
    ----------
    source
        The store.
    mixtures
        The channels of the network input.
    available
        The store's channels, in their order.
    """

    source: CropSource
    mixtures: tuple[Mixture, ...]
    available: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.source)

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return copies of the crops at `rows`, shape (N, len(mixtures), S, S)."""
        stored = self.source.pixels(rows)
        selected = np.empty((len(stored), len(self.mixtures), *stored.shape[2:]), dtype=np.uint8)
        for c, mixture in enumerate(self.mixtures):
            planes = stored[:, [self.available.index(channel) for channel in mixture.channels]]
            n = planes.shape[1]
            if n > 1 and mixture.rule == "maximum":
                selected[:, c] = _stretch(planes).max(axis=1)
            else:
                selected[:, c] = (planes.sum(axis=1, dtype=np.uint16) + n // 2) // n
        return selected

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pixels belong to the crop's own cell, shape (N, S, S)."""
        return self.source.masks(rows)


def select_channels(source: Any, chosen: Sequence[str], available: Sequence[str]) -> CropSource:
    """Select the channels of a store that the network sees.

    Parameters
    ----------
    source
        A `CropSource`.
    chosen
        `ClassifySection.channels`: channel names or mixtures (`hpa.channels.parse_mixture`); empty selects all.
    available
        The store's channels, in their order.

    Returns
    -------
    CropSource
        The store itself if all channels are selected in their order.

    Raises
    ------
    UserError
        If the store lacks a channel.
    """
    names = list(chosen) or list(available)
    if names == list(available):
        store: CropSource = source
        return store
    mixtures = tuple(parse_mixture(name) for name in names)
    for channel in (channel for mixture in mixtures for channel in mixture.channels):
        if channel not in available:
            raise UserError(f"expected classify.channels among those cut ({', '.join(available)}), found {channel!r}")
    return ChannelSource(source, mixtures, tuple(available))


def _stretch(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale every plane of shape (N, C, S, S) so that its 1st percentile becomes 0 and its 99th 255."""
    low, high = np.percentile(planes, _STRETCH, axis=(2, 3), keepdims=True)
    scaled = (planes - low) / np.maximum(high - low, 1) * 255
    stretched: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return stretched


def read_crops(source: CropSource, rows: NDArray[np.int64], outside_cell: OutsideCell) -> NDArray[np.uint8]:
    """Read crops and keep, dim or blacken the pixels outside their own cell.

    Returns
    -------
    ndarray
        Shape (N, C, S, S), uint8, a copy; of a `FeatureSource`, features of shape (N, F), float32.
    """
    pixels = source.pixels(rows)
    if outside_cell == "keep" or isinstance(source, FeatureSource):
        return pixels
    return apply_outside_cell(pixels, source.masks(rows), outside_cell)


def blocks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Yield consecutive blocks of `size` rows; the last one may be shorter.

    Examples
    --------
    >>> import numpy as np
    >>> [block.tolist() for block in blocks(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


@dataclass(frozen=True)
class CropLabels:
    """The key of every crop and what it inherits from its image; N crops, K classes.

    Parameters
    ----------
    targets
        Multi-hot target of the image, shape (N, K).
    known
        Whether it is known if the image has the class, shape (N, K).
    images
        Number of the image, shape (N,).
    folds
        Fold of the image, shape (N,): -1 for images that are trained on and never scored, `NO_FOLD` for images in
        no fold.
    is_test
        Whether the image is a test image, shape (N,).
    fallback
        Whether the crop stands in for an image without a kept cell, shape (N,).
    image_ids, cell_labels
        The crop's key, shape (N,).
    sources
        Source of the image, shape (N,).
    antibodies
        Number of the image's antibody, -1 where unknown, shape (N,).
    completeness
        Visible area of the cell over its expected area, 0..1, shape (N,).
    """

    targets: NDArray[np.bool_]
    known: NDArray[np.bool_]
    images: NDArray[np.int64]
    folds: NDArray[np.int64]
    is_test: NDArray[np.bool_]
    fallback: NDArray[np.bool_]
    image_ids: NDArray[np.object_]
    cell_labels: NDArray[np.int64]
    sources: NDArray[np.object_]
    antibodies: NDArray[np.int64]
    completeness: NDArray[np.float32]

    @classmethod
    def unlabelled(cls, n: int, n_classes: int) -> Self:
        """Return the labels of n crops of one new image, of which nothing is known."""
        none = np.zeros((n, n_classes), dtype=bool)
        zeros, yes = np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
        names = np.full(n, "", dtype=object)
        return cls(
            targets=none,
            known=none,
            images=zeros,
            folds=np.full(n, NO_FOLD, dtype=np.int64),
            is_test=yes,
            fallback=~yes,
            image_ids=names,
            cell_labels=np.arange(1, n + 1),
            sources=names,
            antibodies=np.full(n, -1, dtype=np.int64),
            completeness=np.ones(n, dtype=np.float32),
        )

    def soft_targets(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return targets as 0 and 1, and NaN where unknown, shape (len(rows), K)."""
        return np.where(self.known[rows], self.targets[rows].astype(np.float32), np.float32(np.nan))

    def as_unseen(self) -> "CropLabels":
        """Return the same crops as new to the models of another work folder: all test crops, in no fold."""
        return replace(self, folds=np.full_like(self.folds, NO_FOLD), is_test=np.ones_like(self.is_test))

    def fold_crops(self, source: CropSource, fold: int) -> "FoldCrops":
        """Return the training and validation crops of one fold's model.

        The model is trained on the images of all other folds and on those that are never scored, without fallback
        crops, and validated on all crops of its own fold's images.
        """
        training = (self.folds != NO_FOLD) & (self.folds != fold) & ~self.fallback
        return FoldCrops(source, self, np.flatnonzero(training), np.flatnonzero(self.folds == fold))


@dataclass(frozen=True)
class FoldCrops:
    """The training and validation crops of one fold's model.

    Parameters
    ----------
    source
        The store that pixels are read from.
    labels
        Labels of all crops of `source`.
    training
        Rows of `source` that the model is trained on, sorted, shape (T,).
    validation
        Rows of `source` that it never sees in training, sorted, shape (V,).
    levels
        Offset and divisor of every crop and channel, shape (len(source), 2, C), if the recipe's normalisation depends
        on more than the crop itself (`classify.data.normalisation.crop_levels`).
    """

    source: CropSource
    labels: CropLabels
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    levels: NDArray[np.float32] | None = None


def label_crops(crops: pd.DataFrame, images: pd.DataFrame, folds: pd.DataFrame, vocabulary: Vocabulary) -> CropLabels:
    """Look up the labels of every crop's image.

    Parameters
    ----------
    crops
        The table of crops: image_id, cell_label, fallback, completeness.
    images
        The table of images: image_id, source, split, target, unknown_classes, antibody.
    folds
        The table of folds: image_id, fold.
    vocabulary
        The vocabulary of the targets.

    Raises
    ------
    RuntimeError
        If an image of `crops` is missing from `images`.
    """
    positions = pd.Index(images["image_id"]).get_indexer(pd.Index(crops["image_id"]))
    if (positions < 0).any():
        # Not the user's mistake: the store was cut from this very table of images.
        raise RuntimeError(f"crops of {crops['image_id'][positions < 0].iloc[0]!r}, an image not in the image table")
    fold_of_image = pd.Series(folds["fold"].to_numpy(), index=folds["image_id"])
    return CropLabels(
        targets=vocabulary.multi_hot(images["target"])[positions],
        known=~vocabulary.multi_hot(images["unknown_classes"])[positions],
        images=positions.astype(np.int64),
        folds=fold_of_image.reindex(crops["image_id"]).fillna(NO_FOLD).to_numpy(dtype=np.int64),
        is_test=(images["split"] == "test").to_numpy()[positions],
        fallback=crops["fallback"].to_numpy(dtype=bool),
        image_ids=crops["image_id"].to_numpy(dtype=object),
        cell_labels=crops["cell_label"].to_numpy(dtype=np.int64),
        sources=images["source"].to_numpy(dtype=object)[positions],
        antibodies=pd.factorize(images["antibody"])[0].astype(np.int64)[positions],
        completeness=crops["completeness"].to_numpy(dtype=np.float32),
    )

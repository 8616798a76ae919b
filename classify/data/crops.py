"""From a store of crops to batches: what is read, in which order, what goes along."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classify.config import ClassifySection
from classify.data.augmentation import Augmentation
from classify.trained_pooling import crop_weights
from crops.config import OutsideCell
from crops.store import apply_outside_cell


class CropSource(Protocol):
    """What is read of a store of crops (`crops.store`)."""

    def __len__(self) -> int: ...

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return copies of the crops at `rows`, shape (N, C, S, S)."""

    def masks(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pixels are the own cell's, shape (N, S, S)."""


@dataclass(frozen=True)
class FoldCrops:
    """The crops of one fold's model.

    Parameters
    ----------
    source
        Where pixels are read.
    training
        Rows of `source` it is trained on, sorted, shape (T,).
    validation
        Rows of `source` it never sees in training, sorted, shape (V,).
    targets
        Labels that every crop inherits from its image, shape (len(source), K).
    images
        Number of the image of every crop, shape (len(source),).
    image_ids, cell_labels
        The key of every crop, shape (len(source),).
    sources
        Source of every crop's image, shape (len(source),).
    antibodies
        Number of every crop's antibody, -1 where unknown, shape (len(source),).
    completeness
        Share of the cell that is seen, 0..1, shape (len(source),).
    levels
        What is subtracted and divided by, shape (len(source), 2, C), where the recipe's normalisation depends on more
        than the crop (`classify.data.normalisation.crop_levels`).
    masked
        Of which classes nothing is known, shape (len(source), K); None where all are known of every crop.
    """

    source: CropSource
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    targets: NDArray[np.bool_]
    images: NDArray[np.int64]
    image_ids: NDArray[np.object_]
    cell_labels: NDArray[np.int64]
    sources: NDArray[np.object_]
    antibodies: NDArray[np.int64]
    completeness: NDArray[np.float32]
    levels: NDArray[np.float32] | None = None
    masked: NDArray[np.bool_] | None = None

    def known(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return of which classes something is known, shape (len(rows), K)."""
        return np.ones_like(self.targets[rows]) if self.masked is None else ~self.masked[rows]

    def soft_targets(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the targets as 0 and 1, and NaN where nothing is known."""
        targets = self.targets[rows].astype(np.float32)
        return targets if self.masked is None else np.where(self.masked[rows], np.float32(np.nan), targets)


def read_crops(source: CropSource, rows: NDArray[np.int64], outside_cell: OutsideCell) -> NDArray[np.uint8]:
    """Read crops as the network sees them, what is outside their own cell kept, dimmed or black.

    Returns
    -------
    ndarray
        Shape (N, C, S, S), uint8; the caller's own.
    """
    pixels = source.pixels(rows)
    if outside_cell == "keep":
        return pixels
    return apply_outside_cell(pixels, source.masks(rows), outside_cell)


def blocks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Cut `rows` into consecutive blocks of `size`, the last one shorter."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


class Batch(NamedTuple):
    """N crops for one training step, those of one bag next to each other."""

    pixels: Tensor
    """uint8 (N, C, H, W)."""
    targets: Tensor
    """float32 (N, K), inherited from the image."""
    bags: Tensor
    """int64 (N,), number of the bag, rising from 0."""
    weights: Tensor
    """float32 (N,), how much a crop counts."""
    antibodies: Tensor
    """int64 (N,), -1 where unknown."""
    rows: Tensor
    """int64 (N,), positions in the crop table."""
    levels: Tensor | None
    """float32 (N, 2, C), see `classify.data.normalisation`."""


@dataclass(frozen=True)
class TrainingCrops(Dataset[Batch]):
    """The training crops of one epoch, varied; indexed by whole batches of rows.

    Parameters
    ----------
    crops
        What may be read.
    section
        What is shown outside the own cell, and how completeness counts.
    augmentation
        How crops are varied.
    epoch
        From 0.
    """

    crops: FoldCrops
    section: ClassifySection
    augmentation: Augmentation
    epoch: int

    def __getitem__(self, rows: NDArray[np.int64]) -> Batch:
        """Return the crops at `rows`; adjacent crops of one image are one bag."""
        pixels = self.augmentation(read_crops(self.crops.source, rows, self.section.outside_cell), rows, self.epoch)
        bags = np.cumsum(np.diff(self.crops.images[rows], prepend=self.crops.images[rows[:1]]) != 0)
        return Batch(
            torch.from_numpy(pixels),
            torch.from_numpy(self.crops.soft_targets(rows)),
            torch.from_numpy(bags),
            torch.from_numpy(crop_weights(self.crops.completeness[rows], self.section.completeness_power)),
            torch.from_numpy(self.crops.antibodies[rows]),
            torch.from_numpy(rows),
            None if self.crops.levels is None else torch.from_numpy(self.crops.levels[rows]),
        )


def epoch_loader(
    crops: TrainingCrops, batches: Sequence[NDArray[np.int64]], workers: int = 0, *, pin: bool = False
) -> DataLoader[Batch]:
    """Load the batches of one epoch, each read, varied and collated at once.

    Parameters
    ----------
    crops
        What is read.
    batches
        Rows of each batch.
    workers
        Processes that do so; 0 does it in this one. Batches are the same for any number.
    pin
        Put batches into memory that a GPU reads directly.
    """
    # Without a batch size a loader hands every item of its sampler, here a batch of rows, to the data set as it is.
    return DataLoader(crops, sampler=batches, batch_size=None, num_workers=workers, pin_memory=pin)

"""From a store of crops to batches: what is read, in which order, how it is normalised."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classify.augment import Augmentation
from classify.draws import Purpose, draw_seed
from crops.config import Neighbours
from crops.store import with_neighbours

_BLOCK: Final = 256


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
    masked
        Of which classes nothing is known, shape (len(source), K); None where all are known of every crop.
    """

    source: CropSource
    training: NDArray[np.int64]
    validation: NDArray[np.int64]
    targets: NDArray[np.bool_]
    images: NDArray[np.int64]
    masked: NDArray[np.bool_] | None = None

    def known(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return of which classes something is known, shape (len(rows), K)."""
        return np.ones_like(self.targets[rows]) if self.masked is None else ~self.masked[rows]

    def soft_targets(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the targets as 0 and 1, and NaN where nothing is known."""
        targets = self.targets[rows].astype(np.float32)
        return targets if self.masked is None else np.where(self.masked[rows], np.float32(np.nan), targets)


def read_crops(source: CropSource, rows: NDArray[np.int64], neighbours: Neighbours) -> NDArray[np.uint8]:
    """Read crops as the network sees them, what is outside their own cell kept, dimmed or black.

    Returns
    -------
    ndarray
        Shape (N, C, S, S), uint8; the caller's own.
    """
    pixels = source.pixels(rows)
    if neighbours == "keep":
        return pixels
    return with_neighbours(pixels, source.masks(rows), neighbours)


def blocks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Cut `rows` into consecutive blocks of `size`, the last one shorter."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def measure_normalisation(
    source: CropSource, rows: NDArray[np.int64], neighbours: Neighbours
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure mean and standard deviation of each channel over crops, in uint8 units.

    Sums are of integers, so the blocks in which crops are read do not matter.

    Returns
    -------
    mean, std
        Shape (C,) each; `std` is at least 1, which leaves a dark channel dark.
    """
    total: NDArray[np.uint64] | np.uint64 = np.uint64(0)
    squares: NDArray[np.uint64] | np.uint64 = np.uint64(0)
    count = 0
    for block in blocks(rows, _BLOCK):
        pixels = read_crops(source, block, neighbours)
        total = total + pixels.sum(axis=(0, 2, 3), dtype=np.uint64)
        squares = squares + np.square(pixels, dtype=np.uint32).sum(axis=(0, 2, 3), dtype=np.uint64)
        count += pixels.shape[0] * pixels.shape[2] * pixels.shape[3]
    mean = np.asarray(total, dtype=np.float64) / count
    variance = np.asarray(squares, dtype=np.float64) / count - mean**2
    return mean, np.sqrt(np.maximum(variance, 1.0))


def epoch_batches(
    rows: NDArray[np.int64], batch_size: int, seed: int, fold: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Cut `rows` into the batches of one epoch, in an order that only (seed, fold, epoch) decides.

    A last batch that would be short is left out, unless it is the only one: batch norm does badly on a few crops.
    """
    order = np.random.default_rng(draw_seed(Purpose.ORDER, seed, fold, epoch)).permutation(rows)
    n_batches = max(1, len(order) // batch_size)
    return list(blocks(order[: n_batches * batch_size], batch_size))


@dataclass(frozen=True)
class TrainingCrops(Dataset[tuple[Tensor, Tensor]]):
    """The training crops of one epoch, varied; indexed by whole batches of rows.

    Parameters
    ----------
    crops
        What may be read.
    neighbours
        What is shown outside the own cell.
    augmentation
        How crops are varied.
    epoch
        From 0.
    """

    crops: FoldCrops
    neighbours: Neighbours
    augmentation: Augmentation
    epoch: int

    def __getitem__(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return pixels, uint8 (N, C, S, S), and targets, float32 (N, K), NaN if unknown, of the crops at `rows`."""
        pixels = self.augmentation(read_crops(self.crops.source, rows, self.neighbours), rows, self.epoch)
        return torch.from_numpy(pixels), torch.from_numpy(self.crops.soft_targets(rows))


def epoch_loader(crops: TrainingCrops, batches: list[NDArray[np.int64]]) -> DataLoader[tuple[Tensor, Tensor]]:
    """Load the batches of one epoch, each read, varied and collated at once, in this process."""
    # Without a batch size a loader hands every item of its sampler, here a batch of rows, to the data set as it is.
    return DataLoader(crops, sampler=batches, batch_size=None)

"""The batches of a training epoch: which crops each one contains, and how they are loaded.

The rows of every batch depend on (seed, fold, epoch) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classify.config import ClassifySection
from classify.data.augmentation import Augmentation
from classify.data.crops import FoldCrops, blocks, read_crops
from classify.data.seeds import Purpose, derive_seed
from crops.store import crop_weights
from hpa.errors import UserError


class Batch(NamedTuple):
    """N crops for one training step; the crops of a bag are adjacent."""

    pixels: Tensor
    """uint8 (N, C, H, W), or features, float32 (N, F)."""
    targets: Tensor
    """float32 (N, K), inherited from the image; NaN where unknown."""
    bags: Tensor
    """int64 (N,), number of the bag, rising from 0."""
    weights: Tensor
    """float32 (N,), weight of the crop."""
    antibodies: Tensor
    """int64 (N,), -1 where unknown."""
    rows: Tensor
    """int64 (N,), positions in the table of crops."""
    levels: Tensor | None
    """float32 (N, 2, C), see `classify.data.normalisation.crop_levels`."""


@dataclass(frozen=True)
class TrainingCrops(Dataset[Batch]):
    """The augmented training crops of one epoch; an index is the array of rows of a whole batch.

    Parameters
    ----------
    crops
        Crops that may be read.
    section
        Recipe section: what a crop shows outside its own cell, and how completeness weighs it.
    augmentation
        Augmentation of the pixels.
    epoch
        Epoch, from 0.
    """

    crops: FoldCrops
    section: ClassifySection
    augmentation: Augmentation
    epoch: int

    def __getitem__(self, rows: NDArray[np.int64]) -> Batch:
        """Return the crops at `rows`; adjacent crops of one image form a bag."""
        labels = self.crops.labels
        pixels = read_crops(self.crops.source, rows, self.section.outside_cell)
        if pixels.ndim == 4:
            pixels = self.augmentation(pixels, rows, self.epoch)
        bags = np.cumsum(np.diff(labels.images[rows], prepend=labels.images[rows[:1]]) != 0)
        return Batch(
            torch.from_numpy(pixels),
            torch.from_numpy(labels.soft_targets(rows)),
            torch.from_numpy(bags),
            torch.from_numpy(crop_weights(labels.completeness[rows], self.section.completeness_power)),
            torch.from_numpy(labels.antibodies[rows]),
            torch.from_numpy(rows),
            None if self.crops.levels is None else torch.from_numpy(self.crops.levels[rows]),
        )


def epoch_loader(
    crops: TrainingCrops, batches: Sequence[NDArray[np.int64]], workers: int = 0, *, pin: bool = False
) -> DataLoader[Batch]:
    """Return a loader of the batches of one epoch, which reads, augments and collates each batch as a whole.

    Parameters
    ----------
    crops
        Crops to read.
    batches
        Rows of each batch.
    workers
        Number of loading processes; 0 loads in this process. The batches are the same for any number.
    pin
        Whether to put batches into memory that a GPU reads directly.
    """
    # Without a batch size a loader passes every item of its sampler, here the rows of a batch, to the data set as is.
    return DataLoader(crops, sampler=batches, batch_size=None, num_workers=workers, pin_memory=pin)


def epoch_batches(
    rows: NDArray[np.int64], batch_size: int, seed: int, fold: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Shuffle `rows` by (seed, fold, epoch) and split them into batches.

    A last batch that would be short is dropped unless it is the only one: batch norm does badly on a few crops.
    """
    order = np.random.default_rng(derive_seed(Purpose.ORDER, seed, fold, epoch)).permutation(rows)
    return _full_batches(order, batch_size)


def _full_batches(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    n_batches = max(1, len(order) // size)
    return list(blocks(order[: n_batches * size], size))


def training_batches(
    crops: FoldCrops, section: ClassifySection, seed: int, fold: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Return the rows of each batch of an epoch.

    With ``objective = "cell"`` a batch has `batch_size` crops. Otherwise it has complete bags, each of up to
    `bag_size` adjacent crops of one image: as many bags as fit into `batch_size` crops, and at least two. An image
    that is drawn twice in a row forms one larger bag.
    """
    by_class = section.sampling == "classes"
    if section.objective == "cell" and not by_class:
        return epoch_batches(crops.training, section.batch_size, seed, fold, epoch)
    rng = np.random.default_rng(derive_seed(Purpose.ORDER, seed, fold, epoch))
    image_rows = _rows_by_image(crops)
    n = len(image_rows) if section.objective != "cell" else len(crops.training)
    targets = np.stack([crops.labels.targets[rows].any(axis=0) for rows in image_rows])
    images = draw_by_class(targets, n, rng) if by_class else rng.permutation(len(image_rows))
    if section.objective == "cell":
        drawn = np.array([rng.choice(image_rows[image]) for image in images])
        return _full_batches(drawn, section.batch_size)
    size = max(2, section.batch_size // section.bag_size)
    return [
        np.concatenate([_draw_bag(image_rows[image], section.bag_size, rng) for image in group])
        for group in _full_batches(images, size)
    ]


def _rows_by_image(crops: FoldCrops) -> list[NDArray[np.int64]]:
    images = crops.labels.images
    ordered = crops.training[np.argsort(images[crops.training], kind="stable")]
    return np.split(ordered, np.flatnonzero(np.diff(images[ordered])) + 1)


def _draw_bag(rows: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if len(rows) <= size:
        return rows
    chosen: NDArray[np.int64] = np.sort(rng.choice(rows, size, replace=False))
    return chosen


def draw_by_class(targets: NDArray[np.bool_], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw images such that all classes are equally frequent (class-aware sampling, Shen et al. 2016).

    Each draw picks a class uniformly among those that occur, and "no class" if that occurs, then uniformly an image
    of that class (https://arxiv.org/abs/1512.05830).

    Parameters
    ----------
    targets
        Multi-hot targets, shape (N, K).
    n
        Number of draws.
    rng
        Random generator.

    Returns
    -------
    ndarray
        Positions of images, int64, shape (n,).
    """
    members = [np.flatnonzero(column) for column in (*targets.T, ~targets.any(axis=1)) if column.any()]
    return np.array([rng.choice(members[c]) for c in rng.integers(len(members), size=n)], dtype=np.int64)


def split_batches(
    batches: Sequence[NDArray[np.int64]], images: NDArray[np.int64], parts: int, *, keep_bags: bool
) -> list[NDArray[np.int64]]:
    """Split every batch into the same number of parts of about equal size, for a device with too little memory.

    Parameters
    ----------
    batches
        Rows of each batch.
    images
        Number of the image of every row.
    parts
        Number of parts per batch.
    keep_bags
        Whether adjacent crops of one image must stay together.

    Raises
    ------
    UserError
        If a part would have fewer than 2 crops, the minimum for batch norm.
    """
    split = []
    for batch in batches:
        units = (
            np.split(batch, np.flatnonzero(np.diff(images[batch])) + 1) if keep_bags else np.split(batch, len(batch))
        )
        pieces = [np.concatenate(group) for group in _split_evenly(units, parts)]
        if min(map(len, pieces)) < 2:
            raise UserError("expected room for a training step of 2 crops on the device, found less")
        split += pieces
    return split


def _split_evenly(units: list[NDArray[np.int64]], parts: int) -> list[list[NDArray[np.int64]]]:
    if parts > len(units):
        raise UserError("expected room for a training step of one image's crops on the device, found less")
    edges = np.linspace(0, len(units), parts + 1).astype(int)
    return [units[a:b] for a, b in pairwise(edges)]

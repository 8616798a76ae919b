"""Which crops a training step sees: the batches of an epoch, drawn by (seed, fold, epoch) and nothing else."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from classify.config import ClassifySection
from classify.data.crops import FoldCrops, blocks
from classify.data.seeds import Purpose, derive_seed
from hpa.errors import UserError


def epoch_batches(
    rows: NDArray[np.int64], batch_size: int, seed: int, fold: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Cut `rows` into the batches of one epoch, in an order that only (seed, fold, epoch) decides.

    A last batch that would be short is left out, unless it is the only one: batch norm does badly on a few crops.
    """
    order = np.random.default_rng(derive_seed(Purpose.ORDER, seed, fold, epoch)).permutation(rows)
    return _whole_batches(order, batch_size)


def _whole_batches(order: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    n_batches = max(1, len(order) // size)
    return list(blocks(order[: n_batches * size], size))


def training_batches(
    crops: FoldCrops, section: ClassifySection, seed: int, fold: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Return the rows of each batch of an epoch.

    With `objective = "cell"` a batch has `batch_size` crops. Otherwise it has whole bags, each of up to `bag_size`
    crops of one image, next to each other, as many as `batch_size` crops can be, and at least two. An image that is
    drawn twice in a row is one larger bag.
    """
    classes = section.sampling == "classes"
    if section.objective == "cell" and not classes:
        return epoch_batches(crops.training, section.batch_size, seed, fold, epoch)
    rng = np.random.default_rng(derive_seed(Purpose.ORDER, seed, fold, epoch))
    of_image = _rows_of_images(crops)
    n = len(of_image) if section.objective != "cell" else len(crops.training)
    targets = crops.targets[[rows[0] for rows in of_image]]
    images = draw_by_class(targets, n, rng) if classes else rng.permutation(len(of_image))
    if section.objective == "cell":
        drawn = np.array([rng.choice(of_image[image]) for image in images])
        return _whole_batches(drawn, section.batch_size)
    size = max(2, section.batch_size // section.bag_size)
    return [
        np.concatenate([_bag(of_image[image], section.bag_size, rng) for image in group])
        for group in _whole_batches(images, size)
    ]


def _rows_of_images(crops: FoldCrops) -> list[NDArray[np.int64]]:
    ordered = crops.training[np.argsort(crops.images[crops.training], kind="stable")]
    return np.split(ordered, np.flatnonzero(np.diff(crops.images[ordered])) + 1)


def _bag(rows: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if len(rows) <= size:
        return rows
    chosen: NDArray[np.int64] = np.sort(rng.choice(rows, size, replace=False))
    return chosen


def draw_by_class(targets: NDArray[np.bool_], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw images with all classes alike (class-aware sampling, Shen et al. 2016, https://arxiv.org/abs/1512.05830).

    Each draw takes a class evenly among those that occur, and "no class" if that occurs, then an image that has it,
    evenly.

    Parameters
    ----------
    targets
        Shape (N, K).
    n
        Number of draws.
    rng
        Random generator.

    Returns
    -------
    ndarray
        Shape (n,), positions of images.
    """
    having = [np.flatnonzero(column) for column in (*targets.T, ~targets.any(axis=1)) if column.any()]
    return np.array([rng.choice(having[c]) for c in rng.integers(len(having), size=n)], dtype=np.int64)


def split_batches(
    batches: Sequence[NDArray[np.int64]], images: NDArray[np.int64], parts: int, *, whole_bags: bool
) -> list[NDArray[np.int64]]:
    """Cut every batch into parts of about equal size, as many for each, for a device with too little memory.

    Parameters
    ----------
    batches
        Rows.
    images
        Number of the image of every row.
    parts
        How many are made of each.
    whole_bags
        Whether crops of one image must stay together.

    Raises
    ------
    UserError
        If a part would have less than 2 crops, which is the least that batch norm takes.
    """
    cut = []
    for batch in batches:
        units = (
            np.split(batch, np.flatnonzero(np.diff(images[batch])) + 1) if whole_bags else np.split(batch, len(batch))
        )
        pieces = [np.concatenate(group) for group in _shared_out(units, parts)]
        if min(map(len, pieces)) < 2:
            raise UserError("expected room for a training step of 2 crops on the device, found less")
        cut += pieces
    return cut


def _shared_out(units: list[NDArray[np.int64]], parts: int) -> list[list[NDArray[np.int64]]]:
    if parts > len(units):
        raise UserError("expected room for a training step of one image's crops on the device, found less")
    edges = np.linspace(0, len(units), parts + 1).astype(int)
    return [units[a:b] for a, b in pairwise(edges)]

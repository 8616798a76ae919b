"""What is subtracted from each channel of a crop, and what it is divided by."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from classify.config import Normalise
from classify.data.crops import CropSource, FoldCrops, blocks, read_crops
from crops.config import OutsideCell

IMAGENET_MEAN: Final = (123.675, 116.28, 103.53)
IMAGENET_STD: Final = (58.395, 57.12, 57.375)
PERCENTILES: Final = (1.0, 99.5)
_MIN_RANGE: Final = 8.0  # grey values between the percentiles of a channel that is not empty
_BLOCK: Final = 256


@dataclass(frozen=True)
class Statistics:
    """Grey values of the training folds, in uint8 units; what a checkpoint keeps.

    Parameters
    ----------
    mean, std
        Per channel, length C.
    sources
        Mean and deviation per channel of each source's part, where the recipe asks for them.
    """

    mean: list[float]
    std: list[float]
    sources: dict[str, list[list[float]]] = field(default_factory=dict)


def measure_statistics(crops: FoldCrops, outside_cell: OutsideCell, normalise: Normalise) -> Statistics:
    """Measure what a recipe's normalisation needs of the training crops."""
    if normalise == "imagenet":
        channels = crops.source.pixels(crops.training[:1]).shape[1]
        return Statistics(_imagenet(IMAGENET_MEAN, channels), _imagenet(IMAGENET_STD, channels))
    mean, std = measure_mean_and_deviation(crops.source, crops.training, outside_cell)
    parts: dict[str, list[list[float]]] = {}
    if normalise == "sources":
        origins = crops.sources[crops.training]
        for origin in sorted(set(origins.tolist())):
            part = measure_mean_and_deviation(crops.source, crops.training[origins == origin], outside_cell)
            parts[origin] = [values.tolist() for values in part]
    return Statistics(mean.tolist(), std.tolist(), parts)


def _imagenet(values: tuple[float, ...], channels: int) -> list[float]:
    mean = sum(values) / len(values)
    return [values[c] if channels >= 3 > c else mean for c in range(channels)]


def measure_mean_and_deviation(
    source: CropSource, rows: NDArray[np.int64], outside_cell: OutsideCell
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
        pixels = read_crops(source, block, outside_cell)
        total = total + pixels.sum(axis=(0, 2, 3), dtype=np.uint64)
        squares = squares + np.square(pixels, dtype=np.uint32).sum(axis=(0, 2, 3), dtype=np.uint64)
        count += pixels.shape[0] * pixels.shape[2] * pixels.shape[3]
    mean = np.asarray(total, dtype=np.float64) / count
    variance = np.asarray(squares, dtype=np.float64) / count - mean**2
    return mean, np.sqrt(np.maximum(variance, 1.0))


def crop_levels(
    source: CropSource,
    rows: NDArray[np.int64],
    images: NDArray[np.int64],
    sources: NDArray[np.object_],
    statistics: Statistics,
    normalise: Normalise,
) -> NDArray[np.float32] | None:
    """Return what is subtracted from and divided by for each crop, where that depends on more than the crop.

    Parameters
    ----------
    source
        The crops.
    rows
        Which of them are needed.
    images, sources
        Number and source of every crop's image, shape (len(source),).
    statistics
        Of the training folds. A source that is not among them gets those of all.
    normalise
        The recipe's.

    Returns
    -------
    ndarray or None
        Shape (len(source), 2, C), filled at `rows`; None where the network needs none.
    """
    if normalise == "sources":
        return _of_sources(len(source), rows, sources, statistics)
    if normalise == "percentiles":
        levels = np.ones((len(source), 2, len(statistics.mean)), dtype=np.float32)
        for group in _groups(rows, images):
            levels[group] = _of_image(source, group)
        return levels
    return None


def _of_sources(
    n: int, rows: NDArray[np.int64], sources: NDArray[np.object_], statistics: Statistics
) -> NDArray[np.float32]:
    levels = np.ones((n, 2, len(statistics.mean)), dtype=np.float32)
    known: Mapping[str, list[list[float]]] = statistics.sources
    for origin in set(sources[rows].tolist()):
        own = rows[sources[rows] == origin]
        levels[own] = np.asarray(known.get(origin, [statistics.mean, statistics.std]), dtype=np.float32)
    return levels


def _groups(rows: NDArray[np.int64], images: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each image."""
    if len(rows):
        ordered = rows[np.argsort(images[rows], kind="stable")]
        yield from np.split(ordered, np.flatnonzero(np.diff(images[ordered])) + 1)


def _of_image(source: CropSource, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Take two percentiles of each channel over an image's crops, by their histogram."""
    counts: NDArray[np.int64] | None = None
    for block in blocks(rows, _BLOCK):
        pixels = source.pixels(block)
        part = np.stack([np.bincount(pixels[:, c].ravel(), minlength=256) for c in range(pixels.shape[1])])
        counts = part if counts is None else counts + part
    assert counts is not None, "an image without crops is in no group"
    below = counts.cumsum(axis=1) / counts.sum(axis=1, keepdims=True) * 100
    low, high = ((below < share).sum(axis=1).astype(np.float64) for share in PERCENTILES)
    return np.stack([low, np.maximum(high - low, _MIN_RANGE)])

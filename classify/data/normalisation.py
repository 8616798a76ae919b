"""Normalisation of crops: the offset that is subtracted from each channel and the divisor."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from classify.config import Normalise
from classify.data.crops import CropLabels, CropSource, FoldCrops, blocks, read_crops
from crops.config import OutsideCell

IMAGENET_MEAN: Final = (123.675, 116.28, 103.53)
IMAGENET_STD: Final = (58.395, 57.12, 57.375)
PERCENTILES: Final = (1.0, 99.5)
MEASURED: Final[tuple[Normalise, ...]] = ("crop", "folds", "sources")
"""Normalisations that need the mean or the deviation of the training crops."""

_MIN_RANGE: Final = 8.0  # grey values between the percentiles; a channel with less is taken as empty
_BLOCK: Final = 256


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the training crops, in uint8 units; stored in the checkpoint.

    They are 0 and 1 for normalisations that need neither, so that frozen networks of all folds are the same.

    Parameters
    ----------
    mean, std
        One value per channel, length C.
    sources
        Mean and standard deviation per channel over the crops of each source, for ``normalise = "sources"``.
    """

    mean: list[float]
    std: list[float]
    sources: dict[str, list[list[float]]] = field(default_factory=dict)


def measure_statistics(crops: FoldCrops, outside_cell: OutsideCell, normalise: Normalise) -> Statistics:
    """Measure the statistics of the training crops that a normalisation needs.

    Where none are needed, no crop but the first is read. With ``"imagenet"`` the first three channels get ImageNet's
    mean and deviation, any others, or all where there are fewer than three, their averages.
    """
    if normalise not in MEASURED:
        channels = crops.source.pixels(crops.training[:1]).shape[1]
        if normalise != "imagenet":
            return Statistics([0.0] * channels, [1.0] * channels)
        return Statistics(_imagenet(IMAGENET_MEAN, channels), _imagenet(IMAGENET_STD, channels))
    mean, std = measure_mean_and_deviation(crops.source, crops.training, outside_cell)
    parts: dict[str, list[list[float]]] = {}
    if normalise == "sources":
        origins = crops.labels.sources[crops.training]
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
    """Measure the mean and standard deviation of each channel over crops, in uint8 units.

    The sums are of integers, so the result does not depend on the blocks in which crops are read.

    Returns
    -------
    mean, std
        Shape (C,) each; `std` is at least 1, so that a dark channel stays dark.
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
    source: CropSource, rows: NDArray[np.int64], labels: CropLabels, statistics: Statistics, normalise: Normalise
) -> NDArray[np.float32] | None:
    """Return the offset and divisor of each crop, if they depend on more than the crop itself.

    Parameters
    ----------
    source
        The crops.
    rows
        Rows of the crops that are needed.
    labels
        Image and source of every crop.
    statistics
        Statistics of the training folds. A source that is not among them gets those of all sources together.
    normalise
        The recipe's normalisation.

    Returns
    -------
    ndarray or None
        Shape (len(source), 2, C), float32, filled at `rows`; None if the network needs no levels.
    """
    if normalise not in ("sources", "percentiles"):
        return None
    levels = np.ones((len(source), 2, len(statistics.mean)), dtype=np.float32)
    if normalise == "sources":
        overall = [statistics.mean, statistics.std]
        for origin in set(labels.sources[rows].tolist()):
            own = rows[labels.sources[rows] == origin]
            levels[own] = np.asarray(statistics.sources.get(origin, overall), dtype=np.float32)
    else:
        for group in _rows_by_image(rows, labels.images):
            levels[group] = _percentile_levels(source, group)
    return levels


def _rows_by_image(rows: NDArray[np.int64], images: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    if len(rows):
        ordered = rows[np.argsort(images[rows], kind="stable")]
        yield from np.split(ordered, np.flatnonzero(np.diff(images[ordered])) + 1)


def _percentile_levels(source: CropSource, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the low percentile and the range between the percentiles over an image's crops, shape (2, C)."""
    counts: NDArray[np.int64] | None = None
    for block in blocks(rows, _BLOCK):
        pixels = source.pixels(block)
        part = np.stack([np.bincount(pixels[:, c].ravel(), minlength=256) for c in range(pixels.shape[1])])
        counts = part if counts is None else counts + part
    assert counts is not None, "every group has at least one crop"
    below = counts.cumsum(axis=1) / counts.sum(axis=1, keepdims=True) * 100
    low, high = ((below < share).sum(axis=1).astype(np.float64) for share in PERCENTILES)
    return np.stack([low, np.maximum(high - low, _MIN_RANGE)])

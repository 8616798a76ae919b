"""The data: how often the classes occur, alone and together, and how bright the images are."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.channels import STAINS
from hpa.errors import ImageError
from hpa.pixels import read_channels
from hpa.reports.explore import class_counts, cooccurrence, image_sizes, of_source, source_names
from pipeline.report.charts import Axes, Panel
from pipeline.report.evidence import Evidence

_SAMPLED: Final = 48
"""Images whose intensities are measured."""

_BINS: Final = 48
_MAX_DARK: Final = 0.08
"""Of the range of the depth: an image whose brightest hundredth of the pixels is darker may have lost its signal."""

_MAX_SATURATED: Final = 0.01
_MAX_RATIO: Final = 2.0
"""Between the brightness of two sources."""

_MIN_IMAGES: Final = 10


@dataclass(frozen=True)
class ClassCount:
    """Images of one class."""

    name: str
    images: int
    share: float
    alone: int
    together_with: str
    width: float


@dataclass(frozen=True)
class Matrix:
    """A square table of shares that is drawn as a picture.

    Parameters
    ----------
    rows, columns
        Their names.
    cells
        For each cell that is drawn: row, column, share within 0..1, and its text.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[int, int, float, str], ...]


@dataclass(frozen=True)
class Intensities:
    """Brightness of a sample of images.

    Parameters
    ----------
    panels
        A histogram per channel.
    warnings
        Sentences.
    images
        Size of the sample.
    """

    panels: tuple[Panel, ...]
    warnings: tuple[str, ...]
    images: int


@dataclass(frozen=True)
class Data:
    """The part of the page.

    Parameters
    ----------
    counts
        Number of images of each class, the most frequent first; empty without known labels.
    per_image
        Numbers of images with 0, 1, 2, ... classes.
    together
        How often classes occur together; None without known labels.
    sizes
        Source, size and number of images.
    splits
        Source, train images and test images.
    intensities
        Brightness of the channels.
    warnings
        Sentences.
    """

    counts: tuple[ClassCount, ...]
    per_image: tuple[int, ...]
    together: Matrix | None
    sizes: tuple[tuple[str, str, int], ...]
    splits: tuple[tuple[str, int, int], ...]
    intensities: Intensities
    warnings: tuple[str, ...]


def make_data(evidence: Evidence) -> Data:
    """Count the labels of the train images and measure a sample of all images."""
    vocabulary, images, train = evidence.vocabulary, evidence.images, evidence.train
    counts: list[ClassCount] = []
    per_image: tuple[int, ...] = ()
    together, warnings = None, []
    if len(train):
        table = class_counts(train, vocabulary).sort_values("images", ascending=False, kind="stable")
        top = max(int(table["images"].max()), 1)
        counts = [
            ClassCount(row["class"], row["images"], row["share"], row["alone"], row["with"], 100 * row["images"] / top)
            for row in table.to_dict("records")
        ]
        targets = vocabulary.multi_hot(train["target"])
        per_image = tuple(np.bincount(targets.sum(axis=1)).tolist())
        together = _together(targets, [count.name for count in counts], vocabulary.classes)
        absent = [count.name for count in counts if not count.images]
        rare = [f"{count.name} ({count.images})" for count in counts if 0 < count.images < _MIN_IMAGES]
        if absent:
            warnings.append(f"No train image has {_listed(absent)}: nothing can be learned about them.")
        if rare:
            warnings.append(f"Fewer than {_MIN_IMAGES} train images have {_listed(rare)}: their scores are uncertain.")
    sizes = image_sizes(images)
    splits = []
    for source in source_names(images):
        own = images.loc[of_source(images, source), "split"]
        splits.append((source, int((own == "train").sum()), int((own == "test").sum())))
    return Data(
        tuple(counts),
        per_image,
        together,
        tuple(sizes.itertuples(index=False, name=None)),
        tuple(splits),
        _intensities(evidence),
        tuple(warnings),
    )


def _together(targets: NDArray[np.bool_], order: list[str], classes: tuple[str, ...]) -> Matrix:
    """Return the share of the images of the row's class that also have the column's, most frequent classes first."""
    numbers = [classes.index(name) for name in order]
    counts = cooccurrence(targets)[np.ix_(numbers, numbers)]
    own = np.maximum(np.diag(counts), 1)
    cells = [
        (
            int(row),
            int(column),
            float(counts[row, column] / own[row]),
            f"{counts[row, column]} of {counts[row, row]} images with {order[row]} also have {order[column]}",
        )
        for row, column in np.argwhere(counts)
        if row != column
    ]
    return Matrix(tuple(order), tuple(order), tuple(cells))


def _intensities(evidence: Evidence) -> Intensities:
    images, channels = evidence.images, evidence.work.data.channels
    places = np.unique(np.linspace(0, len(images) - 1, min(_SAMPLED, len(images))).round().astype(int))
    sums = {channel: np.zeros(_BINS) for channel in channels}
    rows = []
    for image in images.iloc[places].to_dict("records"):
        try:
            planes = read_channels(image, channels)
        except ImageError:  # listed among the failures
            continue
        depth = 255 if planes.dtype == np.uint8 else 65535
        for channel, plane in zip(channels, planes, strict=True):
            sums[channel] += np.histogram(plane, bins=_BINS, range=(0, depth))[0] / plane.size
            bright, saturated = np.percentile(plane, 99) / depth, float((plane == depth).mean())
            rows.append((channel, image["source"], plane.mean() / depth, bright, saturated))
    table = pd.DataFrame(rows, columns=["channel", "source", "mean", "bright", "saturated"])
    n = len(rows) // max(len(channels), 1)
    panels = []
    for channel in channels:
        share = np.maximum(sums[channel] / max(n, 1), 1e-6)
        axes = Axes((0, 1), (-6, 0))
        own = table[table["channel"] == channel]
        panels.append(
            axes.panel(
                channel,
                STAINS[channel],
                [axes.curve((np.arange(_BINS) + 0.5) / _BINS, np.log10(share), f"stain-{channel}")],
                x_label="intensity, share of the range",
                y_label="share of pixels, power of ten",
                text=f"{channel}: mean intensity {own['mean'].mean():.1%} of the range" if n else "no readable image",
                y_ticks=(-6, -4, -2, 0),
            )
        )
    return Intensities(tuple(panels), tuple(_warnings(table, n)), n)


def _warnings(table: pd.DataFrame, n: int) -> list[str]:
    warnings = []
    for channel in dict.fromkeys(table["channel"]):
        own, name = table[table["channel"] == channel], f"The {channel} channel, {STAINS[channel]},"
        dark, saturated = int((own["bright"] < _MAX_DARK).sum()), int((own["saturated"] > _MAX_SATURATED).sum())
        if dark:
            warnings.append(
                f"{name} is dark in {dark} of {n} images: 99% of its pixels are below {_MAX_DARK:.0%} of the range."
            )
        if saturated:
            warnings.append(
                f"{name} is saturated in {saturated} of {n} images: more than {_MAX_SATURATED:.0%} of its pixels have"
                " the highest value."
            )
        means = own.groupby("source")["mean"].mean()
        ratio = means.max() / max(float(means.min()), 1e-6)
        if ratio > _MAX_RATIO:
            warnings.append(f"{name} is {ratio:.1f} times as bright in {means.idxmax()} as in {means.idxmin()}.")
    return warnings


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"

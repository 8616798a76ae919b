"""Plots for `hpa.reports.explore`. The only module of this package that imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from hpa.channels import STAINS, Channel
from hpa.pictures import save_figure

_BAR: Final = "#4878a8"
_PALE: Final = "#ccd8e4"
_COLORS: Final = ("#222222", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#a6761d")
_MAX_SIZES: Final = 20
_COUNTS: Final = StrMethodFormatter("{x:,.0f}")


def plot_classes(out: Path, classes: pd.DataFrame) -> None:
    """Draw the number of images of every class on a logarithmic scale, and per source if there are several.

    Parameters
    ----------
    out
        The PNG to write.
    classes
        Table of `hpa.reports.explore.class_counts`.
    """
    ordered = classes.sort_values("images", kind="stable")
    figure = Figure(figsize=(8, 0.5 + 0.27 * len(classes)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(ordered))
    sources = [column for column in classes.columns if column.startswith("images of ")]
    axes.barh(places, ordered["images"], color=_BAR if len(sources) < 2 else _PALE, height=0.8, label="all images")
    if len(sources) > 1:
        height = 0.8 / len(sources)
        for i, (color, column) in enumerate(zip(_COLORS * len(sources), sources, strict=False)):
            below = places + 0.4 - height * (i + 0.5)
            axes.barh(below, ordered[column], color=color, height=0.8 * height, label=_plain(column))
        axes.legend(loc="lower right")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_COUNTS)
    max_count = max(1, int(classes["images"].max()))
    axes.set_xlim(0.7, max_count * 3)
    for place, count in zip(places, ordered["images"], strict=True):
        axes.text(max(count, 0.75) * 1.12, float(place), f"{count:,}", va="center", fontsize=8)
    axes.set_yticks(places, [_plain(name) for name in ordered["class"]], fontsize=9)
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.set_xlabel("train images, logarithmic")
    save_figure(figure, out)


def plot_labels_per_image(out: Path, n_labels: NDArray[np.integer]) -> None:
    """Draw the distribution of the number of labels per image; `n_labels` has shape (N,)."""
    counts = np.bincount(n_labels)
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(np.arange(len(counts)), counts, color=_BAR)
    axes.bar_label(bars, [f"{count:,}" for count in counts], fontsize=8)
    axes.set_xticks(np.arange(len(counts)))
    axes.set_xlabel("labels per image")
    axes.set_ylabel("train images")
    axes.margins(y=0.1)
    save_figure(figure, out)


def plot_cooccurrence(out: Path, together: NDArray[np.int64], phi: NDArray[np.float64], names: Sequence[str]) -> None:
    """Draw how often classes occur together, on a logarithmic scale, and how they correlate.

    Parameters
    ----------
    out
        The PNG to write.
    together, phi
        Number of images with both of two classes, and correlation of the classes; shape (K, K) each.
    names
        Names of the K classes.
    """
    figure = Figure(figsize=(17, 8.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = np.ma.masked_equal(together, 0)
    counts = left.imshow(shown, norm=LogNorm(1, max(2, int(together.max()))), cmap="viridis")
    label = "train images with both, logarithmic; white: none"
    figure.colorbar(counts, ax=left, shrink=0.7, label=label, format=_COUNTS)
    apart = phi - np.diag(np.diag(phi))
    limit = max(
        0.05, float(np.percentile(np.abs(apart), 98))
    )  # a single strong pair must not make all others look pale
    correlations = right.imshow(apart, cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(correlations, ax=right, shrink=0.7, extend="both", label="correlation over train images")
    for axes, title in ((left, "occur together"), (right, "correlate")):
        _name_both(axes, names)
        axes.set_title(f"Which classes {title}")
    save_figure(figure, out)


def plot_intensities(out: Path, histograms: Mapping[Channel, Mapping[str, NDArray[np.float64]]]) -> None:
    """Draw the mean histogram of every channel, one line per source.

    Parameters
    ----------
    out
        The PNG to write.
    histograms
        By channel and source, the share of pixels in each of equal bins over the range of the depth.
    """
    figure = Figure(figsize=(4 * len(histograms), 3.4), layout="constrained")
    panels = figure.subplots(1, len(histograms), sharey=True, squeeze=False)[0]
    for axes, (channel, of_source) in zip(panels, histograms.items(), strict=True):
        for color, (source, shares) in zip(_COLORS * len(of_source), of_source.items(), strict=False):
            edges = np.linspace(0, 1, len(shares) + 1)
            axes.stairs(np.maximum(shares, 1e-7), edges, label=_plain(source), color=color, linewidth=1.4)
        axes.set_yscale("log")
        axes.set_ylim(1e-6, 1.5)
        axes.set_title(f"{channel}: {STAINS[channel]}", fontsize=10)
        axes.set_xlabel("intensity, share of the range")
    panels[0].set_ylabel("share of the pixels, logarithmic")
    panels[-1].legend(fontsize=8)
    save_figure(figure, out)


def plot_sizes(out: Path, sizes: pd.DataFrame) -> None:
    """Draw the number of images of the most frequent sizes; `sizes` has the columns source, size and images."""
    shown = sizes.head(_MAX_SIZES).iloc[::-1]
    figure = Figure(figsize=(7, 0.9 + 0.3 * len(shown)), layout="constrained")
    axes = figure.subplots()
    labels = [_plain(f"{source}: {size}") for source, size in zip(shown["source"], shown["size"], strict=True)]
    bars = axes.barh(np.arange(len(shown)), shown["images"], color=_BAR)
    axes.bar_label(bars, [f" {count:,}" for count in shown["images"]], fontsize=8)
    axes.set_yticks(np.arange(len(shown)), labels, fontsize=9)
    omitted = len(sizes) - len(shown)
    axes.set_xlabel("images, height x width in px" + (f"; {omitted} rarer sizes omitted" if omitted else ""))
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    save_figure(figure, out)


def _name_both(axes: Axes, names: Sequence[str]) -> None:
    places = np.arange(len(names))
    axes.set_xticks(places, [_plain(name) for name in names], rotation=90, fontsize=8)
    axes.set_yticks(places, [_plain(name) for name in names], fontsize=8)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would read a dollar sign as the start of a formula

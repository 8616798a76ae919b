"""Draw figures of the metrics with Matplotlib, without a display."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from aggregate.labels import Labels
from aggregate.scoring.baselines import NAMES, baselines
from aggregate.scoring.comparison import Level
from hpa.pictures import save_figure

_BLUE: Final = "#1f6fb4"
_RED: Final = "#c8442b"
_GRAY: Final = "#8a8a8a"
_YELLOW: Final = "#f0c000"
_COLUMNS: Final = 7
_BINS: Final = 10
_POINTS: Final = 200
_MIN_MISSED: Final = 5
_BASELINES: Final[dict[str, Any]] = {"every_class": "--", "most_frequent": "-.", "chance": ":"}


@dataclass(frozen=True)
class FigureData:
    """What the figures show.

    Parameters
    ----------
    labels
        Of N images, scored out of fold.
    scores, predictions
        Shape (N, K), cross-fitted; unknown classes are never predicted.
    thresholds
        Shape (K,), tuned on all N images.
    metrics
        Content of ``metrics.json``.
    classes
        Names of the K classes.
    """

    labels: Labels
    scores: NDArray[np.floating[Any]]
    predictions: NDArray[np.bool_]
    thresholds: NDArray[np.float64]
    metrics: dict[str, Any]
    classes: Sequence[str]

    def of_class(self, c: int) -> tuple[NDArray[np.bool_], NDArray[np.floating[Any]]]:
        """Return targets and scores of the images for which class c is known."""
        own = self.labels.known[:, c]
        return self.labels.targets[own, c], self.scores[own, c]


def draw_figures(folder: Path, data: FigureData) -> None:
    """Write the figures of a run as PNG files: classes, precision_recall, thresholds, confusion, calibration, shares.

    ``shares.png`` is drawn only if there are test images.
    """
    figures: dict[str, Callable[[FigureData], Figure]] = {
        "classes": draw_classes,
        "precision_recall": draw_precision_recall,
        "thresholds": draw_thresholds,
        "confusion": draw_confusion,
        "calibration": draw_calibration,
    }
    if "share_test" in data.metrics["classes"][0]:
        figures["shares"] = draw_shares
    for name, draw in figures.items():
        save_figure(draw(data), folder / f"{name}.png")


def draw_classes(data: FigureData) -> Figure:
    """Draw F1 with its interval, precision and recall of every class, most frequent classes first."""
    rows = sorted(data.metrics["classes"], key=lambda row: -row["support"])
    figure = Figure(figsize=(9, 0.26 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    defined = [row for row in rows if row["support"] or row["predicted"]]
    shown = places[[bool(row["support"] or row["predicted"]) for row in rows]]
    axes.barh(places, [row["f1"] for row in rows], color=_BLUE, alpha=0.75, height=0.7, label="F1")
    for place, row in zip(places, rows, strict=True):
        if row.get("f1_interval"):
            axes.plot(row["f1_interval"], [place, place], color="black", linewidth=1.4, solid_capstyle="butt")
    for name, marker, colour, size in (("precision", "|", _RED, 11), ("recall", "x", _YELLOW, 6)):
        values = [row[name] for row in defined]
        axes.plot(
            values, shown, marker, color=colour, markersize=size, markeredgewidth=2, label=name, clip_on=False, zorder=3
        )
    axes.axvline(data.metrics["macro_f1"], color="black", linestyle=":", label="macro F1")
    axes.set_yticks(places, [f"{row['class']} ({row['support']})" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("out of fold, thresholds cross-fitted (black: 95% interval of F1)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False)
    return figure


def draw_precision_recall(data: FigureData) -> Figure:
    """Draw the precision-recall curve of every class, with the point of the actual predictions."""

    def one(axes: Axes, c: int) -> None:
        """Draw the curve and the point of class `c`."""
        positive, scores = data.of_class(c)
        order = np.argsort(-scores, kind="stable")
        hits = np.cumsum(positive[order])
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        axes.plot(hits[ends] / max(positive.sum(), 1), hits[ends] / (ends + 1), color=_BLUE, linewidth=1.2)
        row = data.metrics["classes"][c]
        axes.plot(row["recall"], row["precision"], "o", color=_RED, markersize=5)
        axes.axhline(positive.mean(), color=_GRAY, linewidth=0.8, linestyle=":")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))

    return _small_multiples(data, one, "recall", "precision (red: predictions; dotted: chance)")


def draw_thresholds(data: FigureData) -> Figure:
    """Draw F1 of every class as a function of its threshold, with the chosen threshold."""

    def one(axes: Axes, c: int) -> None:
        """Draw the curve and the threshold of class `c`."""
        positive, scores = data.of_class(c)
        # Quantiles of the scores too: the scores of rare classes lie in a narrow range.
        top = float(scores.max()) if len(scores) else 1.0
        tried = np.unique(np.append(np.quantile(scores, np.linspace(0, 1, _POINTS)), np.linspace(0, top, _POINTS)))
        predicted = len(scores) - np.searchsorted(np.sort(scores), tried, side="right")
        hits = positive.sum() - np.searchsorted(np.sort(scores[positive]), tried, side="right")
        axes.plot(tried, 2 * hits / np.maximum(predicted + positive.sum(), 1), color=_BLUE, linewidth=1.2)
        axes.axvline(data.thresholds[c], color=_RED, linewidth=1.2)
        axes.set(xlim=(0, max(top, data.thresholds[c], 1e-3) * 1.05), ylim=(0, 1.02), yticks=(0, 0.5, 1))

    return _small_multiples(data, one, "threshold", "F1 in sample (red: chosen threshold)")


def draw_confusion(data: FigureData) -> Figure:
    """Draw which classes are predicted in place of others.

    A row shows, of the images on which its class was missed, the share with each other class wrongly predicted.
    """
    missed, wrong = data.labels.targets & ~data.predictions, data.predictions & ~data.labels.targets
    together = missed.astype(np.float32).T @ wrong.astype(np.float32)
    share = np.ma.masked_equal(together / np.maximum(missed.sum(axis=0), 1)[:, None], 0)
    share[missed.sum(axis=0) < _MIN_MISSED] = np.ma.masked
    k = len(data.classes)
    figure = Figure(figsize=(0.27 * k + 3.6, 0.25 * k + 2.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        share, cmap="magma_r", vmin=0, vmax=max(float(np.ma.max(share)), 0.05) if share.count() else 1.0
    )
    axes.set_xticks(np.arange(k), data.classes, rotation=90)
    axes.set_yticks(
        np.arange(k), [f"{name} ({n} missed)" for name, n in zip(data.classes, missed.sum(axis=0), strict=True)]
    )
    if not share.count():
        axes.text(0.5, 0.5, "nothing to show", ha="center", va="center", color=_GRAY, transform=axes.transAxes)
    axes.set_xlabel(f"wrongly predicted instead (rows of classes missed fewer than {_MIN_MISSED} times are empty)")
    figure.colorbar(image, label="share of the images on which the class was missed", shrink=0.6)
    return figure


def draw_calibration(data: FigureData) -> Figure:
    """Draw the frequency of every class against its mean score, in ten bins with equal sums of scores."""

    def one(axes: Axes, c: int) -> None:
        """Draw the bins of class `c` and the diagonal."""
        positive, scores = data.of_class(c)
        order = np.argsort(scores, kind="stable")
        expected = np.cumsum(scores[order], dtype=np.float64)
        ends = np.searchsorted(expected, np.linspace(0, expected[-1], _BINS + 1)[1:-1])
        bins = [rows for rows in np.split(order, ends) if len(rows)]
        means = [scores[rows].mean() for rows in bins]
        observed = [positive[rows].mean() for rows in bins]
        top = max(*means, *observed, 1e-3) * 1.08
        axes.plot([0, top], [0, top], color=_GRAY, linewidth=0.8, linestyle=":")
        axes.plot(means, observed, "o-", color=_BLUE, markersize=3, linewidth=1)
        axes.set(xlim=(0, top), ylim=(0, top))

    return _small_multiples(data, one, "mean score", "share of images with the class")


def draw_shares(data: FigureData) -> Figure:
    """Draw the share of images on which each class is labelled, predicted out of fold and predicted on test."""
    rows = sorted(data.metrics["classes"], key=lambda row: -row["support"])
    shown = {
        "labelled": [row["support"] / max(row["labelled"], 1) for row in rows],
        "predicted out of fold": [row["share_oof"] for row in rows],
        "predicted on test": [row["share_test"] for row in rows],
    }
    above = [share for shares in shown.values() for share in shares if share > 0]
    floor = min(above, default=0.01) / 2  # classes that are never predicted are drawn at the left edge
    figure = Figure(figsize=(9, 0.26 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for place, row in zip(places, rows, strict=True):
        ends = np.maximum([row["share_oof"], row["share_test"]], floor)
        axes.plot(ends, [place, place], color=_RED if row["shares_differ"] else _GRAY, linewidth=1.5)
    for (label, shares), marker, colour in zip(shown.items(), "|os", ("black", _BLUE, _RED), strict=True):
        axes.plot(np.maximum(shares, floor), places, marker, color=colour, markersize=5, linestyle="", label=label)
    axes.set_yticks(places, [row["class"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("share of the images (left edge: none; red line: differ by more than chance explains)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    return figure


def _small_multiples(data: FigureData, one: Callable[[Axes, int], None], x: str, y: str) -> Figure:
    """Draw one small panel per class."""
    k = len(data.classes)
    columns = min(_COLUMNS, k)
    rows = -(-k // columns)
    width, height = 2.1 * columns, 1.9 * rows + 0.6
    figure = Figure(figsize=(width, height))  # fixed margins, because a layout engine takes ten seconds for 28 panels
    figure.subplots_adjust(
        left=0.7 / width, right=1 - 0.15 / width, bottom=0.6 / height, top=1 - 0.35 / height, wspace=0.3, hspace=0.42
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for c, axes in enumerate(grid):
        if c >= k:
            axes.set_visible(False)
            continue
        support = int(data.labels.targets[:, c].sum())
        axes.set_title(f"{data.classes[c]} ({support})", fontsize=7.5)
        axes.tick_params(labelsize=6)
        if not support:
            axes.set(xticks=(), yticks=())
            axes.text(0.5, 0.5, "no labelled image", ha="center", va="center", fontsize=7, color=_GRAY)
            continue
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(3))
        one(axes, c)
    figure.supxlabel(x, fontsize=10)
    figure.supylabel(y, fontsize=10)
    return figure


def draw_comparison(names: Sequence[str], levels: Sequence[Level], titles: Mapping[str, str]) -> Figure:
    """Draw the scores of several runs with the baselines, and their differences to the first run with intervals.

    Parameters
    ----------
    names
        Name of each run.
    levels
        A row of panels each.
    titles
        The metrics, a column of panels each, and how they are called.
    """
    n = len(names)
    height = len(levels) * (0.34 * n + 1.5) + 0.9
    figure = Figure(figsize=(13, height), layout="constrained")
    grid = figure.subplots(len(levels), 2 * len(titles), squeeze=False, sharey=True)
    places = np.arange(n)[::-1]
    for row, level in zip(grid, levels, strict=True):
        others = baselines(level.labels)
        for column, (metric, title) in enumerate(titles.items()):
            scores, differences = row[2 * column], row[2 * column + 1]
            found = [run[metric] for run in level.compared]
            for key, style in _BASELINES.items():
                scores.axvline(others[key][metric], color=_GRAY, linewidth=1, linestyle=style, label=NAMES[key])
            scores.plot([own.value for own in found], places, "o", color=_BLUE, markersize=5)
            for own, place in zip(found, places, strict=True):
                scores.annotate(
                    f"{own.value:.3f}", (own.value, place), (0, 6), textcoords="offset points", ha="center", fontsize=7
                )
            scores.set(xlabel=title, ylim=(-0.6, n - 0.2), yticks=places, yticklabels=names)
            highest = max(*(own.value for own in found), *(others[key][metric] for key in _BASELINES))
            scores.set_xlim(-0.05 * highest, 1.15 * highest or 1)
            differences.axvline(0, color=_GRAY, linewidth=1)
            for own, place in zip(found[1:], places[1:], strict=True):
                if own.low is not None and own.high is not None:
                    apart = own.low > 0 or own.high < 0
                    color = _BLUE if own.low > 0 else _RED if apart else _GRAY
                    differences.plot([own.low, own.high], [place, place], color=color, linewidth=2)
                differences.plot(own.difference, place, "o", color="black", markersize=4)
            differences.set(xlabel=f"difference in {title}")
            differences.xaxis.set_major_locator(MaxNLocator(4, symmetric=True))
            for axes in (scores, differences):
                axes.tick_params(labelsize=8)
                axes.spines[["top", "right"]].set_visible(False)
        row[0].set_title(f"{level.title} ({len(level.labels)})", loc="left", fontsize=10)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return figure

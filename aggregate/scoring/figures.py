"""Draw figures of the metrics with Matplotlib, without a display.

They are 183 mm wide, two columns of a journal, with letters of 5 to 8 points; nothing is said by colour alone.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from aggregate.labels import Labels
from aggregate.scoring.baselines import NAMES, baselines
from aggregate.scoring.comparison import Level
from aggregate.scoring.curves import calibration_bins, confusion, f1_by_threshold, precision_recall_curve
from hpa.pictures import FigureFormat, save_figure

_BLUE: Final = "#1f6fb4"
_RED: Final = "#c8442b"
_GRAY: Final = "#8a8a8a"
_ORANGE: Final = "#b07a00"
_WIDTH: Final = 7.2  # inches
_COLUMNS: Final = 5
_DPI: Final = 200
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
    run
        Name of the run, for the titles.
    """

    labels: Labels
    scores: NDArray[np.floating[Any]]
    predictions: NDArray[np.bool_]
    thresholds: NDArray[np.float64]
    metrics: dict[str, Any]
    classes: Sequence[str]
    run: str

    def of_class(self, c: int) -> tuple[NDArray[np.bool_], NDArray[np.floating[Any]]]:
        """Return targets and scores of the images for which class c is known."""
        own = self.labels.known[:, c]
        return self.labels.targets[own, c], self.scores[own, c]


def draw_figures(folder: Path, data: FigureData, figure_format: FigureFormat = "png") -> None:
    """Write the figures of a run: classes, precision_recall, thresholds, confusion, calibration, shares.

    ``shares`` is drawn only if there are test images.
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
        save_figure(draw(data), folder / f"{name}.{figure_format}", dpi=_DPI)


def draw_classes(data: FigureData) -> Figure:
    """Draw F1 with its interval, precision and recall of every class, most frequent classes first."""
    rows = sorted(data.metrics["classes"], key=lambda row: -row["support"])
    figure = Figure(figsize=(_WIDTH, 0.19 * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    defined = [row for row in rows if row["support"] or row["predicted"]]
    shown = places[[bool(row["support"] or row["predicted"]) for row in rows]]
    axes.barh(places, [row["f1"] for row in rows], color=_BLUE, alpha=0.6, height=0.7, label="F1")
    first = True
    for place, row in zip(places, rows, strict=True):
        if row.get("f1_interval"):
            label = "95% interval of F1" if first else None
            axes.plot(row["f1_interval"], [place, place], color="black", linewidth=1, label=label)
            first = False
    for name, marker, colour, size in (("precision", "|", _RED, 8), ("recall", "x", _ORANGE, 4)):
        values = [row[name] for row in defined]
        axes.plot(
            values,
            shown,
            marker,
            color=colour,
            markersize=size,
            markeredgewidth=1.4,
            label=name,
            clip_on=False,
            zorder=3,
        )
    axes.axvline(data.metrics["macro_f1"], color="black", linestyle=":", linewidth=1, label="macro F1")
    axes.set_yticks(places, [f"{_plain(row['class'])} ({row['support']})" for row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("score; in brackets, the number of images with the class", fontsize=7)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=7)
    _set_title(figure, data, "Scores of each class, out of fold, thresholds of the other folds")
    return figure


def draw_precision_recall(data: FigureData) -> Figure:
    """Draw the precision-recall curve of every class, with the point of the actual predictions."""

    def one(axes: Axes, c: int) -> str:
        """Draw the curve and the point of class `c`."""
        positive, scores = data.of_class(c)
        axes.axhline(positive.mean(), color=_GRAY, linewidth=0.8, linestyle=":")
        axes.plot(*precision_recall_curve(positive, scores), color=_BLUE, linewidth=1)
        row = data.metrics["classes"][c]
        if row["predicted"]:
            axes.plot(row["recall"], row["precision"], "o", color=_RED, markersize=3.5)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        return f"AP {row['average_precision']:.2f}"

    note = (
        "Line: the scores at all thresholds. Dot: the predictions; the images of a fold are decided with thresholds\n"
        "of the other folds, so the dot may lie off the line, which has one threshold for all. Dotted: chance."
    )
    return _small_multiples(data, one, "Precision and recall of each class, out of fold", "recall", "precision", note)


def draw_thresholds(data: FigureData) -> Figure:
    """Draw F1 of every class as a function of its threshold, with the chosen threshold."""

    def one(axes: Axes, c: int) -> str:
        """Draw the curve and the threshold of class `c`."""
        tried, f1 = f1_by_threshold(*data.of_class(c))
        chosen = float(data.thresholds[c])
        axes.plot(tried, f1, color=_BLUE, linewidth=1)
        axes.axvline(chosen, color=_RED, linewidth=1, linestyle="--")
        axes.set(xlim=(0, max(float(tried[-1]), chosen, 1e-3) * 1.05), ylim=(0, 1.02), yticks=(0, 0.5, 1))
        return f"at {chosen:.2f}"

    note = (
        f"Dashed: the threshold used ({data.metrics.get('thresholds', 'as tuned')}). It need not be the best in sample:"
        "\nthose of rare classes are shrunk towards predicting a class as often as it is labelled."
    )
    return _small_multiples(data, one, "F1 of each class by threshold, in sample", "threshold", "F1", note)


def draw_confusion(data: FigureData) -> Figure:
    """Draw what is predicted for the images of each class; every row sums to the images of its class.

    See `aggregate.scoring.curves.confusion`. Classes without images have no row.
    """
    counts, support = confusion(data.labels, data.predictions), data.labels.support
    rows = np.argsort(-support, kind="stable")
    rows = rows[support[rows] > 0]
    k, own = len(rows), counts[rows]
    absent = np.setdiff1d(np.arange(len(data.classes)), rows)
    table = np.column_stack([own[:, rows], own[:, absent].sum(axis=1), own[:, -1]])
    share = table / np.maximum(support[rows], 1)[:, None]
    figure = Figure(figsize=(_WIDTH, max(2.6, 0.165 * k + 2.1)), layout="constrained")
    axes = figure.subplots()
    if not k:
        axes.text(0.5, 0.5, "nothing to show", ha="center", va="center", color=_GRAY, transform=axes.transAxes)
        axes.set(xticks=(), yticks=())
        return figure
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(table >= 0.5).tolist():
        color = "white" if share[row, column] > 0.6 else "black"
        axes.text(column, row, str(int(table[row, column] + 0.5)), ha="center", va="center", fontsize=5, color=color)
    for place in range(k):
        axes.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor=_RED, linewidth=0.8))
    names = [_plain(data.classes[c]) for c in rows]
    axes.set_xticks(np.arange(k + 2), [*names, "a class without images", "nothing instead"], rotation=90, fontsize=6)
    axes.set_yticks(np.arange(k), [f"{name} ({support[c]})" for name, c in zip(names, rows, strict=True)], fontsize=6)
    axes.set_xlabel(
        "The images of a class (row): in the framed cell, if it was predicted; else in equal parts in the classes\n"
        "wrongly predicted instead, or under “nothing instead”. Numbers: images; colour: share. Rows sum to 1",
        fontsize=6.5,
    )
    bar = figure.colorbar(image, shrink=0.6, pad=0.01)
    bar.set_label("share of the row's images", fontsize=6.5)
    bar.ax.tick_params(labelsize=6)
    _set_title(figure, data, "What is predicted for the images of each class, out of fold")
    return figure


def draw_calibration(data: FigureData) -> Figure:
    """Draw the frequency of every class against its mean score, in bins that hold enough images."""

    def one(axes: Axes, c: int) -> str:
        """Draw the bins of class `c` and the diagonal."""
        bins = calibration_bins(*data.of_class(c))
        top = max(float(bins.mean.max()), float(bins.observed.max()), 1e-3) * 1.1
        axes.plot([0, top], [0, top], color=_GRAY, linewidth=0.8, linestyle=":")
        errors = np.abs(np.stack([bins.low, bins.high]) - bins.observed)
        axes.errorbar(
            bins.mean,
            bins.observed,
            errors,
            fmt="o-",
            color=_BLUE,
            ecolor=_GRAY,
            markersize=2.5,
            linewidth=1,
            elinewidth=0.8,
        )
        axes.set(xlim=(0, top), ylim=(0, top))
        return f"{len(bins.images)} bins" if len(bins.images) > 1 else "1 bin"

    note = (
        "Dots: images in bins of similar scores, each expected by them to hold five images of the class or more; bars:"
        "\n95% interval of the share. Dotted: scores that are probabilities. Rare classes have few bins."
    )
    title = "Calibration of each class, out of fold"
    return _small_multiples(data, one, title, "mean score", "share of images with the class", note)


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
    figure = Figure(figsize=(_WIDTH, 0.19 * len(rows) + 1.3), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    for place, row in zip(places, rows, strict=True):
        ends = np.maximum([row["share_oof"], row["share_test"]], floor)
        differ = row["shares_differ"]
        axes.plot(ends, [place, place], color=_RED if differ else _GRAY, linewidth=2.4 if differ else 1)
    for (label, shares), marker, colour in zip(shown.items(), "|os", ("black", _BLUE, _RED), strict=True):
        axes.plot(np.maximum(shares, floor), places, marker, color=colour, markersize=4, linestyle="", label=label)
    names = [f"{_plain(row['class'])}{' (differs)' if row['shares_differ'] else ''}" for row in rows]
    axes.set_yticks(places, names, fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(
        "share of the images (left edge: none; differs: test and out of fold, by more than chance explains)", fontsize=7
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    _set_title(figure, data, "How often each class is labelled and predicted")
    return figure


def _small_multiples(
    data: FigureData, one: Callable[[Axes, int], str], title: str, x: str, y: str, note: str
) -> Figure:
    """Draw one small panel per class with images; `one` returns what its heading says beside the name."""
    support = data.labels.support
    classes = [int(c) for c in np.argsort(-support, kind="stable") if support[c]]
    absent = [_plain(data.classes[c]) for c in range(len(data.classes)) if not support[c]]
    columns = max(1, min(_COLUMNS, len(classes)))
    rows = max(1, -(-len(classes) // columns))
    lines = note.count("\n") + 1
    if absent:
        note += "\n" + textwrap.fill(f"Without images: {', '.join(absent)}.", 118)
        lines = note.count("\n") + 1
    top, bottom = 0.62, 0.5 + 0.12 * lines
    height = 1.28 * rows + top + bottom
    figure = Figure(figsize=(_WIDTH, height))  # fixed margins: a layout engine takes ten seconds for 28 panels
    figure.subplots_adjust(
        left=0.5 / _WIDTH, right=1 - 0.1 / _WIDTH, bottom=bottom / height, top=1 - top / height, wspace=0.3, hspace=0.62
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(classes) :]:
        axes.set_visible(False)
    for axes, c in zip(grid, classes, strict=False):
        axes.tick_params(labelsize=6, length=2, pad=2)
        axes.spines[["top", "right"]].set_visible(False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(3))
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        said = one(axes, c)
        axes.set_title(f"{_shortened(data.classes[c])}\nn = {support[c]}, {said}", fontsize=6.2, loc="left", pad=2)
    figure.text(0.5, (bottom - 0.32) / height, x, fontsize=7, ha="center")
    figure.text(0.08 / _WIDTH, (bottom + height - top) / 2 / height, y, fontsize=7, rotation=90, va="center")
    figure.text(0.08 / _WIDTH, (bottom - 0.42) / height, note, fontsize=6, va="top", linespacing=1.25)
    _set_title(figure, data, title, y=1 - 0.1 / height)
    return figure


def _set_title(figure: Figure, data: FigureData, title: str, y: float | None = None) -> None:
    """Say above a figure what it shows, of which run and how many images."""
    text = f"{title}\n{_plain(data.run)}, {len(data.labels):,} images"
    place = {} if y is None else {"y": y, "va": "top"}
    figure.suptitle(text, fontsize=8, x=0.08 / _WIDTH, ha="left", linespacing=1.3, **place)


def _shortened(name: str) -> str:
    """Return a name that fits the width of a panel."""
    return _plain(name if len(name) <= 27 else f"{name[:25].rstrip()}…")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would read a dollar sign as the start of a formula


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

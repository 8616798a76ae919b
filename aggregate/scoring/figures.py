"""Pictures of the scores, drawn by Matplotlib without a display."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from hpa.pictures import save_figure

_BLUE: Final = "#1f6fb4"
_RED: Final = "#c8442b"
_GRAY: Final = "#8a8a8a"
_YELLOW: Final = "#f0c000"
_COLUMNS: Final = 7
_BINS: Final = 10
_POINTS: Final = 200
_FEW: Final = 5


@dataclass(frozen=True)
class Drawn:
    """What the figures show.

    Parameters
    ----------
    targets, labelled, scores, predictions
        Shape (N, K), of the out-of-fold rows, cross-fitted; `labelled` tells where the target is known, and only there
        anything is predicted.
    thresholds
        Shape (K,), tuned on all of them.
    metrics
        What ``metrics.json`` holds.
    classes
        Names of the K classes.
    """

    targets: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    scores: NDArray[np.floating[Any]]
    predictions: NDArray[np.bool_]
    thresholds: NDArray[np.float64]
    metrics: dict[str, Any]
    classes: Sequence[str]

    def of_class(self, c: int) -> tuple[NDArray[np.bool_], NDArray[np.floating[Any]]]:
        """Return targets and scores of the rows of which class c is known."""
        own = self.labelled[:, c]
        return self.targets[own, c], self.scores[own, c]


def draw_figures(folder: Path, drawn: Drawn) -> None:
    """Write the figures of a run as PNG: classes, precision_recall, thresholds, confusion, calibration, shares."""
    figures: dict[str, Callable[[Drawn], Figure]] = {
        "classes": draw_classes,
        "precision_recall": draw_precision_recall,
        "thresholds": draw_thresholds,
        "confusion": draw_confusion,
        "calibration": draw_calibration,
    }
    if "share_test" in drawn.metrics["classes"][0]:
        figures["shares"] = draw_shares
    for name, draw in figures.items():
        save_figure(draw(drawn), folder / f"{name}.png")


def draw_classes(drawn: Drawn) -> Figure:
    """Draw F1, precision and recall of every class with the interval of F1, most frequent classes first."""
    rows = sorted(drawn.metrics["classes"], key=lambda row: -row["support"])
    figure = Figure(figsize=(9, 0.26 * len(rows) + 1.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    seen = [row for row in rows if row["support"] or row["predicted"]]
    shown = places[[bool(row["support"] or row["predicted"]) for row in rows]]
    axes.barh(places, [row["f1"] for row in rows], color=_BLUE, alpha=0.75, height=0.7, label="F1")
    for place, row in zip(places, rows, strict=True):
        if row.get("f1_interval"):
            axes.plot(row["f1_interval"], [place, place], color="black", linewidth=1.4, solid_capstyle="butt")
    for name, marker, colour, size in (("precision", "|", _RED, 11), ("recall", "x", _YELLOW, 6)):
        values = [row[name] for row in seen]
        axes.plot(
            values, shown, marker, color=colour, markersize=size, markeredgewidth=2, label=name, clip_on=False, zorder=3
        )
    axes.axvline(drawn.metrics["macro_f1"], color="black", linestyle=":", label="macro F1")
    axes.set_yticks(places, [f"{row['class']} ({row['support']})" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("out of fold, thresholds cross-fitted; black: 95% interval of F1")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False)
    return figure


def draw_precision_recall(drawn: Drawn) -> Figure:
    """Draw precision against recall of every class, with the point that was decided on."""

    def one(axes: Axes, c: int) -> None:
        """Draw the curve of class `c` and the point on it."""
        positive, scores = drawn.of_class(c)
        order = np.argsort(-scores, kind="stable")
        hits = np.cumsum(positive[order])
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        axes.plot(hits[ends] / max(positive.sum(), 1), hits[ends] / (ends + 1), color=_BLUE, linewidth=1.2)
        row = drawn.metrics["classes"][c]
        axes.plot(row["recall"], row["precision"], "o", color=_RED, markersize=5)
        axes.axhline(positive.mean(), color=_GRAY, linewidth=0.8, linestyle=":")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))

    return _small_multiples(drawn, one, "recall", "precision; red: as decided; dotted: by chance")


def draw_thresholds(drawn: Drawn) -> Figure:
    """Draw F1 of every class against its threshold, with the threshold that was chosen."""

    def one(axes: Axes, c: int) -> None:
        """Draw F1 of class `c` over thresholds."""
        positive, scores = drawn.of_class(c)
        # At quantiles of the scores: rare classes are decided within a narrow range.
        top = float(scores.max()) if len(scores) else 1.0
        tried = np.unique(np.append(np.quantile(scores, np.linspace(0, 1, _POINTS)), np.linspace(0, top, _POINTS)))
        predicted = len(scores) - np.searchsorted(np.sort(scores), tried, side="right")
        hits = positive.sum() - np.searchsorted(np.sort(scores[positive]), tried, side="right")
        axes.plot(tried, 2 * hits / np.maximum(predicted + positive.sum(), 1), color=_BLUE, linewidth=1.2)
        axes.axvline(drawn.thresholds[c], color=_RED, linewidth=1.2)
        axes.set(xlim=(0, max(top, drawn.thresholds[c], 1e-3) * 1.05), ylim=(0, 1.02), yticks=(0, 0.5, 1))

    return _small_multiples(drawn, one, "threshold", "F1 on the rows tuned on; red: the threshold chosen")


def draw_confusion(drawn: Drawn) -> Figure:
    """Draw which classes are predicted in place of which: of the images that miss a class, the share with another."""
    missed, wrong = drawn.targets & ~drawn.predictions, drawn.predictions & ~drawn.targets
    together = missed.astype(np.float32).T @ wrong.astype(np.float32)
    share = np.ma.masked_equal(together / np.maximum(missed.sum(axis=0), 1)[:, None], 0)
    share[missed.sum(axis=0) < _FEW] = np.ma.masked
    k = len(drawn.classes)
    figure = Figure(figsize=(0.27 * k + 3.6, 0.25 * k + 2.6), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(
        share, cmap="magma_r", vmin=0, vmax=max(float(np.ma.max(share)), 0.05) if share.count() else 1.0
    )
    axes.set_xticks(np.arange(k), drawn.classes, rotation=90)
    axes.set_yticks(
        np.arange(k), [f"{name} ({n} missed)" for name, n in zip(drawn.classes, missed.sum(axis=0), strict=True)]
    )
    if not share.count():
        axes.text(0.5, 0.5, "nothing to draw", ha="center", va="center", color=_GRAY, transform=axes.transAxes)
    axes.set_xlabel(f"wrongly predicted instead (nothing is drawn of classes missed less than {_FEW} times)")
    figure.colorbar(picture, label="share of the images that miss the class", shrink=0.6)
    return figure


def draw_calibration(drawn: Drawn) -> Figure:
    """Draw how often a class is there against its score, in ten bins of equal sums of scores."""

    def one(axes: Axes, c: int) -> None:
        """Draw the bins of class `c` beside the diagonal."""
        positive, scores = drawn.of_class(c)
        order = np.argsort(scores, kind="stable")
        expected = np.cumsum(scores[order], dtype=np.float64)
        ends = np.searchsorted(expected, np.linspace(0, expected[-1], _BINS + 1)[1:-1])
        bins = [rows for rows in np.split(order, ends) if len(rows)]
        said = [scores[rows].mean() for rows in bins]
        seen = [positive[rows].mean() for rows in bins]
        top = max(*said, *seen, 1e-3) * 1.08
        axes.plot([0, top], [0, top], color=_GRAY, linewidth=0.8, linestyle=":")
        axes.plot(said, seen, "o-", color=_BLUE, markersize=3, linewidth=1)
        axes.set(xlim=(0, top), ylim=(0, top))

    return _small_multiples(drawn, one, "mean score", "share of images with the class")


def draw_shares(drawn: Drawn) -> Figure:
    """Draw how often each class is labelled, predicted out of fold and predicted on test."""
    rows = sorted(drawn.metrics["classes"], key=lambda row: -row["support"])
    shown = {
        "labelled": [row["support"] / max(row["labelled"], 1) for row in rows],
        "predicted out of fold": [row["share_oof"] for row in rows],
        "predicted on test": [row["share_test"] for row in rows],
    }
    above = [share for shares in shown.values() for share in shares if share > 0]
    floor = min(above, default=0.01) / 2  # what is never predicted stands at the edge
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
    axes.set_xlabel("share of the images, at the left edge none; red line: further apart than chance explains")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    return figure


def _small_multiples(drawn: Drawn, one: Callable[[Axes, int], None], x: str, y: str) -> Figure:
    """Draw one small picture a class."""
    k = len(drawn.classes)
    columns = min(_COLUMNS, k)
    rows = -(-k // columns)
    width, height = 2.1 * columns, 1.9 * rows + 0.6
    figure = Figure(figsize=(width, height))  # laid out by hand: 28 pictures take a layout engine ten seconds
    figure.subplots_adjust(
        left=0.7 / width, right=1 - 0.15 / width, bottom=0.6 / height, top=1 - 0.35 / height, wspace=0.3, hspace=0.42
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for c, axes in enumerate(grid):
        if c >= k:
            axes.set_visible(False)
            continue
        support = int(drawn.targets[:, c].sum())
        axes.set_title(f"{drawn.classes[c]} ({support})", fontsize=7.5)
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

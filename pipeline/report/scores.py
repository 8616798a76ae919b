"""The scores: over all classes beside baselines, per class, as curves over the thresholds, and the confusions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from aggregate.scoring.baselines import NAMES
from aggregate.scoring.curves import calibration_bins, confusion, f1_by_threshold, precision_recall_curve
from aggregate.thresholds.file import read_thresholds
from pipeline.report.charts import Axes, Panel
from pipeline.report.data import Matrix
from pipeline.report.evidence import Evidence, Missing, Scored, read_json_object

_NAMES: Final = {
    "macro_f1": ("macro F1", "mean of the F1 of all classes: every class counts the same, however rare"),
    "macro_f1_supported": ("macro F1 of classes with images", "the same over classes that some image has"),
    "micro_f1": ("micro F1", "F1 over all pairs of image and class: frequent classes dominate"),
    "samples_f1": ("F1 per image", "mean over the images"),
    "exact_match": ("exact match", "share of images whose whole set of classes is right"),
    "mean_average_precision": ("mean average precision", "how well images are ranked, before any threshold"),
    "mean_auc": ("mean AUC", "chance that an image with a class scores above one without it"),
}
_MIN_MISSED: Final = 3
_TOP_CONFUSIONS: Final = 12


@dataclass(frozen=True)
class Metric:
    """A score over all classes."""

    name: str
    meaning: str
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Bar:
    """A score beside others."""

    name: str
    value: float
    note: str
    kind: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Confused:
    """Images on which one class was missed and another one predicted."""

    missed: str
    instead: str
    images: float
    share: float


@dataclass(frozen=True)
class Scores:
    """The part of the page.

    Parameters
    ----------
    metrics
        Over all classes.
    bars
        Macro F1 beside baselines.
    classes
        Rows of ``metrics.json``, with the chance level of the average precision.
    precision_recall, thresholds, calibration
        A panel per class.
    matrix
        What was predicted for the images of each class; rows sum to one.
    confused
        The most frequent confusions.
    n_images, n_groups, resamples
        What the intervals are made of.
    warnings
        Sentences.
    truth
        Scores against the truth of a synthetic atlas.
    """

    metrics: tuple[Metric, ...]
    bars: tuple[Bar, ...]
    classes: tuple[dict[str, Any], ...]
    precision_recall: tuple[Panel, ...]
    thresholds: tuple[Panel, ...]
    calibration: tuple[Panel, ...]
    matrix: Matrix
    confused: tuple[Confused, ...]
    n_images: int
    n_groups: int
    resamples: int
    warnings: tuple[str, ...]
    truth: tuple[tuple[str, str], ...]

    def best(self, n: int = 3) -> list[dict[str, Any]]:
        """Return the classes with the highest F1."""
        return sorted((row for row in self.classes if row["support"]), key=lambda row: -row["f1"])[:n]

    def worst(self, n: int = 3) -> list[dict[str, Any]]:
        """Return the classes with images and the lowest F1, of those the most frequent."""
        rows = [row for row in self.classes if row["support"]]
        return sorted(rows, key=lambda row: (row["f1"], -row["support"]))[:n]


@dataclass(frozen=True)
class Shares:
    """Share of images that each class is predicted for on test, beside that of the training labels.

    Parameters
    ----------
    rows
        Class, share labelled in training (None where unknown), share predicted on test, and whether they differ by
        more than chance explains from what is predicted out of fold.
    top
        The largest share.
    n_test
        Number of test images.
    """

    rows: tuple[tuple[str, float | None, float, bool], ...]
    top: float
    n_test: int


def make_scores(evidence: Evidence) -> Scores | Missing:
    """Collect the scores of the out-of-fold predictions."""
    root = evidence.work.root
    if not len(evidence.train):
        return Missing("no image here has known labels to hold the predictions against")
    if not (root / "aggregate" / "metrics.json").is_file():
        return Missing("nothing has been scored here", evidence.command("aggregate run"))
    metrics, scored = evidence.metrics, evidence.scored
    classes = [dict(row, chance=row["support"] / max(row["labelled"], 1)) for row in metrics["classes"]]
    thresholds = read_thresholds(root / "aggregate" / "thresholds.json", evidence.vocabulary).values
    present = [c for c, row in enumerate(classes) if row["support"]]
    order = sorted(present, key=lambda c: -classes[c]["support"])
    matrix, confused = _confusions(evidence, scored, order)
    truth = _truth(evidence)
    return Scores(
        tuple(_metrics(metrics)),
        tuple(_bars(metrics, truth)),
        tuple(classes),
        tuple(_precision_recall(scored, c, classes[c]) for c in order),
        tuple(_threshold(scored, c, classes[c], float(thresholds[c])) for c in order),
        tuple(_calibration(scored, c, classes[c]) for c in order),
        matrix,
        confused,
        metrics["images"],
        metrics.get("bootstrap", {}).get("groups", 0),
        metrics.get("bootstrap", {}).get("resamples", 0),
        tuple(_warnings(metrics)),
        tuple(_truth_facts(truth)),
    )


def make_shares(evidence: Evidence) -> Shares | Missing:
    """Compare the classes of the submission with those of the training labels."""
    images = evidence.images
    ids = list(images.loc[images["split"] == "test", "image_id"])
    if not ids:
        return Missing("the run has no test images, so it made no submission")
    predicted = evidence.predicted(ids).mean(axis=0)
    labelled: list[float | None] = [None] * len(predicted)
    differ = [False] * len(predicted)
    if len(evidence.train):
        targets = evidence.vocabulary.multi_hot(evidence.train["target"])
        known = ~evidence.vocabulary.multi_hot(evidence.train["unknown_classes"])
        labelled = list((targets & known).sum(axis=0) / np.maximum(known.sum(axis=0), 1))
        if (evidence.work.root / "aggregate" / "metrics.json").is_file():
            differ = [bool(row.get("shares_differ")) for row in evidence.metrics["classes"]]
    rows = list(zip(evidence.vocabulary.classes, labelled, predicted.tolist(), differ, strict=True))
    rows.sort(key=lambda row: -max(row[1] or 0, 0 if row[1] is not None else row[2]))
    top = max([share for row in rows for share in row[1:3] if share] or [1.0])
    return Shares(tuple(rows), float(top), len(ids))


def _metrics(metrics: dict[str, Any]) -> list[Metric]:
    intervals = metrics.get("intervals", {})
    return [
        Metric(name, meaning, metrics[key], tuple(intervals[key]) if key in intervals else None)
        for key, (name, meaning) in _NAMES.items()
        if metrics.get(key) is not None
    ]


def _bars(metrics: dict[str, Any], truth: dict[str, Any]) -> list[Bar]:
    low, high = metrics.get("intervals", {}).get("macro_f1", (None, None))
    bars = [Bar("this run, out of fold", metrics["macro_f1"], "thresholds fitted on the other folds", "own", low, high)]
    if truth:
        bars.append(Bar("this run, test", truth["test_macro_f1"], "against the truth of the synthetic atlas", "own"))
    for key, scores in metrics["baselines"].items():
        note = f"here the {scores['classes']} most frequent, the best number of them" if "classes" in scores else ""
        bars.append(Bar(NAMES[key], scores["macro_f1"], note, "base"))
    return bars


def _truth(evidence: Evidence) -> dict[str, Any]:
    path = evidence.work.root / "demo.json"
    return read_json_object(path) if path.is_file() else {}


def _truth_facts(truth: dict[str, Any]) -> list[tuple[str, str]]:
    names = {
        "test_macro_f1": "macro F1 of the test images",
        "cell_macro_f1": "macro F1 of single test cells",
        "segmentation_ap50": "segmentation, AP at IoU 0.5",
        "cell_matched_share": "share of test cells found",
    }
    return [(name, f"{truth[key]:.3f}") for key, name in names.items() if key in truth]


def _precision_recall(scored: Scored, c: int, row: dict[str, Any]) -> Panel:
    recall, precision = precision_recall_curve(*scored.of_class(c))
    axes = Axes((0, 1), (0, 1))
    chance = np.array([row["chance"]] * 2)
    said = f"predictions: precision {row['precision']:.2f}, recall {row['recall']:.2f}"
    ap = _number(row["average_precision"])
    return axes.panel(
        row["class"],
        f"n = {row['support']}, AP {ap}",
        [axes.curve(np.array([0.0, 1.0]), chance, "chance"), axes.curve(recall, precision, "solid")],
        marks=[axes.mark(row["recall"], row["precision"], said)] if row["predicted"] else [],
        x_label="recall",
        y_label="precision",
        x_ticks=(0, 0.5, 1),
        y_ticks=(0, 0.5, 1),
        text=f"{row['class']}: average precision {ap}; {said}; chance {row['chance']:.2f}",
    )


def _threshold(scored: Scored, c: int, row: dict[str, Any], threshold: float) -> Panel:
    tried, f1 = f1_by_threshold(*scored.of_class(c))
    top = max(float(tried[-1]), threshold, 1e-3) * 1.05
    axes = Axes((0, top), (0, 1))
    at = float(np.interp(threshold, tried, f1))
    line = axes.curve(np.array([threshold, threshold]), np.array([0.0, 1.0]), "chosen")
    said = f"threshold {threshold:.3f}, F1 in sample {at:.2f}"
    return axes.panel(
        row["class"],
        f"threshold {threshold:.2f}",
        [line, axes.curve(tried, f1, "solid")],
        marks=[axes.mark(threshold, at, said)],
        x_label="threshold",
        y_label="F1",
        y_ticks=(0, 0.5, 1),
        text=f"{row['class']}: {said}; best in sample {f1.max():.2f}",
    )


def _calibration(scored: Scored, c: int, row: dict[str, Any]) -> Panel:
    bins = calibration_bins(*scored.of_class(c))
    top = max(float(bins.mean.max()), float(bins.observed.max()), 1e-3) * 1.08
    axes = Axes((0, top), (0, top))
    curves = [axes.curve(np.array([0, top]), np.array([0, top]), "chance")]
    curves += [
        axes.curve(np.array([mean, mean]), np.array([low, min(high, top)]), "error")
        for mean, low, high in zip(bins.mean, bins.low, bins.high, strict=True)
    ]
    curves.append(axes.curve(bins.mean, bins.observed, "solid"))
    marks = [
        axes.mark(float(mean), float(observed), f"{positives} of {images} images, mean score {mean:.2f}", "end fold-0")
        for mean, observed, positives, images in zip(bins.mean, bins.observed, bins.positives, bins.images, strict=True)
    ]
    return axes.panel(
        row["class"],
        f"{len(bins.images)} bins" if len(bins.images) > 1 else "1 bin",
        curves,
        marks=marks,
        x_label="mean score",
        y_label="share with class",
        text=f"{row['class']}: " + "; ".join(mark.text for mark in marks),
    )


def _confusions(evidence: Evidence, scored: Scored, order: Sequence[int]) -> tuple[Matrix, tuple[Confused, ...]]:
    names = evidence.vocabulary.classes
    table = confusion(scored.labels, scored.predictions)
    support = np.maximum(scored.labels.support, 1)
    columns = [*order, len(names)]
    heads = [names[c] for c in order] + ["nothing instead"]
    cells = []
    for i, row in enumerate(order):
        for j, column in enumerate(columns):
            count = table[row, column]
            if count:
                what = (
                    "predicted" if row == column else "missed, nothing else predicted" if column == len(names)
                    else f"missed, {names[column]} predicted instead"
                )  # fmt: skip
                text = f"{names[row]}: {what} in {count:.4g} of {support[row]} images ({count / support[row]:.0%})"
                cells.append((i, j, float(count / support[row]), text))
    off = table[:, : len(names)] * ~np.eye(len(names), dtype=bool)
    pairs = sorted(np.argwhere(off >= _MIN_MISSED).tolist(), key=lambda pair: -off[tuple(pair)])[:_TOP_CONFUSIONS]
    confused = tuple(
        Confused(names[row], names[column], float(off[row, column]), float(off[row, column] / support[row]))
        for row, column in pairs
    )
    return Matrix(tuple(names[c] for c in order), tuple(heads), tuple(cells)), confused


def _warnings(metrics: dict[str, Any]) -> list[str]:
    rows = metrics["classes"]
    found = []
    if at_chance := [row["class"] for row in rows if row.get("at_chance")]:
        found.append(f"Not shown to be ranked better than chance: {', '.join(at_chance)}.")
    if differing := [row["class"] for row in rows if row.get("shares_differ")]:
        found.append(f"Predicted more or less often on test than out of fold, beyond chance: {', '.join(differing)}.")
    if metrics.get("checkpoint_chosen_on_scored_rows"):
        found.append("Checkpoints were chosen on the images scored here, so the scores are slightly optimistic.")
    if metrics.get("gap", 0) > 0.1:
        found.append(
            f"Thresholds fit the images they were tuned on {metrics['gap']:.2f} better than others: there are few"
            " images per class."
        )
    return found


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"

"""Training: loss and scores over the epochs of every fold."""

from dataclasses import dataclass
from typing import Final

import pandas as pd

from classify.histories import read_histories, summarise_history, trained_folders
from pipeline.report.charts import Axes, Curve, Panel
from pipeline.report.evidence import Evidence, Missing

_PANELS: Final = (
    ("Loss", {"train_loss": ("train", "solid"), "validation_loss": ("validation", "dashed")}, "loss"),
    ("Macro F1 at threshold 0.5", {"validation_macro_f1": ("validation", "dashed")}, "macro F1"),
    ("Mean average precision", {"validation_mean_ap": ("validation", "dashed")}, "mean AP"),
    ("Learning rate", {"learning_rate": ("", "solid")}, "learning rate"),
)
_WIDTH: Final = 260
_HEIGHT: Final = 170


@dataclass(frozen=True)
class Training:
    """The part of the page.

    Parameters
    ----------
    windows
        Each window, its panels, and a sentence per fold.
    """

    windows: tuple[tuple[str, tuple[Panel, ...], tuple[str, ...]], ...]


def make_training(evidence: Evidence) -> Training | Missing:
    """Draw the histories of all trained folds."""
    folders = trained_folders(evidence.work)
    if not folders:
        return Missing("no fold has been trained here", evidence.command("classify train"))
    windows = []
    for folder in folders:
        histories = read_histories(folder)
        panels = tuple(panel for args in _PANELS if (panel := _panel(histories, *args)))
        said = tuple(f"fold {fold}: {summarise_history(history)}" for fold, history in histories.items())
        windows.append((folder.name, panels, said))
    return Training(tuple(windows))


def _panel(
    histories: dict[int, pd.DataFrame], title: str, columns: dict[str, tuple[str, str]], y_label: str
) -> Panel | None:
    lines = [
        (fold, name, kind, history[["epoch", column]].dropna().to_numpy(float))
        for fold, history in histories.items()
        for column, (name, kind) in columns.items()
        if column in history
    ]
    lines = [line for line in lines if len(line[3])]
    if not lines:
        return None
    xs = [x for line in lines for x in line[3][:, 0]]
    ys = [y for line in lines for y in line[3][:, 1]]
    score = y_label != "loss" and y_label != "learning rate"
    axes = Axes((min(xs), max(xs)), (0, 1 if score else max(ys) * 1.05), _WIDTH, _HEIGHT)
    curves: list[Curve] = []
    marks = []
    for fold, name, kind, points in lines:
        curves.append(axes.curve(points[:, 0], points[:, 1], f"{kind} fold-{fold % 6}"))
        said = f"fold {fold}{', ' + name if name else ''}, epoch {points[-1, 0]:.0f}: {points[-1, 1]:.4g}"
        marks.append(axes.mark(float(points[-1, 0]), float(points[-1, 1]), said, f"end fold-{fold % 6}"))
    note = ", ".join(dict.fromkeys(f"{name} {kind}" for _, name, kind, _ in lines if name)) if len(columns) > 1 else ""
    text = "; ".join(mark.text for mark in marks)
    return axes.panel(title, note, curves, marks=marks, x_label="epoch", y_label=y_label, text=text)

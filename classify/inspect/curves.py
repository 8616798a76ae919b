"""How training went: loss and scores over the epochs, and the learning rate, of every fold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from classify.training.history import HISTORY
from hpa.errors import UserError
from hpa.pictures import save_figure

_PANELS: Final[dict[str, dict[str, tuple[str, str | None]]]] = {  # columns, each with its line and name
    "loss": {"train_loss": ("-", "train loss"), "validation_loss": ("o--", "validation loss")},
    "images of the fold": {"validation_macro_f1": ("o-", "macro F1"), "validation_mean_ap": ("s--", "mean AP")},
    "learning rate": {"learning_rate": ("-", None)},
}


def read_histories(folder: Path) -> dict[int, pd.DataFrame]:
    """Return ``history.csv`` of every fold below ``classify/<window>``, by fold.

    Raises
    ------
    UserError
        If no fold has one.
    """
    found = {int(path.parent.name.removeprefix("fold-")): path for path in folder.glob(f"fold-*/{HISTORY}")}
    if not found:
        raise UserError(f"expected {HISTORY} of a fold (made by `python -m classify train`) in {folder}, found none")
    return {fold: pd.read_csv(found[fold]) for fold in sorted(found)}


def draw_curves(path: Path, histories: dict[int, pd.DataFrame]) -> None:
    """Draw three panels, a colour for each fold, into a PNG.

    Parameters
    ----------
    path
        The picture.
    histories
        ``history.csv`` by fold.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, len(_PANELS), sharex=True)
    for panel, (title, columns) in zip(axes, _PANELS.items(), strict=True):
        for fold, history in histories.items():
            for column, (style, name) in columns.items():
                looks = history.dropna(subset=[column])
                label = name if fold == min(histories) else None
                panel.plot(looks["epoch"], looks[column], style, color=f"C{fold % 10}", label=label, markersize=4)
        panel.set_title(title)
        panel.set_xlabel("epoch")
        if len(columns) > 1:
            panel.legend(fontsize=8, frameon=False)
    for fold in histories:
        axes[-1].plot([], [], color=f"C{fold % 10}", label=f"fold {fold}")
    axes[-1].legend(fontsize=8, frameon=False)
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, path)


def last_looks(histories: dict[int, pd.DataFrame]) -> Sequence[str]:
    """Return one line for each fold: where its training stands."""
    lines = []
    for fold, history in histories.items():
        last = history.iloc[-1]
        looked = history.dropna(subset=["validation_loss"])
        line = f"fold {fold}: epoch {int(last['epoch'])}, train loss {last['train_loss']:.4f}"
        if len(looked):
            look = looked.iloc[-1]
            line += (
                f"; at epoch {int(look['epoch'])} validation loss {look['validation_loss']:.4f},"
                f" macro F1 {look['validation_macro_f1']:.3f}, mean AP {look['validation_mean_ap']:.3f}"
            )
        lines.append(line)
    return lines

"""The command `curves`: loss, scores and learning rate over the epochs of every fold, and single crops if logged.

The scores are named by what they cover, because those of `aggregate run` cover something else: each fold's model is
scored here on its own images at the threshold 0.5, over the classes that they have, and there on the images of all
folds together, with tuned thresholds.
"""

from pathlib import Path
from typing import Final, cast

import pandas as pd

from classify.histories import read_histories, summarise_history, trained_folders
from classify.inspect.samples import draw_samples
from crops.config import Window
from crops.store import CropStore, open_store
from hpa.errors import UserError
from hpa.pictures import FigureFormat, save_figure
from hpa.work.folder import WorkFolder

_PANELS: Final[dict[str, dict[str, tuple[str, str | None]]]] = {  # columns, each with its line style and name
    "loss": {"train_loss": ("-", "train loss"), "validation_loss": ("o--", "validation loss")},
    "images of each fold on its own": {
        "validation_macro_f1": ("o-", "macro F1 at 0.5"),
        "validation_mean_ap": ("s--", "mean AP, classes of the fold"),
    },
    "training images, crops as augmented": {
        "train_macro_f1": ("-", "macro F1 at 0.5"),
        "train_mean_ap": ("--", "mean AP"),
    },
    "accuracy at 0.2": {"train_accuracy": ("-", "train"), "validation_accuracy": ("o--", "validation")},
    "learning rate": {"learning_rate": ("-", None)},
}


def curves(work: WorkFolder, figure_format: FigureFormat = "png") -> int:
    """Draw ``classify/<window>/figures/curves.png`` for every trained window and print the state of training.

    Where the recipe logs samples, it draws ``losses.png`` and ``hardest.png`` too, and lists ``hardest.csv``. Figures
    have the suffix of `figure_format`.

    Returns
    -------
    int
        The exit code 0.

    Raises
    ------
    UserError
        If no fold was trained.
    """
    folders = trained_folders(work)
    if not folders:
        raise UserError(f"expected a trained work folder (`python -m classify train {work.root}`), found none")
    for folder in folders:
        histories = read_histories(folder)
        picture = folder / "figures" / f"curves.{figure_format}"
        draw_curves(picture, histories, f"Training of the window {folder.name}, {work.root.resolve().name}")
        for fold, history in histories.items():
            print(f"{folder.name}, fold {fold}: {summarise_history(history)}")
        print(f"see {picture}")
        for path in draw_samples(
            folder, _store(work, folder.name), work.data.classes, work.data.channels, figure_format
        ):
            print(f"see {path}")
    return 0


def _store(work: WorkFolder, window: str) -> CropStore | None:
    """Return the crops of a window, None if they were removed or cut anew since."""
    try:
        return open_store(work, cast(Window, window))
    except (UserError, FileNotFoundError):
        return None


def draw_curves(path: Path, histories: dict[int, pd.DataFrame], title: str = "") -> None:
    """Draw a row of panels with one colour per fold into a PNG, PDF or SVG.

    Parameters
    ----------
    path
        Path of the figure.
    histories
        ``history.csv`` by fold.
    title
        Of the whole figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(_PANELS), 3.6), layout="constrained")
    axes = figure.subplots(1, len(_PANELS), sharex=True)
    for panel, (heading, columns) in zip(axes, _PANELS.items(), strict=True):
        for fold, history in histories.items():
            for column, (style, name) in columns.items():
                if column not in history:  # written before these scores were
                    continue
                points = history.dropna(subset=[column])
                label = name if fold == min(histories) else None
                # A line through one epoch shows nothing.
                shown = "o" if len(points) == 1 else style
                panel.plot(points["epoch"], points[column], shown, color=f"C{fold % 10}", label=label, markersize=4)
        panel.set_title(heading)
        panel.set_xlabel("epoch")
        if len(columns) > 1 and panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8, frameon=False)
    for fold in histories:
        axes[-1].plot([], [], color=f"C{fold % 10}", label=f"fold {fold}")
    axes[-1].legend(fontsize=8, frameon=False)
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", fontsize=11)
    save_figure(figure, path)

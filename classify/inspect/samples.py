"""Pictures of the log of single crops (``classify.log_samples``): loss by class and over epochs, hardest samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from classify.training.samples import losses_of_classes, read_samples
from crops.store import CropStore
from hpa.channels import Channel
from hpa.pictures import FigureFormat, composite, save_figure, save_tiles, titled
from hpa.vocabulary import Vocabulary
from hpa.work.files import write_csv

SHOWN: Final = 24
"""Hardest crops that are drawn; four times as many are listed."""

_COLUMNS: Final = 6
_TILE_PX: Final = 180


def read_logs(folder: Path) -> dict[int, dict[int, pd.DataFrame]]:
    """Read the logs of every fold in ``classify/<window>``, by fold and epoch; folds without any are left out."""
    folds = {int(path.name.removeprefix("fold-")): read_samples(path) for path in folder.glob("fold-*")}
    return {fold: folds[fold] for fold in sorted(folds) if folds[fold]}


def mean_losses(logs: Mapping[int, Mapping[int, pd.DataFrame]], split: str, classes: int) -> pd.DataFrame:
    """Return the loss of each class over the epochs: the mean over folds of the mean over crops.

    Returns
    -------
    DataFrame
        A row for each epoch, a column for each class number; NaN where no crop with a known class was logged.
    """
    rows = [
        pd.Series(losses_of_classes(table[table["split"] == split], classes), name=epoch)
        for epochs in logs.values()
        for epoch, table in epochs.items()
    ]
    return pd.DataFrame(rows).groupby(level=0).mean()


def hardest_samples(logs: Mapping[int, Mapping[int, pd.DataFrame]], n: int) -> pd.DataFrame:
    """List the validation crops with the highest loss in the last logged epoch of their fold, hardest first.

    Returns
    -------
    DataFrame
        image_id, cell_label, fold, epoch, loss, truth and prediction, at most `n` rows.
    """
    last = []
    for fold, epochs in logs.items():
        epoch = max(epochs)
        table = epochs[epoch]
        last.append(table[table["split"] == "validation"].assign(fold=fold, epoch=epoch))
    columns = ["image_id", "cell_label", "fold", "epoch", "loss", "truth", "prediction"]
    listed = pd.concat(last)[columns].dropna(subset=["loss"])
    return listed.sort_values(["loss", "image_id", "cell_label"], ascending=[False, True, True])[:n].reset_index(
        drop=True
    )


def draw_losses(path: Path, logs: Mapping[int, Mapping[int, pd.DataFrame]], vocabulary: Vocabulary) -> None:
    """Draw the loss of every class in the last epoch, and that of validation crops over the epochs, into a PNG."""
    from matplotlib.figure import Figure

    names, k = vocabulary.classes, len(vocabulary)
    train, validation = (mean_losses(logs, split, k) for split in ("train", "validation"))
    order = validation.iloc[-1].fillna(-1).argsort(kind="stable").to_numpy()
    figure = Figure(figsize=(13, 1.6 + 0.22 * k), layout="constrained")
    bars, over = figure.subplots(1, 2, sharey=True)
    places = np.arange(k)
    bars.barh(places + 0.2, validation.iloc[-1].to_numpy()[order], 0.4, label="validation", color="C1")
    if len(train):
        bars.barh(places - 0.2, train.iloc[-1].to_numpy()[order], 0.4, label="train, as augmented", color="C0")
    bars.set_yticks(places, [names[c] for c in order], fontsize=8)
    bars.set_title(f"cross-entropy of each class, epoch {validation.index[-1]}")
    bars.legend(fontsize=8, frameon=False, loc="lower right")
    image = over.imshow(
        validation.to_numpy()[:, order].T, aspect="auto", origin="lower", cmap="viridis", interpolation="none"
    )
    over.set_xticks(range(len(validation)), validation.index)
    over.set_xlabel("epoch")
    over.set_title("validation, over the epochs")
    figure.colorbar(image, ax=over)
    save_figure(figure, path)


def draw_hardest(
    path: Path, hardest: pd.DataFrame, store: CropStore, vocabulary: Vocabulary, channels: tuple[Channel, ...]
) -> None:
    """Draw crops with their loss, their true and their predicted classes, hardest first, into a PNG."""
    positions = pd.Series(range(len(store)), index=pd.MultiIndex.from_frame(store.table[["image_id", "cell_label"]]))
    found = positions.reindex(pd.MultiIndex.from_frame(hardest[["image_id", "cell_label"]])).to_numpy()
    hardest = hardest[~np.isnan(found)]  # crops may have been cut anew since
    rows = found[~np.isnan(found)].astype(np.int64)
    tiles = []
    for pixels, (_, sample) in zip(store.pixels(rows), hardest.iterrows(), strict=True):
        lines = [
            f"loss {sample['loss']:.2f}",
            f"is {class_names(sample['truth'], vocabulary)}",
            f"says {class_names(sample['prediction'], vocabulary)}",
        ]
        tiles.append(titled(composite(pixels, channels), "\n".join(lines), _TILE_PX))
    save_tiles(tiles, _COLUMNS, path)


def class_names(numbers: str, vocabulary: Vocabulary) -> str:
    """Return the names of classes from their numbers, separated by spaces; ``nothing`` for none."""
    return ", ".join(vocabulary.classes[int(number)] for number in numbers.split()) or "nothing"


def draw_samples(
    folder: Path,
    store: CropStore | None,
    vocabulary: Vocabulary,
    channels: tuple[Channel, ...],
    figure_format: FigureFormat = "png",
) -> list[Path]:
    """Draw and list the log of a window, if there is one.

    Parameters
    ----------
    folder
        ``classify/<window>``.
    store
        Its crops; None lists the hardest samples and draws none.
    vocabulary, channels
        Those of the run.
    figure_format
        Format of the pictures.

    Returns
    -------
    list of Path
        ``figures/losses.png``, ``hardest.csv`` and ``figures/hardest.png``, as far as they were written.
    """
    logs = read_logs(folder)
    if not logs:
        return []
    written = [folder / "figures" / f"losses.{figure_format}", folder / "hardest.csv"]
    draw_losses(written[0], logs, vocabulary)
    hardest = hardest_samples(logs, 4 * SHOWN)
    named = {key: hardest[key].map(lambda text: class_names(text, vocabulary)) for key in ("truth", "prediction")}
    write_csv(written[1], hardest.assign(**named))
    if store is not None and len(hardest):
        written.append(folder / "figures" / f"hardest.{figure_format}")
        draw_hardest(written[2], hardest[:SHOWN], store, vocabulary, channels)
    return written

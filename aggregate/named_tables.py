"""Tables for people, ``images.csv`` and ``cells.csv``: class names, probabilities, places and flags, one row each.

Both tables contain the images that were scored out of fold, and the test images. Lists within a cell of a table are
separated by ``; ``.

``images.csv`` has one row per image of the image table: image_id; source; split; origin (``oof``: scored by the model
that was not trained on it; ``test``: by the mean of all models; ``prior``: no crop was scored, or every model was
trained on it); fold (empty: in none); n_cells (segmented); n_crops (scored); predicted (class names; empty where the
image was not decided on); probabilities (of the predicted classes, in their order); labels (the known class names);
flags (of the masks, `segment.masks.FLAGS`, and why an image failed).

``cells.csv`` has one row per cell of ``cells.parquet``: image_id; cell_label (as in the masks); origin; predicted;
probabilities; row_px, col_px (centre of the cell's window in the source image); area_px; flags (of the crop: touches
border, no nucleus, several nuclei); image_labels.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from classify.probabilities import class_columns
from crops.config import CropsSection
from crops.store import store_folder
from hpa.splitting.folds import read_folds
from hpa.vocabulary import Vocabulary
from hpa.work.files import atomic_write, read_parquet, write_csv
from hpa.work.folder import WorkFolder
from segment.masks import masks_path, read_masks

SEPARATOR: Final = "; "
"""Between the items of a list."""

_ROWS_AT_ONCE: Final = 65_536


def class_names(indices: Iterable[int], vocabulary: Vocabulary) -> str:
    """Join the names of classes.

    Examples
    --------
    >>> from hpa.vocabulary import HPA28
    >>> class_names([0, 25], HPA28)
    'Nucleoplasm; Cytosol'
    """
    return SEPARATOR.join(vocabulary.classes[c] for c in indices)


def write_images_csv(
    path: Path,
    work: WorkFolder,
    images: pd.DataFrame,
    scored: pd.DataFrame,
) -> None:
    """Write ``images.csv``.

    Parameters
    ----------
    path
        The file to write.
    work
        The work folder, whose masks and failures are looked up.
    images
        The image table.
    scored
        ``aggregate/images.parquet``, row by row as `images`.
    """
    vocabulary = work.data.classes
    named = [
        _predictions(vocabulary.parse(text), row, vocabulary)
        for text, row in zip(scored["predicted"], scored[class_columns(vocabulary)].to_numpy(), strict=True)
    ]
    ids = images["image_id"]
    fold = pd.Series(dtype="int64")
    if work.folds.is_file():
        fold = read_folds(work.folds).set_index("image_id")["fold"]
    n_cells, flags = _of_masks(work)
    reasons = _failures(work)
    all_flags = [SEPARATOR.join(filter(None, [flags.get(image_id, ""), reasons.get(image_id, "")])) for image_id in ids]
    table = pd.DataFrame(
        {
            "image_id": ids,
            "source": images["source"],
            "split": images["split"],
            "origin": scored["origin"].to_numpy(),
            "fold": fold.reindex(ids).astype("Int64").array,
            "n_cells": pd.Series(n_cells, dtype="Int64").reindex(ids).array,
            "n_crops": scored["n_crops"].to_numpy(),
            "predicted": [names for names, _ in named],
            "probabilities": [values for _, values in named],
            "labels": [class_names(target, vocabulary) for target in images["target"]],
            "flags": all_flags,
        }
    )
    write_csv(path, table)


def write_cells_csv(path: Path, cells: Path, work: WorkFolder, images: pd.DataFrame) -> None:
    """Write ``cells.csv`` from ``cells.parquet``, a part at a time.

    Parameters
    ----------
    path
        The file to write.
    cells
        ``cells.parquet`` (`aggregate.cell_labels`).
    work
        The work folder, whose crops are looked up.
    images
        The image table.
    """
    vocabulary = work.data.classes
    columns = class_columns(vocabulary)
    places = _places(work)
    labels = {
        image_id: class_names(target, vocabulary)
        for image_id, target in zip(images["image_id"], images["target"], strict=True)
    }
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        header = True
        for batch in parquet.ParquetFile(cells).iter_batches(_ROWS_AT_ONCE):
            part = batch.to_pandas()
            named = [
                _predictions(vocabulary.parse(text), row, vocabulary)
                for text, row in zip(part["predicted"], part[columns].to_numpy(), strict=True)
            ]
            table = part[["image_id", "cell_label", "origin"]].assign(
                predicted=[names for names, _ in named], probabilities=[values for _, values in named]
            )
            table = table.merge(places, on=["image_id", "cell_label"], how="left", validate="one_to_one")
            table["image_labels"] = table["image_id"].map(labels)
            table.to_csv(file, index=False, header=header, lineterminator="\n")
            header = False
        if header:  # no cell at all: the columns alone
            empty = ["image_id", "cell_label", "origin", "predicted", "probabilities"]
            pd.DataFrame(columns=[*empty, *places.columns[2:], "image_labels"]).to_csv(
                file, index=False, lineterminator="\n"
            )


def _predictions(indices: Iterable[int], scores: NDArray[np.float32], vocabulary: Vocabulary) -> tuple[str, str]:
    """Return names and probabilities of predicted classes, the likeliest first."""
    order = sorted(indices, key=lambda c: -scores[c])
    return class_names(order, vocabulary), SEPARATOR.join(f"{scores[c]:.4f}" for c in order)


def _of_masks(work: WorkFolder) -> tuple[dict[str, int], dict[str, str]]:
    if not masks_path(work).is_file():
        return {}, {}
    masks = read_masks(work)
    flags = masks["flags"].str.replace(", ", SEPARATOR)
    return dict(zip(masks["image_id"], masks["n_cells"], strict=True)), dict(zip(masks["image_id"], flags, strict=True))


def _failures(work: WorkFolder) -> dict[str, str]:
    """Return why images failed, by the first stage in which they did."""
    reasons: dict[str, str] = {}
    stores = [store_folder(work, window) for window in work.section("crops", CropsSection).stores]
    for path in (folder / "failures.csv" for folder in (work.root / "segment", *stores)):
        if path.is_file():
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            reasons = dict(zip(table["image_id"], table["reason"], strict=True)) | reasons
    return reasons


def _places(work: WorkFolder) -> pd.DataFrame:
    """Return place, area and flags of the cells with crops, as far as there is a table of them."""
    path = store_folder(work, "cells") / "crops.parquet"
    if not path.is_file():  # probabilities of another program
        return pd.DataFrame({"image_id": pd.Series(dtype=str), "cell_label": pd.Series(dtype=np.int32)})
    table = read_parquet(path, f"python -m crops run {work.root}")
    places = table[["image_id", "cell_label"]].copy()
    if "area_px" not in table:  # a table of another program
        return places
    places["row_px"] = (table["min_row_px"] + table["max_row_px"]) / 2
    places["col_px"] = (table["min_col_px"] + table["max_col_px"]) / 2
    places["area_px"] = table["area_px"]
    flags = pd.DataFrame(
        {
            "touches border": table["touches_border"],
            "no nucleus": ~table["has_nucleus"],
            "several nuclei": table["n_nuclei"] > 1,
        }
    )
    places["flags"] = [SEPARATOR.join(flags.columns[row]) for row in flags.to_numpy()]
    return places

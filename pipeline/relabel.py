"""A round of pseudo-labels: the cells of a finished run get labels of their own, and a second model trains on them."""

from pathlib import Path

import numpy as np
import pandas as pd

from aggregate.cell_labels import decide_cells
from aggregate.config import AggregateSection
from classify.cell_targets import CELL_TARGETS, write_cell_targets
from classify.data.crops import NO_FOLD
from classify.prediction import predict_seen
from classify.probabilities import stream_probabilities
from crops.config import CropsSection
from hpa.errors import UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.work.files import read_parquet
from hpa.work.folder import WorkFolder, locked, open_work
from pipeline.recipe import read_recipe
from pipeline.share import init_from, second_recipe
from pipeline.stages import run_stages


def relabel(
    first: Path, root: Path, settings: tuple[str, ...] = (), *, device: str = "auto", threads: int | None = None
) -> int:
    """Label the cells of a finished run by its own models, and train a second model on these labels.

    The second model of a fold is trained on labels that the first model of the same fold gives to the cells of the
    other folds. Neither has seen an image of its own fold, so the out-of-fold scores of the second run are as honest as
    those of the first.

    Parameters
    ----------
    first
        The finished work folder.
    root
        Work folder of the second model, which shares images, masks and crops; that of a killed call is resumed.
    settings
        ``section.key=value`` each, for the second model.
    device, threads
        As for `pipeline.stages.run_stages`.

    Returns
    -------
    int
        The highest exit code of the stages.

    Raises
    ------
    UserError
        If the first run is not finished or trains on other windows than cells, or a stage cannot run.
    """
    old = open_work(first)
    if "cells" not in old.section("crops", CropsSection).train_windows:
        raise UserError(f"expected a run that trains on cells to relabel, found other windows in {old.recipe}")
    keys = (*settings, 'classify.labels="cells"')
    wanted = second_recipe(old, root, None, keys)
    read_parquet(first / "aggregate" / "images.parquet", f"python -m pipeline run {first}", columns=["image_id"])
    if not len(read_folds(old.folds)):
        raise UserError(f"expected a run with labels to relabel, found no labelled train image in {first}")
    if (root / "recipe.toml").exists():
        if read_recipe(root / "recipe.toml") != wanted:
            raise UserError(f"expected a new folder for the second model, found another run at {root}")
    else:
        init_from(root, first, settings=keys)
    work = open_work(root)
    with locked(root):
        write_labels(old, work, device=device, threads=threads)
        return run_stages(work, device=device, threads=threads).code


def write_labels(first: WorkFolder, second: WorkFolder, *, device: str = "auto", threads: int | None = None) -> None:
    """Score all cells with the first models, and write the labels that the second ones are trained on.

    They replace those that a first run has brought along from a round of its own.
    """
    scores = predict_seen(second, first, second.root / "relabel", device=device, threads=threads)
    table = label_cells(first, scores)
    write_cell_targets(second.root / CELL_TARGETS, table)
    for fold, cells in table.groupby("fold"):
        print(f"relabel: for fold {fold}, {len(cells)} cells lose some labels of their image")


def label_cells(work: WorkFolder, scores: Path) -> pd.DataFrame:
    """Return the labels of the train cells that show fewer classes than their image, for each fold by its own model.

    A cell keeps those known classes of its image for which its probability is at least ``aggregate.cell_share`` of the
    highest among the cells of the image, so each class of an image stays with at least one cell.

    Parameters
    ----------
    work
        The work folder.
    scores
        The probabilities of its cells by all of its models (`classify.prediction.predict_seen`). The model of a fold
        labels the cells of the images of all others.

    Returns
    -------
    DataFrame
        As `classify.cell_targets` describes.
    """
    vocabulary, share = work.data.classes, work.section("aggregate", AggregateSection).cell_share
    inherited_by = read_images(work.images).set_index("image_id")["target"].to_dict()
    fold_by = read_folds(work.folds).set_index("image_id")["fold"].to_dict()
    tables = [pd.DataFrame({"image_id": [], "cell_label": [], "fold": [], "target": []})]
    for part in stream_probabilities(scores, vocabulary):
        ids = np.array(part.image_ids, dtype=object)[part.images]
        held_out = np.array([fold_by.get(image_id, NO_FOLD) for image_id in part.image_ids])[part.images]
        for fold in np.unique(part.folds):
            rows = np.flatnonzero(
                (part.folds == fold) & (part.cell_labels > 0) & (held_out != NO_FOLD) & (held_out != fold)
            )
            first_rows = np.flatnonzero(np.diff(part.images[rows], prepend=-1))
            inherited = vocabulary.multi_hot(inherited_by[image_id] for image_id in ids[rows])
            shown = decide_cells(part.probabilities[rows], first_rows, inherited[first_rows], share)
            changed = np.flatnonzero((shown != inherited).any(axis=1))
            targets = pd.Series([tuple(np.flatnonzero(row).tolist()) for row in shown[changed]], dtype=object)
            own = {"image_id": ids[rows][changed], "cell_label": part.cell_labels[rows][changed]}
            tables.append(pd.DataFrame({**own, "fold": fold, "target": targets}))
    table = pd.concat(tables[1:] or tables, ignore_index=True)
    return table.astype({"image_id": str, "cell_label": np.int32, "fold": np.int16, "target": object})

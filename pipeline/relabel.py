"""A round of pseudo-labels: the cells of a finished run get labels of their own, and a second model trains on them."""

from pathlib import Path

import numpy as np
import pandas as pd

from aggregate.cell_labels import decide_cells, stream_cells
from aggregate.config import AggregateSection
from classify.cell_targets import CELL_TARGETS, write_cell_targets
from crops.config import CropsSection
from hpa.errors import UserError
from hpa.images import read_images
from hpa.work.folder import WorkFolder, locked, open_work
from pipeline.recipe import read_recipe
from pipeline.share import init_from, second_recipe
from pipeline.stages import run_stages


def relabel(
    first: Path, root: Path, settings: tuple[str, ...] = (), *, device: str = "auto", threads: int | None = None
) -> int:
    """Label the cells of a finished run by its out-of-fold probabilities, and train a second model on these labels.

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
    if (root / "recipe.toml").exists():
        if read_recipe(root / "recipe.toml") != second_recipe(old, root, None, keys):
            raise UserError(f"expected a new folder for the second model, found another run at {root}")
    else:
        init_from(root, first, settings=keys)
    work = open_work(root)
    with locked(root):
        if not (root / CELL_TARGETS).exists():
            table = label_cells(old)
            write_cell_targets(root / CELL_TARGETS, table)
            print(f"relabel: {len(table)} cells lose some labels of their image ({root / CELL_TARGETS})")
        return run_stages(work, device=device, threads=threads).code


def label_cells(work: WorkFolder) -> pd.DataFrame:
    """Return the labels of the train cells that show fewer classes than their image, by their out-of-fold scores.

    A cell keeps those known classes of its image for which its probability is at least ``aggregate.cell_share`` of the
    highest among the cells of the image, so each class of an image stays with at least one cell.

    Parameters
    ----------
    work
        A work folder with out-of-fold probabilities.

    Returns
    -------
    DataFrame
        As `classify.cell_targets` describes.
    """
    vocabulary, share = work.data.classes, work.section("aggregate", AggregateSection).cell_share
    inherited_by = read_images(work.images).set_index("image_id")["target"].to_dict()
    rows = []
    for part in stream_cells(work.root / "classify" / "cells" / "probabilities.parquet", vocabulary):
        cells = part.take(part.is_oof & (part.cell_labels > 0))
        if not len(cells.image_ids):
            continue
        inherited = vocabulary.multi_hot(inherited_by[image_id] for image_id in cells.image_ids)
        shown = decide_cells(cells.scores, cells.first_rows, inherited[cells.first_rows], share)
        for i in np.flatnonzero((shown != inherited).any(axis=1)):
            target = tuple(np.flatnonzero(shown[i]).tolist())
            rows.append({"image_id": cells.image_ids[i], "cell_label": cells.cell_labels[i], "target": target})
    table = pd.DataFrame(rows, columns=["image_id", "cell_label", "target"])
    return table.astype({"image_id": str, "cell_label": np.int32, "target": object})

"""Score the runs of `bench.classify` against the hidden truth of their atlas."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from aggregate.cell_labels import decide_cells
from aggregate.config import AggregateSection
from aggregate.thresholds.decision import decide
from aggregate.thresholds.exact import best_thresholds
from bench.classification.runs import Job, Ran
from bench.classification.world import World
from classify.inference.evaluate import mean_average_precision
from classify.inspect.retrieval import normalise_rows, score_retrieval
from classify.probabilities import class_columns
from hpa.images import read_images
from hpa.metrics import macro_f1
from hpa.pixels import read_label_image
from hpa.splitting.folds import read_folds
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from segment.masks import read_mask
from segment.score import match_cells


@dataclass(frozen=True)
class Score:
    """Scores on test images against the truth, with thresholds tuned on the held-out images.

    `held_cell_mean_ap` is the score of cells of the held-out images. Systems are selected by it, so that the selection
    does not inflate their test scores.
    """

    image_macro_f1: float
    image_mean_ap: float
    cell_macro_f1: float
    cell_mean_ap: float
    held_cell_mean_ap: float


def score(world: World, work: WorkFolder, images: pd.DataFrame, cells: pd.DataFrame | None = None) -> Score:
    """Score image probabilities and, if given, cell probabilities.

    Parameters
    ----------
    world
        The atlas with the truth.
    work
        A work folder made from it, with masks and the labels of the held-out images.
    images
        Image probabilities (`bench.classification.runs.image_probabilities`).
    cells
        Probabilities of crops of the window ``cells``.
    """
    columns = class_columns(HPA28)
    held = images[images["origin"] == "oof"]
    known = read_images(work.images).set_index("image_id")["target"]
    thresholds = best_thresholds(HPA28.multi_hot(known.loc[held.index]), held[columns].to_numpy(np.float32))
    truth = pd.read_csv(world.atlas / "truth" / "images.csv", dtype=str, keep_default_na=False).set_index("image_id")
    test = images[images["origin"] == "test"]
    targets = HPA28.multi_hot(HPA28.parse(text) for text in truth.loc[test.index, "target"])
    p = test[columns].to_numpy(np.float32)
    of_images = macro_f1(targets, decide(p, thresholds, "argmax", HPA28)), mean_average_precision(targets, p)
    if cells is None:
        return Score(*of_images, *[float("nan")] * 3)
    of_cells = []
    for part in (test, held):
        decided = decide(part[columns].to_numpy(np.float32), thresholds, "argmax", HPA28)
        rows = cells[cells["image_id"].isin(part.index)].sort_values(["image_id", "cell_label"], kind="stable")
        of_cells.append(_score_cells(world, work, rows, pd.DataFrame(decided, index=part.index)))
    (cell_macro_f1, cell_mean_ap), (_, held_ap) = of_cells
    return Score(*of_images, cell_macro_f1, cell_mean_ap, held_ap)


def _score_cells(world: World, work: WorkFolder, table: pd.DataFrame, of_images: pd.DataFrame) -> tuple[float, float]:
    """Return macro F1 and mean average precision of cells; a cell gets the labels of its image that it shows."""
    columns = class_columns(HPA28)
    first = np.flatnonzero((table["image_id"] != table["image_id"].shift()).to_numpy())
    predictions = of_images.loc[table["image_id"].iloc[first]].to_numpy(bool)
    shown = decide_cells(table[columns].to_numpy(np.float32), first, predictions, AggregateSection().cell_share)
    table = table.assign(row=np.arange(len(table)))
    truth = pd.read_csv(
        world.atlas / "truth" / "cells.csv", dtype={"image_id": str, "target": str}, keep_default_na=False
    )
    rows = []
    for image_id in table.loc[table["cell_label"] > 0, "image_id"].unique():
        reference = read_label_image(world.atlas / "truth" / "cells" / f"{image_id}.png")
        for found, true in match_cells(read_mask(work, image_id), reference):
            rows.append((image_id, int(found), int(true)))
    pairs = pd.DataFrame(rows, columns=["image_id", "cell_label", "true_label"])
    both = table.merge(pairs, on=["image_id", "cell_label"])
    both = both.merge(truth.rename(columns={"cell_label": "true_label"}), on=["image_id", "true_label"])
    targets = HPA28.multi_hot(HPA28.parse(text) for text in both["target"])
    p = both[columns].to_numpy(np.float32)
    return macro_f1(targets, shown[both["row"]]), mean_average_precision(targets, p)


def retrieval(ran: Ran, job: Job, name: str, queries: int) -> dict[str, Any]:
    """Return precision@1 and MAP@R of held-out crops in a vector space, among crops of other antibodies."""
    keys = pd.read_parquet(ran.folder / "predict" / "keys.parquet")
    own = np.flatnonzero((keys["origin"] == "oof").to_numpy())
    work = job.scored_on[0]
    images = read_images(work.images).merge(read_folds(work.folds), on="image_id").set_index("image_id")
    ids = keys["image_id"].iloc[own]
    targets = HPA28.multi_hot(images.loc[ids, "target"])
    vectors = normalise_rows(np.load(ran.folder / "predict" / f"{name}.npy", allow_pickle=False)[own])
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(own), min(queries, len(own)), replace=False))
    groups = images.loc[ids, "group"].to_numpy(np.int64)
    return asdict(score_retrieval(vectors, targets, np.ones_like(targets), groups, rows, 0.5))

"""Score the runs of `bench.classify` against the hidden truth of their atlas."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.cell_labels import decide_cells
from aggregate.config import AggregateSection
from aggregate.labels import Labels
from aggregate.thresholds.decision import decide, transfer_thresholds
from aggregate.thresholds.methods import fit_thresholds
from bench.classification.runs import Job, Ran
from bench.classification.world import FOLDS, World
from classify.inspect.retrieval import normalise_rows, score_retrieval
from classify.probabilities import class_columns
from hpa.images import read_images
from hpa.metrics import macro_f1, mean_average_precision
from hpa.pixels import read_label_image
from hpa.splitting.folds import read_folds
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from segment.masks import read_mask
from segment.score import match_cells

_RESAMPLES: Final = 500


@dataclass(frozen=True)
class Score:
    """Scores on test images against the truth, with thresholds tuned on the out-of-fold scores of all train images.

    Mean average precision needs no thresholds. `oof_mean_ap` is that of the train images out of fold.
    """

    image_mean_ap: float
    image_macro_f1: float
    cell_mean_ap: float
    cell_macro_f1: float
    oof_mean_ap: float


@dataclass(frozen=True)
class Scored:
    """The scores of one system and the probabilities they are computed from.

    Parameters
    ----------
    score
        The scores.
    targets, probabilities
        Of the M test images, shape (M, K) each.
    groups
        Shape (M,): the antibody of each test image.
    """

    score: Score
    targets: NDArray[np.bool_]
    probabilities: NDArray[np.float32]
    groups: NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """The hidden truth of an atlas, read once.

    Parameters
    ----------
    world
        The atlas.
    """

    world: World

    @cached_property
    def images(self) -> pd.DataFrame:
        """Target and antibody of every image, by image_id."""
        table = pd.read_csv(self.world.atlas / "truth" / "images.csv", dtype=str, keep_default_na=False)
        return table.set_index("image_id")

    def targets(self, image_ids: pd.Series) -> NDArray[np.bool_]:
        """Return the true targets of images, shape (N, K)."""
        return HPA28.multi_hot(HPA28.parse(text) for text in self.images.loc[image_ids, "target"])

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The target of every true cell: image_id, true_label, target."""
        path = self.world.atlas / "truth" / "cells.csv"
        cells = pd.read_csv(path, dtype={"image_id": str, "target": str}, keep_default_na=False)
        return cells.rename(columns={"cell_label": "true_label"})

    def pairs(self, work: WorkFolder, image_ids: list[str]) -> pd.DataFrame:
        """Match segmented to true cells at IoU 0.5: image_id, cell_label, true_label, target."""
        path = self.world.root / "pairs.parquet"
        if not path.is_file():
            rows = []
            for image_id in image_ids:
                reference = read_label_image(self.world.atlas / "truth" / "cells" / f"{image_id}.png")
                for found, true in match_cells(read_mask(work, image_id), reference):
                    rows.append((image_id, int(found), int(true)))
            pd.DataFrame(rows, columns=["image_id", "cell_label", "true_label"]).to_parquet(path)
        return pd.read_parquet(path).merge(self.cells, on=["image_id", "true_label"])


def score(truth: Truth, work: WorkFolder, images: pd.DataFrame, cells: pd.DataFrame | None = None) -> Scored:
    """Score image probabilities and, if given, cell probabilities.

    Thresholds are tuned and transferred as the pipeline does by default.

    Parameters
    ----------
    truth
        The truth of the atlas.
    work
        A work folder made from it, with masks and the labels of the train images.
    images
        Image probabilities (`bench.classification.runs.image_probabilities`).
    cells
        Probabilities of crops of the window ``cells``.
    """
    columns, section = class_columns(HPA28), AggregateSection()
    oof, test = (images[images["origin"] == origin] for origin in ("oof", "test"))
    targets, scores = truth.targets(oof["image_id"]), oof[columns].to_numpy(np.float32)
    values = fit_thresholds(Labels.all_known(targets), scores, section)
    by_model = np.stack([test.loc[test["fold"] == fold, columns].to_numpy(np.float32) for fold in range(FOLDS)])
    shares = (scores > values).mean(axis=0)
    transferred = transfer_thresholds(values, shares, by_model, section.transfer)
    ids = test.loc[test["fold"] == 0, "image_id"]
    test_targets, p = truth.targets(ids), by_model.mean(axis=0)
    decided = decide(p, transferred, section.empty, HPA28)
    of_cells = float("nan"), float("nan")
    if cells is not None:
        of_cells = _score_cells(truth, work, cells[cells["image_id"].isin(ids)], pd.DataFrame(decided, index=ids))
    found = Score(
        mean_average_precision(test_targets, p),
        macro_f1(test_targets, decided),
        *of_cells,
        mean_average_precision(targets, scores),
    )
    return Scored(found, test_targets, p, pd.factorize(truth.images.loc[ids, "antibody"])[0])


def mean_ap_gain(system: Scored, reference: Scored) -> tuple[float, float]:
    """Return the 95% interval of the gain in mean AP of test images over a reference, over resampled antibodies."""
    rng = np.random.default_rng(0)
    n_groups = int(reference.groups.max()) + 1
    rows_of = [np.flatnonzero(reference.groups == group) for group in range(n_groups)]
    gains = []
    for _ in range(_RESAMPLES):
        rows = np.concatenate([rows_of[group] for group in rng.integers(0, n_groups, n_groups)])
        one, other = (
            mean_average_precision(each.targets[rows], each.probabilities[rows]) for each in (system, reference)
        )
        gains.append(one - other)
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class CellScores:
    """The cells of some images that match a true cell, with what is true of them.

    Parameters
    ----------
    rows
        Row of each in the table of cells in order of image and label, shape (N,).
    image_ids
        Shape (N,).
    targets, probabilities
        Shape (N, K) each.
    """

    rows: NDArray[np.int64]
    image_ids: pd.Series
    targets: NDArray[np.bool_]
    probabilities: NDArray[np.float32]


def cell_scores(truth: Truth, work: WorkFolder, table: pd.DataFrame, image_ids: list[str]) -> CellScores:
    """Return the cells of images that match a true cell, scored by the mean over the models in a table of crops."""
    columns = class_columns(HPA28)
    mean = _mean_over_models(table)
    pairs = truth.pairs(work, image_ids)
    both = mean.assign(row=np.arange(len(mean))).merge(pairs, on=["image_id", "cell_label"])
    return CellScores(
        both["row"].to_numpy(),
        both["image_id"],
        HPA28.multi_hot(HPA28.parse(text) for text in both["target"]),
        both[columns].to_numpy(np.float32),
    )


def _mean_over_models(table: pd.DataFrame) -> pd.DataFrame:
    return table.groupby(["image_id", "cell_label"], sort=True)[class_columns(HPA28)].mean().reset_index()


def _score_cells(truth: Truth, work: WorkFolder, table: pd.DataFrame, of_images: pd.DataFrame) -> tuple[float, float]:
    """Return mean average precision and macro F1 of cells; a cell gets the labels of its image that it shows."""
    mean = _mean_over_models(table)
    first = np.flatnonzero((mean["image_id"] != mean["image_id"].shift()).to_numpy())
    predictions = of_images.loc[mean["image_id"].iloc[first]].to_numpy(bool)
    p = mean[class_columns(HPA28)].to_numpy(np.float32)
    shown = decide_cells(p, first, predictions, AggregateSection().cell_share)
    found = cell_scores(truth, work, table, list(of_images.index))
    ap = mean_average_precision(found.targets, found.probabilities)
    return ap, macro_f1(found.targets, shown[found.rows])


def retrieval(ran: Ran, job: Job, name: str, queries: int) -> dict[str, float]:
    """Return precision@1 and MAP@R of held-out crops among crops of other antibodies, as the mean over the folds.

    Each fold's crops are compared in the vector space of the model that has not seen them.
    """
    work = job.scored_on[0]
    images = read_images(work.images).merge(read_folds(work.folds), on="image_id").set_index("image_id")
    found = []
    for folder in ran.folders:
        keys = pd.read_parquet(folder / "predict" / "keys.parquet")
        own = np.flatnonzero((keys["origin"] == "oof").to_numpy())
        ids = keys["image_id"].iloc[own]
        targets = HPA28.multi_hot(images.loc[ids, "target"])
        vectors = normalise_rows(np.load(folder / "predict" / f"{name}.npy", mmap_mode="r", allow_pickle=False)[own])
        rng = np.random.default_rng(0)
        rows = np.sort(rng.choice(len(own), min(queries, len(own)), replace=False))
        groups = images.loc[ids, "group"].to_numpy(np.int64)
        found.append(asdict(score_retrieval(vectors, targets, np.ones_like(targets), groups, rows, 0.5)))
    return {str(name): float(value) for name, value in pd.DataFrame(found).mean().items()}

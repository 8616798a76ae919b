"""Score a run against the truth of its synthetic atlas, which no real data set has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.cell_labels import read_cells
from aggregate.labels import Labels
from aggregate.scoring.baselines import baselines
from crops.config import CropsSection
from hpa.metrics import macro_f1
from hpa.pixels import read_label_image
from hpa.vocabulary import Vocabulary
from hpa.work.files import read_csv
from hpa.work.folder import WorkFolder
from segment.masks import read_mask, read_masks
from segment.score import mask_average_precision, match_cells


def score_against_truth(work: WorkFolder, truth: Path) -> dict[str, Any]:
    """Score the test images of a finished run.

    Parameters
    ----------
    work
        The finished work folder.
    truth
        The folder ``truth`` of the atlas it was made from.

    Returns
    -------
    dict
        test_images, test_macro_f1, baseline_every_class, baseline_most_frequent (the best macro F1 of predicting the
        m most frequent train classes for every image, over all m), distinct_predictions; where the run has windows
        around cells, segmentation_ap50 (mean over test images); where it predicts them, test_cells, cell_macro_f1 over
        those matched at IoU 0.5, and cell_matched_share.
    """
    vocabulary = work.data.classes
    images = pd.read_csv(truth / "images.csv", dtype=str, keep_default_na=False)
    test = images[images["split"] == "test"]
    targets = _targets(test["target"], vocabulary)
    submission = pd.read_csv(work.root / "aggregate" / "submission.csv", dtype=str, keep_default_na=False)
    predicted = _targets(submission.set_index("Id").loc[test["image_id"], "Predicted"], vocabulary)
    train = _targets(images.loc[images["split"] == "train", "target"], vocabulary)
    others = baselines(Labels.all_known(targets), train.mean(axis=0))
    scores: dict[str, Any] = {
        "test_images": len(test),
        "test_macro_f1": macro_f1(targets, predicted),
        "baseline_every_class": others["every_class"]["macro_f1"],
        "baseline_most_frequent": others["most_frequent"]["macro_f1"],
        "distinct_predictions": int(submission["Predicted"].nunique()),
    }
    crops = work.section("crops", CropsSection)
    if crops.needs_masks:
        matched = _match_test_cells(work, truth, list(test["image_id"]))
        scores["segmentation_ap50"] = float(np.mean([ap for ap, _ in matched.values()]))
        if "cells" in crops.windows:
            scores |= _score_cells(work, truth, {image_id: pairs for image_id, (_, pairs) in matched.items()})
    return scores


def _targets(texts: pd.Series, vocabulary: Vocabulary) -> NDArray[np.bool_]:
    return vocabulary.multi_hot(vocabulary.parse(text) for text in texts)


def _match_test_cells(
    work: WorkFolder, truth: Path, image_ids: list[str]
) -> dict[str, tuple[float, NDArray[np.int64]]]:
    segmented = set(read_masks(work)["image_id"])
    matched = {}
    for image_id in image_ids:
        if image_id not in segmented:
            matched[image_id] = (0.0, np.empty((0, 2), dtype=np.int64))
            continue
        mask, reference = read_mask(work, image_id), read_label_image(truth / "cells" / f"{image_id}.png")
        matched[image_id] = (mask_average_precision(mask, reference), match_cells(mask, reference))
    return matched


def _score_cells(work: WorkFolder, truth: Path, matched: dict[str, NDArray[np.int64]]) -> dict[str, float | int]:
    """Hold the labels of matched cells against their own."""
    vocabulary = work.data.classes
    cells = read_true_cells(truth)
    cells = cells[cells["image_id"].isin(list(matched))]
    rows = join_matched(cells, matched)
    # A segmented cell that the crops stage dropped has no labels and counts as unmatched.
    said = read_cells(work)[["image_id", "cell_label", "predicted"]]
    rows = rows.merge(said.rename(columns={"cell_label": "predicted_label"}), on=["image_id", "predicted_label"])
    return {
        "test_cells": len(cells),
        "cell_matched_share": len(rows) / max(len(cells), 1),
        "cell_macro_f1": macro_f1(_targets(rows["target"], vocabulary), _targets(rows["predicted"], vocabulary)),
    }


def read_true_cells(truth: Path) -> pd.DataFrame:
    """Return image_id, cell_label (in the true mask) and target of every cell of a synthetic atlas."""
    cells = read_csv(truth / "cells.csv", ("image_id", "cell_label", "target"))
    return cells[["image_id", "cell_label", "target"]].astype({"cell_label": np.int64})


def join_matched(cells: pd.DataFrame, matched: Mapping[str, NDArray[np.int64]]) -> pd.DataFrame:
    """Add the column predicted_label to true cells and drop those without a match.

    Parameters
    ----------
    cells
        `read_true_cells`.
    matched
        For each image, pairs of a segmented and a true label, shape (n, 2).
    """
    pairs = pd.DataFrame(
        [(image_id, p, t) for image_id, rows in matched.items() for p, t in rows.tolist()],
        columns=["image_id", "predicted_label", "cell_label"],
    ).astype({"image_id": str, "predicted_label": np.int64, "cell_label": np.int64})
    return cells.merge(pairs, on=["image_id", "cell_label"])

"""The run of the aggregate stage: crop probabilities in; image probabilities, thresholds, scores, a submission out."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.config import AggregateSection
from aggregate.metrics import class_table, shares_far_apart, summary
from aggregate.pooling import complete, pool_images
from aggregate.thresholds import Thresholds, best_thresholds, cross_fitted_thresholds, decide, read_thresholds
from classify.probabilities import class_columns, read_probabilities
from crops.config import CropsSection
from hpa.config import read_section
from hpa.files import write_csv, write_json, write_parquet
from hpa.folds import read_folds
from hpa.images import read_images
from hpa.vocabulary import Vocabulary
from hpa.work import WorkFolder, begin


def run(work: WorkFolder, *, model: WorkFolder | None = None, overwrite: bool = False) -> int:
    """Pool, tune, score and write the submission of a work folder.

    Parameters
    ----------
    work
        The work folder; its probabilities must be there.
    model
        Another work folder whose thresholds are taken; nothing is tuned or scored then.
    overwrite
        Begin anew.

    Returns
    -------
    int
        0.

    Raises
    ------
    UserError
        If an input is missing or changed since the earlier run.
    """
    data, section = work.data, read_section(work.recipe, "aggregate", AggregateSection)
    if section.empty not in ("argmax", "blank"):
        data.classes.index(section.empty)
    folder = work.root / "aggregate"
    window = read_section(work.recipe, "crops", CropsSection).window
    inputs = {
        "images.parquet": work.images,
        f"classify/{window}/probabilities.parquet": work.root / "classify" / window / "probabilities.parquet",
    }
    inputs |= (
        {"thresholds.json": model.root / "aggregate" / "thresholds.json"} if model else {"folds.parquet": work.folds}
    )
    stage = begin(folder, f"python -m aggregate run {work.root}", data, section, inputs, overwrite=overwrite)
    images = read_images(work.images)
    pooled = pool_images(
        read_probabilities(inputs[f"classify/{window}/probabilities.parquet"], data.classes), data.classes
    )
    if model:
        thresholds = read_thresholds(inputs["thresholds.json"], data.classes)
        scored = complete(pooled, list(images["image_id"]), thresholds.prior, data.classes)
    else:
        folds = read_folds(work.folds)
        thresholds, scored = _tune(folder, section, images, folds, pooled, data.classes)
    write_parquet(folder / "images.parquet", scored)
    n_rows = _submit(folder / "submission.csv", section, images, scored, thresholds, data.classes)
    n_prior = int((scored["origin"] == "prior").sum())
    stage.finish({"images": len(scored), "prior": n_prior, "submission_rows": n_rows})
    return 0


def _tune(
    folder: Path,
    section: AggregateSection,
    images: pd.DataFrame,
    folds: pd.DataFrame,
    pooled: pd.DataFrame,
    vocabulary: Vocabulary,
) -> tuple[Thresholds, pd.DataFrame]:
    """Tune on all out-of-fold rows, score with thresholds of the other folds; a row of the prior counts too."""
    labelled = images.merge(folds, on="image_id", how="inner", validate="one_to_one")
    prior = vocabulary.multi_hot(labelled["target"]).mean(axis=0)
    scored = complete(pooled, list(images["image_id"]), prior, vocabulary)
    oof = labelled[labelled["fold"] >= 0]
    targets = vocabulary.multi_hot(oof["target"])
    scores = _scores(scored, oof["image_id"], vocabulary)
    values = best_thresholds(targets, scores)
    fitted = cross_fitted_thresholds(targets, scores, oof["fold"].to_numpy())
    honest = decide(scores, fitted, section.empty, vocabulary)
    thresholds = Thresholds(values, targets.sum(axis=0), prior, vocabulary, section.pooling, section.thresholds)
    classes = class_table(targets, honest, values, vocabulary)
    in_sample = decide(scores, values, section.empty, vocabulary)
    test_ids = images.loc[images["split"] == "test", "image_id"]
    if len(test_ids):
        test = decide(_scores(scored, test_ids, vocabulary), values, section.empty, vocabulary)
        share_oof = in_sample.mean(axis=0)  # test is decided with these thresholds, so it is compared with them
        far = shares_far_apart(share_oof, len(oof), test.mean(axis=0), len(test))
        classes = classes.assign(share_oof=share_oof, share_test=test.mean(axis=0), shares_differ=far)
    thresholds.write(folder / "thresholds.json")
    write_json(folder / "metrics.json", summary(targets, honest, in_sample, classes))
    return thresholds, scored


def _scores(scored: pd.DataFrame, image_ids: pd.Series, vocabulary: Vocabulary) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = (
        scored.set_index("image_id").loc[image_ids, class_columns(vocabulary)].to_numpy(np.float32)
    )
    return scores


def _submit(
    path: Path,
    section: AggregateSection,
    images: pd.DataFrame,
    scored: pd.DataFrame,
    thresholds: Thresholds,
    vocabulary: Vocabulary,
) -> int:
    ids = images.loc[images["split"] == "test", "image_id"]
    predicted = decide(_scores(scored, ids, vocabulary), thresholds.values, section.empty, vocabulary)
    texts = [vocabulary.format(np.flatnonzero(row)) for row in predicted]
    write_csv(path, pd.DataFrame({"Id": list(ids), "Predicted": texts}))
    return len(ids)

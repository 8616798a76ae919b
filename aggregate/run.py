"""The run of the aggregate stage: crop probabilities in; image probabilities, thresholds, scores, a submission out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.cell_labels import write_cells
from aggregate.config import AggregateSection
from aggregate.pooling.sources import Pooled, Rows, find_sources, rank_rows, read_pooled
from aggregate.results import Decided, Tuned, predictions_of, scored_images, write_scores
from aggregate.submission.write import write_submission
from aggregate.thresholds.decide import decide
from aggregate.thresholds.decision import Decision, carried, cross_fit, fit_decision
from aggregate.thresholds.file import Thresholds, read_thresholds
from crops.config import CropsSection
from hpa.config import DataSection
from hpa.errors import UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.vocabulary import Vocabulary
from hpa.work.files import write_parquet
from hpa.work.folder import WorkFolder
from hpa.work.stage import begin


def run(work: WorkFolder, *, model: WorkFolder | None = None, overwrite: bool = False, figures: bool = True) -> int:
    """Pool, tune, score and write the submission of a work folder.

    Parameters
    ----------
    work
        The work folder; its probabilities must be there.
    model
        Another work folder whose thresholds are taken; nothing is tuned or scored then.
    overwrite
        Begin anew.
    figures
        Draw them.

    Returns
    -------
    int
        0.

    Raises
    ------
    UserError
        If an input is missing, unusable or changed since the earlier run.
    """
    data, section = work.data, work.section("aggregate", AggregateSection)
    known = read_thresholds(_thresholds_path(model), data.classes) if model else None
    if known:
        section = known.section.model_copy(update={"submission": section.submission, "join": section.join})
    if section.empty not in ("argmax", "blank"):
        data.classes.index(section.empty)
    sources = find_sources(work, work.section("crops", CropsSection).windows, section)
    if known and len(sources) != len(known.decision.weights):
        raise UserError(f"expected {len(known.decision.weights)} runs, as were joined, found {len(sources)}")
    inputs = {"images.parquet": work.images}
    for source in sources:
        inputs |= source.inputs(section)
    inputs |= {"thresholds.json": _thresholds_path(model)} if model else {"folds.parquet": work.folds}
    folder = work.root / "aggregate"
    stage = begin(folder, f"python -m aggregate run {work.root}", data, section, inputs, overwrite=overwrite)
    images = read_images(work.images)
    pooled = read_pooled(sources, data.classes, section)
    pooled.check_images(list(images["image_id"]), str(work.root))
    test = _read_test(images, pooled, section)
    tuned = None if known else _tune(work, images, pooled, data)
    if tuned:
        known = _with_carried(tuned, test, data.classes, section)
        known.write(folder / "thresholds.json")
    assert known is not None
    decided = _decide_test(test, known)
    scored = scored_images(images, tuned, decided, data.classes)
    write_parquet(folder / "images.parquet", scored)
    if tuned:
        write_scores(folder, tuned, decided, known, sources, images, figures=figures)
    n_rows = write_submission(folder / "submission.csv", work, section.submission, decided.ids, decided.predictions)
    n_prior = int((scored["origin"] == "prior").sum())
    counts = {"images": len(scored), "prior": n_prior, "submission_rows": n_rows}
    if cells := next((source for source in sources if source.work is work and source.window == "cells"), None):
        path, predictions = folder / "cells.parquet", predictions_of(tuned, decided)
        counts["cells"] = write_cells(path, cells.probabilities, predictions, data.classes, section.cell_share)
    stage.finish(counts)
    return 0


@dataclass(frozen=True)
class _Test:
    ids: list[str]
    by_model: list[Rows]


def _thresholds_path(model: WorkFolder) -> Path:
    return model.root / "aggregate" / "thresholds.json"


def _read_test(images: pd.DataFrame, pooled: Pooled, section: AggregateSection) -> _Test:
    ids = list(images.loc[images["split"] == "test", "image_id"])
    by_model = pooled.by_model(ids)
    if section.join_by == "rank" and section.join:
        by_model = [rank_rows(rows, np.zeros(len(ids), dtype=np.int64)) for rows in by_model]
    return _Test(ids, by_model)


def _tune(work: WorkFolder, images: pd.DataFrame, pooled: Pooled, data: DataSection) -> Tuned:
    section = work.section("aggregate", AggregateSection)
    oof = images.merge(read_folds(work.folds), on="image_id", how="inner", validate="one_to_one")
    oof = oof[oof["scored"]]
    if oof.empty:
        raise UserError(f"expected images of a fold to tune thresholds on, found none in {work.folds}")
    ids, folds, groups = list(oof["image_id"]), oof["fold"].to_numpy(), oof["group"].to_numpy(np.int32)
    rows = pooled.out_of_fold(ids, folds)
    if section.join_by == "rank" and section.join:
        rows = rank_rows(rows, folds)
    targets = data.classes.multi_hot(oof["target"])
    labelled = ~data.classes.multi_hot(oof["unknown_classes"])
    decision = fit_decision(rows, targets, groups, section, labelled)
    in_sample = decide(decision.score(rows, section), decision.values, section.empty, data.classes) & labelled
    crossed = cross_fit(rows, targets, groups, folds, section, data.classes, labelled)
    return Tuned(ids, targets, labelled, groups, rows, decision, in_sample, crossed)


def _with_carried(tuned: Tuned, test: _Test, vocabulary: Vocabulary, section: AggregateSection) -> Thresholds:
    mean_values = None
    if test.by_model:
        mean_values = carried(tuned.decision, _model_scores(test, tuned.decision, section), section)
    mean_images = len(test.ids) if mean_values is not None else 0
    return Thresholds(tuned.decision, section, vocabulary, len(tuned.ids), mean_values, mean_images)


def _model_scores(test: _Test, decision: Decision, section: AggregateSection) -> NDArray[np.float32]:
    """Return what each model says of the test images: shape (F, N, K)."""
    return np.stack([decision.score(rows, section) for rows in test.by_model])


def _decide_test(test: _Test, known: Thresholds) -> Decided:
    k = len(known.vocabulary)
    if not test.by_model:  # no test image, or none that could be read
        scores = np.tile(known.decision.prior.astype(np.float32), (len(test.ids), 1))
        predictions = decide(scores, known.values, known.section.empty, known.vocabulary)
        return Decided(test.ids, scores.reshape(-1, k), np.zeros(len(test.ids), dtype=np.int64), predictions)
    by_model = _model_scores(test, known.decision, known.section)
    scores = by_model.mean(axis=0)
    values = carried(known.decision, by_model, known.section) if len(test.ids) >= known.mean_images else None
    values = known.stored if values is None else values
    predictions = decide(scores, values, known.section.empty, known.vocabulary)
    return Decided(test.ids, scores, test.by_model[0].n_crops, predictions)

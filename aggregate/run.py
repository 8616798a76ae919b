"""Run the aggregate stage: crop probabilities to image probabilities, thresholds, metrics and a submission."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.cell_labels import write_cells
from aggregate.config import AggregateSection
from aggregate.labels import Labels
from aggregate.named_tables import write_cells_csv, write_images_csv
from aggregate.pooling.sources import ImageScores, PooledRuns, ScoredRun, find_sources, rank_images, read_pooled
from aggregate.scoring.metrics import by_source, class_table, overall, shares_differ, summary
from aggregate.submission.write import write_submission
from aggregate.thresholds.decision import CrossFitted, Decision, cross_fit, decide, fit_decision
from aggregate.thresholds.file import Thresholds, read_thresholds
from aggregate.thresholds.methods import check_classes
from classify.probabilities import class_columns
from crops.config import CropsSection
from hpa.errors import UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.vocabulary import Vocabulary
from hpa.work.files import write_json, write_parquet
from hpa.work.folder import WorkFolder
from hpa.work.stage import begin

if TYPE_CHECKING:
    from hpa.pictures import FigureFormat


@dataclass(frozen=True)
class OutOfFoldImages:
    """Images with known labels, each scored by a model that was not trained on it.

    Parameters
    ----------
    ids
        image_id of the N images.
    labels
        Their labels.
    images
        Their scores by run and pooling.
    decision
        What was fitted on all of them.
    in_sample
        Shape (N, K), bool: predictions of that decision on the images it was fitted on.
    cross_fitted
        Scores and predictions by what was fitted on the other folds.
    """

    ids: list[str]
    labels: Labels
    images: ImageScores
    decision: Decision
    in_sample: NDArray[np.bool_]
    cross_fitted: CrossFitted


@dataclass(frozen=True)
class UnlabelledImages:
    """Images without known labels, scored and decided.

    Parameters
    ----------
    ids
        image_id of the N images.
    scores
        Shape (N, K), float32, the mean over the models.
    n_crops
        Shape (N,).
    predictions
        Shape (N, K), bool.
    """

    ids: list[str]
    scores: NDArray[np.float32]
    n_crops: NDArray[np.int64]
    predictions: NDArray[np.bool_]


def run(
    work: WorkFolder,
    *,
    model: WorkFolder | None = None,
    overwrite: bool = False,
    figures: "FigureFormat | None" = "png",
) -> int:
    """Pool crops, tune thresholds, score, and write the submission of a work folder.

    Parameters
    ----------
    work
        The work folder, with crop probabilities.
    model
        Another work folder, whose thresholds are used; nothing is tuned or scored then.
    overwrite
        Discard existing results and start over.
    figures
        Format of the figures; None draws none.

    Returns
    -------
    int
        0.

    Raises
    ------
    UserError
        If an input is missing, unusable or has changed since an earlier run.
    """
    data, section = work.data, work.section("aggregate", AggregateSection)
    thresholds = read_thresholds(_thresholds_path(model), data.classes) if model else None
    if thresholds:
        section = thresholds.section.model_copy(update={"submission": section.submission, "join": section.join})
    check_classes(section, data.classes)
    sources = find_sources(work, work.section("crops", CropsSection).windows, section)
    if thresholds and len(sources) != len(thresholds.decision.weights):
        raise UserError(f"expected {len(thresholds.decision.weights)} runs, as were joined, found {len(sources)}")
    inputs = {"images.parquet": work.images}
    for source in sources:
        inputs |= source.inputs(section)
    inputs |= {"thresholds.json": _thresholds_path(model)} if model else {"folds.parquet": work.folds}
    folder = work.root / "aggregate"
    command = f"python -m aggregate run {work.root}"
    stage = begin(folder, command, data, section, inputs, overwrite=overwrite, beside=True)
    folder = stage.folder
    images = read_images(work.images)
    pooled = read_pooled(sources, data.classes, section)
    pooled.check_images(list(images["image_id"]), str(work.root))
    test_ids = list(images.loc[images["split"] == "test", "image_id"])
    by_model = _read_test(test_ids, pooled, section)
    oof = None if thresholds else _tune(work, images, pooled)
    if oof:
        thresholds = _transfer(oof, test_ids, by_model, data.classes, section)
        thresholds.write(folder / "thresholds.json")
    assert thresholds is not None
    test = decide_images(test_ids, by_model, thresholds)
    table = image_table(images, oof, test, data.classes)
    write_parquet(folder / "images.parquet", table)
    if oof:
        write_metrics(folder, oof, test, thresholds, sources, images, figures=figures)
    n_rows = write_submission(folder / "submission.csv", work, section.submission, test.ids, test.predictions)
    n_prior = int((table["origin"] == "prior").sum())
    if without_crops := int((test.n_crops == 0).sum()):
        print(
            f"{without_crops} of {len(test.ids)} test images have no crops; they get the class frequencies of training"
        )
    counts = {"images": len(table), "prior": n_prior, "submission_rows": n_rows}
    predictions = _predictions_by_image(oof, test)
    write_images_csv(folder / "images.csv", work, images, table)
    if cells := next((source for source in sources if source.work is work and source.window == "cells"), None):
        path = folder / "cells.parquet"
        counts["cells"] = write_cells(path, cells.probabilities, predictions, data.classes, section.cell_share)
        write_cells_csv(folder / "cells.csv", path, work, images)
    outputs = [folder / "images.parquet", folder / "submission.csv"]
    stage.finish(counts, [*outputs, folder / "thresholds.json"] if oof else outputs)
    return 0


def image_table(
    images: pd.DataFrame, oof: OutOfFoldImages | None, test: UnlabelledImages, vocabulary: Vocabulary
) -> pd.DataFrame:
    """Return the content of ``images.parquet``: one row per image, in the order of the image table.

    Columns: image_id, origin (``oof``, ``test``, or ``prior`` for an image without crops), n_crops, predicted (class
    numbers separated by spaces, as in a submission; of an image of a fold, by thresholds of the other folds) and p of
    each class. Images that every model was trained on have no scores of their own: they get the prior and no class.
    """
    ids, n_crops, scores = test.ids, test.n_crops, test.scores
    origin = ["test"] * len(ids)
    prior = np.zeros(len(vocabulary), dtype=np.float32)
    if oof:
        ids, origin = oof.ids + ids, ["oof"] * len(oof.ids) + origin
        n_crops = np.concatenate([oof.images.n_crops, n_crops])
        scores = np.concatenate([oof.cross_fitted.scores, scores])
        prior = oof.decision.prior.astype(np.float32)
    table = pd.DataFrame(scores, columns=class_columns(vocabulary), index=ids).reindex(images["image_id"])
    never_held_out = table.isna().any(axis=1).to_numpy()
    table.loc[never_held_out] = prior
    crops = pd.Series(n_crops, index=ids).reindex(images["image_id"], fill_value=0).to_numpy(np.int32)
    origins = pd.Series(origin, index=ids, dtype=object).reindex(images["image_id"]).to_numpy(object)
    origins = np.where(crops > 0, origins, "prior")
    decided, none = _predictions_by_image(oof, test), np.zeros(len(vocabulary), dtype=bool)
    predicted = [vocabulary.format(np.flatnonzero(decided.get(image_id, none))) for image_id in images["image_id"]]
    head = pd.DataFrame(
        {"image_id": images["image_id"].to_numpy(), "origin": origins, "n_crops": crops, "predicted": predicted}
    )
    return pd.concat([head.astype({"origin": str, "predicted": str}), table.reset_index(drop=True)], axis=1)


def write_metrics(
    folder: Path,
    oof: OutOfFoldImages,
    test: UnlabelledImages,
    thresholds: Thresholds,
    sources: Sequence[ScoredRun],
    images: pd.DataFrame,
    *,
    figures: "FigureFormat | None",
) -> None:
    """Score the out-of-fold predictions and write ``metrics.json`` and, if wanted, the figures.

    Parameters
    ----------
    folder
        ``aggregate`` in the work folder.
    oof, test
        The images with and without known labels.
    thresholds
        Content of ``thresholds.json``.
    sources
        The joined runs; the first is that of the work folder itself.
    images
        The image table.
    figures
        Format of the figures; None draws none.
    """
    labels, predictions = oof.labels, oof.cross_fitted.predictions
    n_known = np.maximum(labels.n_known, 1)
    classes = class_table(labels, predictions, thresholds.vocabulary, oof.cross_fitted.scores).assign(
        threshold=thresholds.values,
        share_oof=predictions.sum(axis=0) / n_known,
        limit=thresholds.decision.limits.shares,
        at_chance=thresholds.decision.limits.at_chance,
    )
    if test.ids:
        share_oof, share_test = oof.in_sample.sum(axis=0) / n_known, test.predictions.mean(axis=0)
        differ = shares_differ(share_oof, n_known, share_test, len(test.ids))
        classes = classes.assign(share_oof=share_oof, share_test=share_test, shares_differ=differ)
    section = thresholds.section
    metrics = summary(
        labels,
        predictions,
        classes,
        over="groups of images (folds.parquet)",
        resamples=section.bootstrap,
        seed=sources[0].work.data.seed,
    )
    in_sample = overall(labels, oof.in_sample)["macro_f1"]
    source_of = images.set_index("image_id")["source"].loc[oof.ids].to_numpy(object)
    metrics |= {
        "macro_f1_in_sample": in_sample,
        "gap": in_sample - metrics["macro_f1"],
        "thresholds": section.thresholds,
        "transfer": section.applied_transfer,
        "checkpoint_chosen_on_scored_rows": any(source.chose_on_scored_rows for source in sources),
        "sources": by_source(labels, predictions, source_of),
    }
    write_json(folder / "metrics.json", metrics)
    if figures:
        from aggregate.scoring.figures import FigureData, draw_figures

        names = thresholds.vocabulary.classes
        run_name = sources[0].work.root.resolve().name
        data = FigureData(labels, oof.cross_fitted.scores, predictions, thresholds.values, metrics, names, run_name)
        draw_figures(folder / "figures", data, figures)


def _thresholds_path(model: WorkFolder) -> Path:
    return model.root / "aggregate" / "thresholds.json"


def _read_test(ids: list[str], pooled: PooledRuns, section: AggregateSection) -> list[ImageScores]:
    """Return the scores of the test images, once per model."""
    one = np.zeros(len(ids), dtype=np.int64)  # all were scored by the same model
    return [_as_joined(scored, one, section) for scored in pooled.by_model(ids)]


def _as_joined(scored: ImageScores, folds: NDArray[np.integer], section: AggregateSection) -> ImageScores:
    """Return ranks instead of scores if the recipe joins several runs or windows by rank."""
    return rank_images(scored, folds) if section.join_by == "rank" and len(scored.scores) > 1 else scored


def _tune(work: WorkFolder, images: pd.DataFrame, pooled: PooledRuns) -> OutOfFoldImages:
    """Fit the decision on all scored train images, and cross-fit it over the folds."""
    section, vocabulary = work.section("aggregate", AggregateSection), work.data.classes
    table = images.merge(read_folds(work.folds), on="image_id", how="inner", validate="one_to_one")
    table = table[table["scored"]]
    if table.empty:
        raise UserError(f"expected images of a fold to tune thresholds on, found none in {work.folds}")
    ids = list(table["image_id"])
    targets, unknown = (vocabulary.multi_hot(table[column]) for column in ("target", "unknown_classes"))
    labels = Labels(targets, ~unknown, table["group"].to_numpy(np.int32), table["fold"].to_numpy())
    scored = _as_joined(pooled.out_of_fold(ids, labels.folds), labels.folds, section)
    decision = fit_decision(scored, labels, section)
    in_sample = decide(decision.score(scored, section), decision.values, section.empty, vocabulary) & labels.known
    return OutOfFoldImages(ids, labels, scored, decision, in_sample, cross_fit(scored, labels, section, vocabulary))


def _transfer(
    oof: OutOfFoldImages,
    test_ids: list[str],
    by_model: list[ImageScores],
    vocabulary: Vocabulary,
    section: AggregateSection,
) -> Thresholds:
    """Return the fitted thresholds together with those for the mean of the models on the test images."""
    mean_values = None
    if by_model:
        mean_values = oof.decision.transferred_values(_model_scores(by_model, oof.decision, section), section)
    mean_images = len(test_ids) if mean_values is not None else 0
    return Thresholds(oof.decision, section, vocabulary, len(oof.ids), mean_values, mean_images)


def _model_scores(by_model: list[ImageScores], decision: Decision, section: AggregateSection) -> NDArray[np.float32]:
    """Return the scores of each model: shape (F, N, K)."""
    return np.stack([decision.score(scored, section) for scored in by_model])


def decide_images(ids: list[str], by_model: list[ImageScores], thresholds: Thresholds) -> UnlabelledImages:
    """Average the scores of the models and predict the classes of images that none of them has seen.

    Parameters
    ----------
    ids
        image_id of the N images.
    by_model
        Their pooled scores, once per model; none if no image could be read, which gives all the training frequencies.
    thresholds
        What was fitted, and how to transfer it to the mean of the models.
    """
    decision, section, vocabulary = thresholds.decision, thresholds.section, thresholds.vocabulary
    if not by_model:  # there are no test images, or none of them could be read
        scores = np.tile(decision.prior.astype(np.float32), (len(ids), 1))
        predictions = decide(scores, thresholds.values, section.empty, vocabulary)
        return UnlabelledImages(
            ids, scores.reshape(-1, len(vocabulary)), np.zeros(len(ids), dtype=np.int64), predictions
        )
    model_scores = _model_scores(by_model, decision, section)
    scores = model_scores.mean(axis=0)
    enough = len(ids) >= thresholds.mean_images
    values = decision.transferred_values(model_scores, section) if enough else None
    values = thresholds.stored_mean_values if values is None else values
    predictions = decide(scores, values, section.empty, vocabulary)
    return UnlabelledImages(ids, scores, by_model[0].n_crops, predictions)


def _predictions_by_image(oof: OutOfFoldImages | None, test: UnlabelledImages) -> dict[str, NDArray[np.bool_]]:
    """Return the predictions of every scored image, shape (K,) each, by image_id."""
    predictions = dict(zip(oof.ids, oof.cross_fitted.predictions, strict=True)) if oof else {}
    return predictions | dict(zip(test.ids, test.predictions, strict=True))

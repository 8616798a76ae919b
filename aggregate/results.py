"""What a run of the stage found, and what it writes about it: tables of images, scores, figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.pooling.sources import Rows, Source
from aggregate.scoring.metrics import by_source, class_table, overall, shares_far_apart, summary
from aggregate.thresholds.decision import CrossFitted, Decision
from aggregate.thresholds.file import Thresholds
from classify.probabilities import class_columns
from hpa.vocabulary import Vocabulary
from hpa.work.files import write_json


@dataclass(frozen=True)
class Tuned:
    """What the images with known targets gave."""

    ids: list[str]
    targets: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    """Of which classes it is known whether an image has them; the others are in no prediction."""
    groups: NDArray[np.int32]
    rows: Rows
    decision: Decision
    in_sample: NDArray[np.bool_]
    crossed: CrossFitted


@dataclass(frozen=True)
class Decided:
    """The images without known targets, decided."""

    ids: list[str]
    scores: NDArray[np.float32]
    n_crops: NDArray[np.int64]
    predictions: NDArray[np.bool_]


def predictions_of(tuned: Tuned | None, decided: Decided) -> dict[str, NDArray[np.bool_]]:
    """Return the decided labels of every image that was scored, shape (K,) each, by image_id."""
    known = dict(zip(tuned.ids, tuned.crossed.predictions, strict=True)) if tuned else {}
    return known | dict(zip(decided.ids, decided.predictions, strict=True))


def scored_images(images: pd.DataFrame, tuned: Tuned | None, decided: Decided, vocabulary: Vocabulary) -> pd.DataFrame:
    """Return one row an image that has scores or a place in the submission, in the order of the image table."""
    ids, n_crops, scores = decided.ids, decided.n_crops, decided.scores
    origin = ["test"] * len(ids)
    prior = np.zeros(len(vocabulary), dtype=np.float32)
    if tuned:
        ids, origin = tuned.ids + ids, ["oof"] * len(tuned.ids) + origin
        n_crops = np.concatenate([tuned.rows.n_crops, n_crops])
        scores = np.concatenate([tuned.crossed.scores, scores])
        prior = tuned.decision.prior.astype(np.float32)
    table = pd.DataFrame(scores, columns=class_columns(vocabulary), index=ids).reindex(images["image_id"])
    trained_on = table.isna().any(axis=1).to_numpy()  # of no fold: seen by every model
    table.loc[trained_on] = prior
    crops = pd.Series(n_crops, index=ids).reindex(images["image_id"], fill_value=0).to_numpy(np.int32)
    origins = pd.Series(origin, index=ids, dtype=object).reindex(images["image_id"]).to_numpy(object)
    origins = np.where(crops > 0, origins, "prior")
    head = pd.DataFrame({"image_id": images["image_id"].to_numpy(), "origin": origins, "n_crops": crops})
    return pd.concat([head.astype({"origin": str}), table.reset_index(drop=True)], axis=1)


def write_scores(
    folder: Path,
    tuned: Tuned,
    decided: Decided,
    known: Thresholds,
    sources: Sequence[Source],
    images: pd.DataFrame,
    *,
    figures: bool,
) -> None:
    """Score the out-of-fold decisions and write metrics.json and, where wanted, the figures.

    Parameters
    ----------
    folder
        ``aggregate`` of the work folder.
    tuned, decided
        The images with and without known targets.
    known
        The thresholds.
    sources
        The runs that were joined; the first is the work folder's own.
    images
        The image table.
    figures
        Draw them.
    """
    honest, labelled = tuned.crossed.predictions, tuned.labelled
    n_labelled = np.maximum(labelled.sum(axis=0), 1)
    classes = class_table(tuned.targets, honest, known.vocabulary, tuned.crossed.scores, labelled).assign(
        threshold=known.values, share_oof=honest.sum(axis=0) / n_labelled
    )
    if decided.ids:
        share_oof, share_test = tuned.in_sample.sum(axis=0) / n_labelled, decided.predictions.mean(axis=0)
        far = shares_far_apart(share_oof, n_labelled, share_test, len(decided.ids))
        classes = classes.assign(share_oof=share_oof, share_test=share_test, shares_differ=far)
    section = known.section
    told = summary(
        tuned.targets,
        honest,
        tuned.groups,
        classes,
        over="groups of images (folds.parquet)",
        resamples=section.bootstrap,
        seed=sources[0].work.data.seed,
        labelled=labelled,
    )
    flattering = overall(tuned.targets, tuned.in_sample, labelled)["macro_f1"]
    source_of = images.set_index("image_id")["source"].loc[tuned.ids].to_numpy(object)
    told |= {
        "macro_f1_in_sample": flattering,
        "gap": flattering - told["macro_f1"],
        "thresholds": section.thresholds,
        "transfer": section.transfer,
        "checkpoint_chosen_on_scored_rows": any(source.chose_on_scored_rows for source in sources),
        "sources": by_source(tuned.targets, honest, source_of, labelled),
    }
    write_json(folder / "metrics.json", told)
    if figures:
        from aggregate.scoring.figures import Drawn, draw_figures

        draw_figures(
            folder / "figures",
            Drawn(tuned.targets, labelled, tuned.crossed.scores, honest, known.values, told, known.vocabulary.classes),
        )

"""The best and the worst images, each with its cells ranked by probability, and Grad-CAM where it was drawn."""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd

from classify.probabilities import class_columns
from crops.store import CropStore, open_store
from hpa.errors import ImageError
from hpa.pictures import colored, composite, fitted
from hpa.pixels import read_channels
from pipeline.report.cells import crop_photos, outlined_image
from pipeline.report.evidence import Evidence, Missing
from pipeline.report.media import Photo, photo

_BEST: Final = 4
_WORST: Final = 6
_CELLS: Final = 6
_CLASSES: Final = 3


@dataclass(frozen=True)
class Verdict:
    """One class of an image.

    Parameters
    ----------
    name
        The class.
    outcome
        ``right``, ``wrong`` (predicted, not labelled), ``missed`` (labelled, not predicted) or ``predicted`` (labels
        unknown).
    probability
        Of the class.
    cells
        Its likeliest cells.
    """

    name: str
    outcome: str
    probability: float
    cells: tuple[Photo, ...]


@dataclass(frozen=True)
class Example:
    """An image, what was predicted and what is true, and its Grad-CAM if it was drawn."""

    image_id: str
    pictures: tuple[Photo, ...]
    verdicts: tuple[Verdict, ...]
    f1: float | None
    n_cells: int
    explained: Photo | None


@dataclass(frozen=True)
class Examples:
    """The part of the page: groups of images with a heading and a sentence on how they were chosen."""

    groups: tuple[tuple[str, str, tuple[Example, ...]], ...]


def make_examples(evidence: Evidence, side_px: int) -> Examples | Missing:
    """Choose and draw images.

    Parameters
    ----------
    evidence
        The work folder.
    side_px
        Longer side of a picture.
    """
    store = open_store(evidence.work, evidence.window)
    groups = []
    if len(evidence.train):
        f1, doubt = _judged(evidence)
        order = np.lexsort((-doubt, -f1))
        ids = np.array(evidence.scored.ids)
        best, worst = order[: min(_BEST, len(order) // 2)], order[::-1][: min(_WORST, (len(order) + 1) // 2)]
        chosen = [
            ("Best images", "every class right, and with the most certainty first", best),
            ("Worst images", "the fewest classes right, and the most certain errors first", worst),
        ]
        groups += [
            (title, how, tuple(_example(evidence, store, ids[row], side_px, float(f1[row])) for row in rows))
            for title, how, rows in chosen
        ]
    else:
        images = evidence.images
        ids = images.loc[images["split"] == "test", "image_id"].to_numpy(object)
        top = evidence.image_scores.loc[ids, class_columns(evidence.vocabulary)].max(axis=1).to_numpy()
        rows = np.argsort(-top, kind="stable")[:_WORST]
        how = "labels are not known, so these are the images with the highest probability of any class"
        groups.append(("Most certain images", how, tuple(_example(evidence, store, ids[row], side_px) for row in rows)))
    return Examples(tuple(groups)) if groups else Missing("there are no images with predictions")


def _judged(evidence: Evidence) -> tuple[Any, Any]:
    """Return F1 of each image, and how sure the model was of what it got right less what it got wrong."""
    scored = evidence.scored
    targets, predicted, scores = scored.labels.targets, scored.predictions & scored.labels.known, scored.scores
    hits = (targets & predicted).sum(axis=1)
    f1 = 2 * hits / np.maximum(targets.sum(axis=1) + predicted.sum(axis=1), 1)
    wrong = np.where(targets & ~predicted, 1 - scores, 0) + np.where(predicted & ~targets, scores, 0)
    right = np.where(targets & predicted, scores, 1).min(axis=1)
    return f1, right - wrong.max(axis=1)


def _example(evidence: Evidence, store: CropStore, image_id: str, side_px: int, f1: float | None = None) -> Example:
    vocabulary = evidence.vocabulary
    row = evidence.images.set_index("image_id", drop=False).loc[image_id].to_dict()
    scores = evidence.image_scores.loc[image_id, class_columns(vocabulary)].to_numpy(np.float64)
    predicted = evidence.predicted([image_id])[0]
    targets, known = vocabulary.multi_hot([row["target"]])[0], ~vocabulary.multi_hot([row["unknown_classes"]])[0]
    labelled = f1 is not None
    shown = np.flatnonzero(predicted | targets)
    shown = shown[np.argsort(-scores[shown], kind="stable")]
    with_cells = set(shown[:_CLASSES].tolist()) | set(np.flatnonzero(targets)[:_CLASSES].tolist())
    cells = _cell_scores(evidence, image_id)
    verdicts = []
    for c in shown.tolist():
        outcome = "predicted"
        if labelled and known[c]:
            outcome = "right" if predicted[c] and targets[c] else "wrong" if predicted[c] else "missed"
        photos = _likeliest(evidence, store, image_id, cells, c) if c in with_cells else ()
        verdicts.append(Verdict(vocabulary.classes[c], outcome, float(scores[c]), photos))
    explained = _explained(evidence, image_id, 2 * side_px)
    return Example(image_id, _pictures(evidence, row, side_px), tuple(verdicts), f1, len(cells), explained)


def _cell_scores(evidence: Evidence, image_id: str) -> pd.DataFrame:
    if evidence.window != "cells":
        return pd.DataFrame({"cell_label": []})
    cells = evidence.cells
    return cells[cells["image_id"] == image_id]


def _likeliest(evidence: Evidence, store: CropStore, image_id: str, cells: pd.DataFrame, c: int) -> tuple[Photo, ...]:
    """Draw the cells with the highest probability of class c, the likeliest first."""
    if not len(cells):
        return ()
    column = class_columns(evidence.vocabulary)[c]
    top = cells.nlargest(_CELLS, column)
    rows = store.rows_of(image_id)
    row_of = dict(zip(store.table["cell_label"].to_numpy()[rows].tolist(), rows.tolist(), strict=True))
    top = top[top["cell_label"].isin(list(row_of))]
    notes = [f"{evidence.vocabulary.classes[c]} {value:.2f}" for value in top[column]]
    return crop_photos(evidence, store, np.array([row_of[label] for label in top["cell_label"]], dtype=np.int64), notes)


def _explained(evidence: Evidence, image_id: str, side_px: int) -> Photo | None:
    """Return the picture that ``classify explain`` drew of an image; None if there is none."""
    path = evidence.work.root / "classify" / evidence.window / "explain" / f"{image_id}.png"
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if picture is None:
        return None
    if max(picture.shape[:2]) > side_px:
        scale = side_px / max(picture.shape[:2])
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return photo(np.asarray(picture, dtype=np.uint8), f"Grad-CAM of {image_id}: where the network sees its classes")


def _pictures(evidence: Evidence, row: dict[Any, Any], side_px: int) -> tuple[Photo, ...]:
    image_id, channels = row["image_id"], evidence.work.data.channels
    try:
        if evidence.window == "cells":
            merged = outlined_image(evidence, row, side_px)
        else:
            merged = composite(fitted(read_channels(row, channels), side_px), channels)
        pictures = [photo(merged, f"{image_id}, all channels" + (", outlines of cells" * (evidence.window == "cells")))]
        if "green" in channels:
            plane = fitted(read_channels(row, ["green"]), side_px)[0]
            pictures.append(photo(colored(plane, "green"), f"{image_id}, the protein alone"))
    except ImageError:
        return ()
    return tuple(pictures)

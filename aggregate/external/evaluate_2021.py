"""Score a submission of Kaggle 2021 (single cells) as the competition did: mean average precision at mask IoU 0.6."""

import base64
import binascii
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pycocotools import mask as coco

from aggregate.external.tables import cell_labels, parse_labels
from aggregate.submission.kaggle2021 import COLUMNS, check_cells
from hpa.errors import ImageError, UserError
from hpa.images import check_ids
from hpa.layouts.conversion import NEGATIVE, converter
from hpa.pixels import read_label_image
from hpa.vocabulary import HPA19, HPA28, Vocabulary
from hpa.work.files import read_csv_or_parquet

LEAST_IOU: Final = 0.6
"""An entry counts as right if its mask and that of a true cell of the class agree at least this well."""

_CONTINUES: Final = 0x20  # in COCO's compressed counts: bit 6 of a character says that the number goes on
_SIGN: Final = 0x10


@dataclass(frozen=True)
class CellsOfImage:
    """The true cells of an image.

    Parameters
    ----------
    masks
        Masks as pycocotools holds them: size and compressed counts.
    targets
        Shape (n, 19), bool: the classes of 2021 that each cell shows.
    """

    masks: list[dict[str, Any]]
    targets: NDArray[np.bool_]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the image, None without cells."""
        return tuple(self.masks[0]["size"]) if self.masks else None


def evaluate_submission_2021(
    submission: Path,
    truth: Path,
    masks: Path | None = None,
    vocabulary: Vocabulary = HPA28,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a submission of Kaggle 2021 against the true cells.

    For each class, the entries of all images are taken in order of their confidence. An entry is right if the true cell
    of that class with which its mask agrees best agrees by an intersection over union of at least 0.6 and was not found
    before. The average precision is the area under the precision envelope (all-point interpolation), as in the Open
    Images challenges, whose metric the competition took
    (https://storage.googleapis.com/openimages/web/evaluation.html).

    Parameters
    ----------
    submission
        A table with `aggregate.submission.kaggle2021.COLUMNS`.
    truth
        Either a table of the same form, whose confidences do not matter, or, with `masks`, a table with image_id,
        cell_label and target.
    masks
        Folder of label images, ``<image_id>.png`` or ``.tif``, whose values are the cell_label of `truth`.
    vocabulary
        Of the targets of `truth`, with `masks`. A cell without a class is `Negative`; classes that have no counterpart
        in 2021 are left out.
    resamples, seed
        Of the bootstrap over images; 0 omits the interval.

    Returns
    -------
    dict
        mean_average_precision over the classes that occur, interval (95%, over images), classes (class, cells, entries,
        average_precision), images, cells, and unscored, the number of images of the submission without truth.

    Raises
    ------
    UserError
        If a table cannot be read, an image of the truth has no row in the submission, sizes differ, or a mask is
        damaged.
    """
    predicted = _read(submission)
    true = _true_cells(truth) if masks is None else _labelled_cells(truth, masks, vocabulary)
    missing = sorted(true.keys() - set(predicted["ID"]))
    if missing:
        raise UserError(
            f"expected a row for each image of {truth} in {submission}, found none for {missing[0]} ({len(missing)}"
            " missing)"
        )
    rows = [row for row in predicted.to_dict("records") if row["ID"] in true]
    found = [_match(row, true[row["ID"]], f"{submission}, image {row['ID']}") for row in rows]
    counts = np.array([true[row["ID"]].targets.sum(axis=0) for row in rows])
    if not counts.any():
        raise UserError(f"expected a cell with a class of Kaggle 2021 in {truth}, found none")
    entries = pd.concat(found, keys=range(len(found)), names=["image"]).reset_index("image")
    entries = entries.sort_values("confidence", ascending=False, kind="stable")
    of_class = {int(own["class"].iloc[0]): own for _, own in entries.groupby("class")}
    once = np.ones(len(rows))
    values = _by_class(of_class, counts, once)
    metrics: dict[str, Any] = {
        "mean_average_precision": float(np.nanmean(values)),
        "classes": [
            {
                "class": name,
                "cells": int(counts[:, c].sum()),
                "entries": len(of_class.get(c, ())),
                "average_precision": None if np.isnan(values[c]) else float(values[c]),
            }
            for c, name in enumerate(HPA19.classes)
        ],
        "images": len(rows),
        "cells": sum(len(true[row["ID"]].masks) for row in rows),
        "unscored": len(predicted) - len(rows),
    }
    if resamples:
        rng = np.random.default_rng(seed)
        draws = (rng.multinomial(len(rows), once / len(rows)) for _ in range(resamples))
        means = [np.nanmean(drawn) for draw in draws if not np.isnan(drawn := _by_class(of_class, counts, draw)).all()]
        metrics["interval"] = [float(value) for value in np.quantile(means, [0.025, 0.975])]
    return metrics


def _by_class(
    of_class: Mapping[int, pd.DataFrame], counts: NDArray[np.int64], weights: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the average precision of every class, NaN without true cells; each image counts by its weight."""
    positives = weights @ counts
    values = np.where(positives > 0, 0.0, np.nan)
    for c, own in of_class.items():
        if positives[c] > 0:
            weight = weights[own["image"].to_numpy()]
            values[c] = _average_precision(own["right"].to_numpy() * weight, weight, positives[c])
    return values


def _average_precision(right: NDArray[np.float64], weight: NDArray[np.float64], positives: float) -> float:
    hits = np.cumsum(right)
    precision = hits / np.maximum(np.cumsum(weight), 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(hits, prepend=0) * envelope).sum() / positives)


def _read(path: Path) -> pd.DataFrame:
    table = read_csv_or_parquet(path, COLUMNS).fillna("").astype(str)
    check_ids(list(table["ID"]), str(path))
    for column in COLUMNS[1:3]:
        wrong = table.loc[~table[column].str.fullmatch(r"[1-9][0-9]{0,5}"), column]
        if len(wrong):
            raise UserError(f"expected a number of pixels as {column} in {path}, found {wrong.iloc[0]!r}")
    check_cells(table)
    return table


def _true_cells(path: Path) -> dict[str, CellsOfImage]:
    """Read true cells from a table of the same form as a submission; equal masks are one cell."""
    cells = {}
    for row in _read(path).to_dict("records"):
        words = row["PredictionString"].split()
        texts = list(dict.fromkeys(words[2::3]))
        targets = np.zeros((len(texts), len(HPA19)), dtype=bool)
        for c, text in zip(words[::3], words[2::3], strict=True):
            targets[texts.index(text), int(c)] = True
        cells[row["ID"]] = CellsOfImage(_unpack(texts, row, f"{path}, image {row['ID']}"), targets)
    return cells


def _labelled_cells(path: Path, masks: Path, vocabulary: Vocabulary) -> dict[str, CellsOfImage]:
    """Read true cells from a table of labels and a folder of label images."""
    table = read_csv_or_parquet(path, ["image_id", "cell_label", "target"])
    table = table.assign(image_id=table["image_id"].astype(str), cell_label=cell_labels(table, path))
    check_ids(list(dict.fromkeys(table["image_id"])), str(path))
    if (repeated := table.duplicated(["image_id", "cell_label"])).any():
        row = table[repeated].iloc[0]
        raise UserError(f"expected every cell once in {path}, found cell {row.cell_label} of {row.image_id} twice")
    convert = converter(vocabulary, HPA19)
    cells = {}
    for image_id, own in table.groupby("image_id", sort=False):
        labels = _read_labels(masks, str(image_id))
        encoded, targets = [], np.zeros((len(own), len(HPA19)), dtype=bool)
        for k, (cell, text) in enumerate(zip(own["cell_label"], own["target"], strict=True)):
            where = f"{path}, image {image_id}, cell {cell}"
            mask = labels == cell
            if cell <= 0 or not mask.any():
                raise UserError(f"expected a cell_label of the label image, found none ({where})")
            target = parse_labels(text, vocabulary, where)
            classes = convert(target).target if target else (HPA19.index(NEGATIVE),)
            targets[k, list(classes)] = True
            encoded.append(coco.encode(np.asfortranarray(mask, dtype=np.uint8)))
        cells[str(image_id)] = CellsOfImage(encoded, targets)
    return cells


def _read_labels(folder: Path, image_id: str) -> NDArray[np.uint16]:
    for suffix in (".png", ".tif", ".tiff"):
        path = folder / f"{image_id}{suffix}"
        if path.is_file():
            try:
                return read_label_image(path)
            except ImageError as error:
                raise UserError(f"expected a label image at {path}, found: {error}") from None
    raise UserError(f"expected a label image {image_id}.png or .tif in {folder}, found none")


def _match(row: Mapping[Hashable, Any], true: CellsOfImage, where: str) -> pd.DataFrame:
    """Return class, confidence and rightness of every entry of an image."""
    words = row["PredictionString"].split()
    classes, confidences = np.array(words[::3], dtype=np.int64), np.array(words[1::3], dtype=np.float64)
    texts = list(dict.fromkeys(words[2::3]))  # the same mask stands once for each class
    number = {text: k for k, text in enumerate(texts)}
    mask_of = np.array([number[text] for text in words[2::3]], dtype=np.int64)
    right = np.zeros(len(classes), dtype=bool)
    found = _unpack(texts, row, where)
    if true.size is not None and true.size != (int(row["ImageHeight"]), int(row["ImageWidth"])):
        raise UserError(
            f"expected {true.size[1]} x {true.size[0]} px, the size of the true masks, found {row['ImageWidth']} x"
            f" {row['ImageHeight']} ({where})"
        )
    if found and true.masks:
        overlap = coco.iou(found, true.masks, [0] * len(true.masks))
        taken: set[tuple[int, int]] = set()
        for k in np.argsort(-confidences, kind="stable"):
            own = np.flatnonzero(true.targets[:, classes[k]])
            if len(own):
                best = int(own[np.argmax(overlap[mask_of[k], own])])
                key = int(classes[k]), best
                if overlap[mask_of[k], best] >= LEAST_IOU and key not in taken:
                    taken.add(key)
                    right[k] = True
    return pd.DataFrame({"class": classes, "confidence": confidences, "right": right})


def _unpack(texts: Sequence[str], row: Mapping[Hashable, Any], where: str) -> list[dict[str, Any]]:
    """Return packed masks as pycocotools holds them, after checking that they have the size of the image.

    pycocotools itself reads beyond its memory where counts do not add up to the size.
    """
    height, width = int(row["ImageHeight"]), int(row["ImageWidth"])
    found = []
    for text in texts:
        try:
            counts = _inflate(base64.b64decode(text, validate=True), 8 * (height * width + 1))
        except (binascii.Error, zlib.error, ValueError):
            counts = b""
        runs = _runs(counts)
        if min(runs, default=-1) < 0 or sum(runs) != height * width:
            raise UserError(
                f"expected masks of {width} x {height} px, compressed as COCO does, found another ({where})"
            )
        found.append({"size": [height, width], "counts": counts})
    return found


def _inflate(data: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    counts = stream.decompress(data, most)
    if not stream.eof:
        raise ValueError("too long")
    return counts


def _runs(counts: bytes) -> list[int]:
    """Return the run lengths of compressed counts: five bits a character, the lowest first; from the fourth on, the
    difference from the run before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        group = character - 48
        if not 0 <= group < 64:
            return []
        value |= (group & 0x1F) << shift
        shift += 5
        if not group & _CONTINUES:
            value -= (1 << shift) if group & _SIGN else 0
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
        elif shift > 30:  # longer than any image
            return []
    return runs if shift == 0 else []

"""Score predicted masks against reference masks; Cellpose matches the cells.

A predicted and a reference cell match if their intersection over union (IoU) reaches a threshold. At that threshold,
the average precision of an image is TP / (TP + FP + FN), reported as the mean over images, and F1 is
2 TP / (2 TP + FP + FN), pooled over all cells.

Sources: Caicedo et al., 2018 Data Science Bowl (Nature Methods 2019); Schmidt et al., StarDist (2018); Stringer et
al., Cellpose (2021).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.errors import ImageError, UserError
from hpa.pixels import read_plane
from segment.external_masks import find_external_masks, read_external_mask
from segment.network.cellpose import average_precision, mask_ious

Labels = NDArray[np.integer[Any]]

THRESHOLDS: Final = (0.5, 0.75, 0.9)
"""IoU thresholds at which scores are reported."""

_RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Counts:
    """Numbers of matched cells (TP), of predicted (FP) and of reference cells without a match (FN)."""

    tp: int
    fp: int
    fn: int

    @property
    def mask_average_precision(self) -> float:
        """TP / (TP + FP + FN); 1 if there are neither predicted nor reference cells."""
        total = self.tp + self.fp + self.fn
        return self.tp / total if total else 1.0

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 if there are neither predicted nor reference cells."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else 1.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)


def count_matches(predicted: Labels, truth: Labels, thresholds: Sequence[float] = THRESHOLDS) -> list[Counts]:
    """Count matched and unmatched cells of two label images at each threshold.

    Parameters
    ----------
    predicted, truth
        Shape (H, W), 0 for background; labels need not be consecutive.
    thresholds
        Minimum intersection over union of a match, above 0.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    (found, predicted), (wanted, truth) = _consecutive(predicted, truth)
    if not len(found) or not len(wanted):
        return [Counts(0, len(found), len(wanted)) for _ in thresholds]
    _, tp, fp, fn = average_precision([truth], [predicted], threshold=list(thresholds))
    return [Counts(*map(int, counts)) for counts in zip(tp[0], fp[0], fn[0], strict=True)]


def match_cells(predicted: Labels, truth: Labels, iou: float = 0.5) -> NDArray[np.int64]:
    """Match the cells of two label images so that each is matched at most once.

    Parameters
    ----------
    predicted, truth
        Shape (H, W), 0 for background; labels need not be consecutive.
    iou
        Minimum intersection over union of a match, at least 0.5.

    Returns
    -------
    ndarray
        Shape (n, 2), predicted and reference label of each match, sorted. The number of matches is maximal, and among
        all such selections the sum of IoU is maximal.

    Raises
    ------
    ValueError
        If `iou` is not in [0.5, 1], or if the shapes differ.

    Examples
    --------
    >>> predicted = np.array([[5, 5, 5, 2, 3, 0]])
    >>> truth = np.array([[1, 1, 2, 2, 0, 7]])
    >>> match_cells(predicted, truth)
    array([[2, 2],
           [5, 1]])
    """
    if not 0.5 <= iou <= 1:
        raise ValueError(f"expected an IoU threshold in [0.5, 1], found {iou}")
    (found, predicted), (wanted, truth) = _consecutive(predicted, truth)
    if not len(found) or not len(wanted):
        return np.empty((0, 2), np.int64)
    # The best assignment at 0.5 holds every pair above 0.5, because no other pair of these cells can reach 0.5.
    ious, partners = mask_ious(truth, predicted)
    matched = np.flatnonzero(ious >= iou)
    pairs = np.stack([found[partners[matched] - 1], wanted[matched]], axis=1)
    return pairs[np.lexsort(pairs.T[::-1])]


def _consecutive(*images: Labels) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the labels of each image, and its pixels, flat, with labels 1..n and a background pixel added.

    Cellpose forms all pairs of labels up to the highest, and takes the lowest label that occurs for background.
    """
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"expected label images of one shape, found {' and '.join(str(i.shape) for i in images)}")
    values = (np.unique(np.append(image, 0).astype(np.int64), return_inverse=True) for image in images)
    return [(labels[1:], pixels) for labels, pixels in values]


def mask_average_precision(predicted: Labels, truth: Labels, iou: float = 0.5) -> float:
    """Compute TP / (TP + FP + FN) of one image at an IoU threshold."""
    return count_matches(predicted, truth, [iou])[0].mask_average_precision


def score_images(images: Iterable[tuple[str, Labels, Labels]]) -> pd.DataFrame:
    """Score several images at each of `THRESHOLDS`.

    Parameters
    ----------
    images
        Image id, predicted labels and reference labels of each image.

    Returns
    -------
    DataFrame
        One row per image and threshold: image_id, iou, tp, fp, fn, ap.
    """
    rows = []
    for image_id, predicted, truth in images:
        for iou, counts in zip(THRESHOLDS, count_matches(predicted, truth), strict=True):
            rows.append((image_id, iou, counts.tp, counts.fp, counts.fn, counts.mask_average_precision))
    return pd.DataFrame(rows, columns=["image_id", "iou", "tp", "fp", "fn", "ap"])


def summarise(scores: pd.DataFrame, *, seed: int = 0, resamples: int = _RESAMPLES) -> pd.DataFrame:
    """Average the scores of several images, with confidence intervals.

    Parameters
    ----------
    scores
        Table returned by `score_images`, with at least one image.
    seed, resamples
        Seed and number of resamples of the bootstrap.

    Returns
    -------
    DataFrame
        One row per threshold: iou, images, cells (of the reference), mean_ap, pooled_f1 and, for both scores, the
        bounds of the 95% interval of a bootstrap over cells: mean_ap_low, mean_ap_high, pooled_f1_low, pooled_f1_high.
    """
    rows = []
    for iou, part in scores.groupby("iou"):
        counts = [Counts(*row) for row in part[["tp", "fp", "fn"]].itertuples(index=False)]
        pooled = sum(counts, start=Counts(0, 0, 0))
        ap, f1 = _bootstrap(counts, np.random.default_rng(seed), resamples)
        rows.append(
            (iou, len(part), pooled.tp + pooled.fn, part["ap"].mean(), *_interval(ap), pooled.f1, *_interval(f1))
        )
    columns = ["iou", "images", "cells", "mean_ap", "mean_ap_low", "mean_ap_high"]
    return pd.DataFrame(rows, columns=[*columns, "pooled_f1", "pooled_f1_low", "pooled_f1_high"])


def _bootstrap(
    counts: Sequence[Counts], rng: np.random.Generator, resamples: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Each cell is a true positive, a false positive or a false negative, so resampling the cells of an image means
    # drawing these three counts from a multinomial distribution.
    tp, fp, fn = np.zeros(resamples), np.zeros(resamples), np.zeros(resamples)
    ap = np.zeros(resamples)
    for one in counts:
        total = one.tp + one.fp + one.fn
        if not total:
            ap += one.mask_average_precision
            continue
        drawn = rng.multinomial(total, np.array([one.tp, one.fp, one.fn]) / total, size=resamples)
        ap += drawn[:, 0] / total
        tp, fp, fn = tp + drawn[:, 0], fp + drawn[:, 1], fn + drawn[:, 2]
    cells = 2 * tp + fp + fn
    return ap / len(counts), np.divide(2 * tp, cells, out=np.ones(resamples), where=cells > 0)


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def score_folders(masks: Path, reference: Path) -> str:
    """Score the label images of one folder against those of another.

    Parameters
    ----------
    masks
        Folder of predicted label images ``<id>.png``.
    reference
        Folder of reference label images (`segment.external_masks.find_external_masks`); each needs a prediction of the
        same size.

    Returns
    -------
    str
        A table with one row per image, and a table that summarises all images.

    Raises
    ------
    UserError
        If a folder has no label images, a prediction is missing, or sizes differ.
    """
    references = find_external_masks(reference)
    triples: list[tuple[str, Labels, Labels]] = []
    for image_id in references.image_ids():
        path = references.cells_path(image_id)
        assert path is not None
        try:
            found = read_plane(masks / f"{image_id}.png")
            triples.append((image_id, found, read_external_mask(path, (found.shape[0], found.shape[1]))))
        except ImageError as error:
            raise UserError(
                f"expected a label image of {image_id} in {masks} and in {reference}, found: {error}"
            ) from None
    scores = score_images(triples)
    precisions = scores.pivot(index="image_id", columns="iou", values="ap").add_prefix("AP@")
    counts = scores[scores["iou"] == scores["iou"].min()].set_index("image_id")[["tp", "fp", "fn"]]
    per_image = precisions.join(counts).reset_index()
    return f"{_format(per_image)}\n\n{_format(summarise(scores))}"


def _format(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format=lambda value: f"{value:.3f}")

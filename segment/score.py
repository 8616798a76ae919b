"""Score predicted masks against reference masks, with the measures of Cellpose and StarDist.

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
from scipy.optimize import linear_sum_assignment

from hpa.errors import ImageError, UserError
from hpa.pixels import read_plane

Labels = NDArray[np.integer[Any]]

THRESHOLDS: Final = (0.5, 0.75, 0.9)
"""IoU thresholds at which scores are reported."""

_MASK: Final = "_mask"
_RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Overlaps:
    """All pairs of a predicted and a reference cell that share at least one pixel.

    Parameters
    ----------
    predicted, truth
        Shape (n,), the labels of each pair.
    iou
        Shape (n,), intersection over union of each pair, in (0, 1].
    n_predicted, n_truth
        Number of cells in each label image.
    """

    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]
    iou: NDArray[np.float64]
    n_predicted: int
    n_truth: int


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


def overlaps(predicted: Labels, truth: Labels) -> Overlaps:
    """Compute the intersection over union of all overlapping cells of two label images.

    Only pairs that share a pixel are formed, so memory grows with the number of pixels and not with n x m.

    Parameters
    ----------
    predicted, truth
        Shape (H, W), 0 for background; labels need not be consecutive.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"expected label images of one shape, found {predicted.shape} and {truth.shape}")
    labels_p, at_p, areas_p = np.unique(predicted, return_inverse=True, return_counts=True)
    labels_t, at_t, areas_t = np.unique(truth, return_inverse=True, return_counts=True)
    pairs, shared = np.unique(at_p.ravel().astype(np.int64) * len(labels_t) + at_t.ravel(), return_counts=True)
    p, t = np.divmod(pairs, len(labels_t))
    cells = (labels_p[p] != 0) & (labels_t[t] != 0)
    p, t, shared = p[cells], t[cells], shared[cells]
    return Overlaps(
        predicted=labels_p[p].astype(np.int64),
        truth=labels_t[t].astype(np.int64),
        iou=shared / (areas_p[p] + areas_t[t] - shared),
        n_predicted=int((labels_p != 0).sum()),
        n_truth=int((labels_t != 0).sum()),
    )


def matches(pairs: Overlaps, iou: float = 0.5) -> NDArray[np.int64]:
    """Select matches from overlapping pairs so that each cell is matched at most once.

    Parameters
    ----------
    pairs
        The overlaps of two label images.
    iou
        Minimum intersection over union of a match, above 0.

    Returns
    -------
    ndarray
        Shape (n, 2), predicted and reference label of each match, sorted. The number of matches is maximal, and among
        all such selections the sum of IoU is maximal.

    Raises
    ------
    ValueError
        If `iou` is not in (0, 1].
    """
    if not 0 < iou <= 1:
        raise ValueError(f"expected an IoU threshold in (0, 1], found {iou}")
    above = pairs.iou >= iou
    candidates = np.stack([pairs.predicted[above], pairs.truth[above]], axis=1)
    if len(candidates) and any(np.unique(side, return_counts=True)[1].max() > 1 for side in candidates.T):
        # A cell can have two candidates only at thresholds of 0.5 and below.
        candidates = candidates[_assign(candidates, pairs.iou[above])]
    return candidates[np.lexsort(candidates.T[::-1])]


def _assign(candidates: NDArray[np.int64], iou: NDArray[np.float64]) -> NDArray[np.intp]:
    sides = [np.unique(side, return_inverse=True) for side in candidates.T]
    (rows, at_row), (columns, at_column) = sides
    gain = np.zeros((len(rows), len(columns)))
    # The constant makes one more match outweigh any sum of IoU.
    gain[at_row, at_column] = 1 + iou / (2 * min(gain.shape))
    which = np.full(gain.shape, -1)
    which[at_row, at_column] = np.arange(len(candidates))
    chosen: NDArray[np.intp] = which[linear_sum_assignment(gain, maximize=True)]
    return chosen[chosen >= 0]


def match_cells(predicted: Labels, truth: Labels, iou: float = 0.5) -> NDArray[np.int64]:
    """Match the cells of two label images.

    Parameters
    ----------
    predicted, truth
        Shape (H, W), 0 for background.
    iou
        Minimum intersection over union of a match, above 0.

    Returns
    -------
    ndarray
        Shape (n, 2), predicted and reference label of each match.

    Examples
    --------
    >>> predicted = np.array([[5, 5, 5, 2, 3, 0]])
    >>> truth = np.array([[1, 1, 2, 2, 0, 7]])
    >>> match_cells(predicted, truth)
    array([[2, 2],
           [5, 1]])
    """
    return matches(overlaps(predicted, truth), iou)


def count_matches(pairs: Overlaps, iou: float = 0.5) -> Counts:
    """Count matched and unmatched cells at a threshold."""
    tp = len(matches(pairs, iou))
    return Counts(tp, pairs.n_predicted - tp, pairs.n_truth - tp)


def mask_average_precision(predicted: Labels, truth: Labels, iou: float = 0.5) -> float:
    """Compute TP / (TP + FP + FN) of one image at an IoU threshold."""
    return count_matches(overlaps(predicted, truth), iou).mask_average_precision


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
        pairs = overlaps(predicted, truth)
        for iou in THRESHOLDS:
            counts = count_matches(pairs, iou)
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
        Folder of reference label images ``<id>_mask.png`` or ``<id>.png``; each needs a prediction of the same size.

    Returns
    -------
    str
        A table with one row per image, and a table that summarises all images.

    Raises
    ------
    UserError
        If a folder has no label images, a prediction is missing, or sizes differ.
    """
    references = {path.stem.removesuffix(_MASK): path for path in sorted(reference.glob("*.png"))}
    if not references:
        raise UserError(f"expected label images <id>{_MASK}.png or <id>.png in {reference}, found none")
    triples = []
    for image_id, path in references.items():
        try:
            triples.append((image_id, read_plane(masks / f"{image_id}.png"), read_plane(path)))
        except ImageError as error:
            raise UserError(
                f"expected a label image of {image_id} in {masks} and in {reference}, found: {error}"
            ) from None
        found, wanted = (labels.shape for labels in triples[-1][1:])
        if found != wanted:
            raise UserError(f"expected label images of one size for {image_id}, found {found} and {wanted}")
    scores = score_images(triples)
    precisions = scores.pivot(index="image_id", columns="iou", values="ap").add_prefix("AP@")
    counts = scores[scores["iou"] == scores["iou"].min()].set_index("image_id")[["tp", "fp", "fn"]]
    per_image = precisions.join(counts).reset_index()
    return f"{_format(per_image)}\n\n{_format(summarise(scores))}"


def _format(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format=lambda value: f"{value:.3f}")

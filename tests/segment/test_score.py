"""Compare matches and scores with naive loops and literals."""

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from hpa.errors import UserError
from hpa.pixels import write_label_image
from segment.score import (
    Counts,
    count_matches,
    mask_average_precision,
    match_cells,
    score_folders,
    score_images,
    summarise,
)

Labels = NDArray[np.integer[Any]]


def naive_iou(predicted: Labels, truth: Labels) -> dict[tuple[int, int], float]:
    ious = {}
    for p in set(predicted.ravel().tolist()) - {0}:
        for t in set(truth.ravel().tolist()) - {0}:
            shared = ((predicted == p) & (truth == t)).sum()
            if shared:
                ious[p, t] = float(shared / ((predicted == p) | (truth == t)).sum())
    return ious


small = arrays(np.uint16, (4, 5), elements=st.integers(0, 3))


@given(small, small, st.sampled_from([0.5, 0.6, 0.75]))
@settings(max_examples=60)
def test_matches_are_the_best_of_all_assignments(predicted: Labels, truth: Labels, iou: float) -> None:
    ious = {pair: value for pair, value in naive_iou(predicted, truth).items() if value >= iou}
    best = max(
        (
            (
                sum(pair in ious for pair in enumerate(order, start=1)),
                sum(ious.get(p, 0.0) for p in enumerate(order, 1)),
            )
            for order in permutations(range(1, 4))
        ),
    )
    matched = match_cells(predicted, truth, iou)
    assert all((p, t) in ious for p, t in matched.tolist())
    assert len(set(matched[:, 0])) == len(set(matched[:, 1])) == len(matched)
    assert (len(matched), sum(ious[p, t] for p, t in matched.tolist())) == pytest.approx(best)
    n_predicted, n_truth = (len(set(labels.ravel().tolist()) - {0}) for labels in (predicted, truth))
    assert count_matches(predicted, truth, [iou]) == [Counts(best[0], n_predicted - best[0], n_truth - best[0])]


def test_literal_scores() -> None:
    truth = np.array([[1, 1, 2, 2, 0, 7]])
    predicted = np.array([[5, 5, 5, 2, 3, 0]])  # IoU 5-1: 2/3, 2-2: 1/2, 3: nothing
    assert match_cells(predicted, truth, 0.5).tolist() == [[2, 2], [5, 1]]
    assert match_cells(predicted, truth, 0.6).tolist() == [[5, 1]]
    assert mask_average_precision(predicted, truth, 0.5) == 2 / 4
    assert count_matches(predicted, truth, [0.6]) == [Counts(tp=1, fp=2, fn=2)]


def test_images_without_cells() -> None:
    nothing, one = np.zeros((3, 3), dtype=np.uint16), np.eye(3, dtype=np.uint16)
    assert mask_average_precision(nothing, nothing) == 1
    assert mask_average_precision(one, nothing) == mask_average_precision(nothing, one) == 0
    assert match_cells(nothing, one).shape == (0, 2)


def test_high_labels_and_images_without_background_change_no_score() -> None:
    """Cells are counted although no pixel is background, and labels up to 65,535 take no memory of their own."""
    truth = np.array([[1, 1, 2, 2]], np.uint16)
    predicted = np.array([[65_535, 65_535, 40_000, 7]], np.uint16)
    assert count_matches(predicted, truth, [0.5, 0.75]) == [Counts(2, 1, 0), Counts(1, 2, 1)]
    assert match_cells(predicted, truth).tolist() in ([[7, 2], [65_535, 1]], [[40_000, 2], [65_535, 1]])


def test_different_shapes_and_invalid_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        count_matches(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="threshold"):
        match_cells(np.zeros((2, 2), int), np.zeros((2, 2), int), 0.0)


def test_summary_averages_images_and_pools_cells() -> None:
    truth = np.array([[1, 2, 3, 4]])
    images = [("a", truth, truth), ("b", np.array([[1, 0, 0, 0]]), np.array([[1, 2, 0, 0]]))]
    half = summarise(score_images(images)).iloc[0]
    assert half["mean_ap"] == pytest.approx((1 + 0.5) / 2)
    assert half["pooled_f1"] == pytest.approx(2 * 5 / (2 * 5 + 1))
    assert half["pooled_f1_low"] <= half["pooled_f1"] <= half["pooled_f1_high"] <= 1
    assert (half["images"], half["cells"]) == (2, 6)


def test_folders_are_matched_by_name(tmp_path: Path) -> None:
    labels = np.array([[1, 1, 0], [0, 2, 2]])
    write_label_image(tmp_path / "masks" / "a.png", labels)
    write_label_image(tmp_path / "masks" / "not scored.png", labels)
    write_label_image(tmp_path / "reference" / "a_mask.png", labels)
    assert "1.000" in score_folders(tmp_path / "masks", tmp_path / "reference")
    write_label_image(tmp_path / "reference" / "b.png", labels)
    with pytest.raises(UserError, match=r"label image of b .* missing file b\.png"):
        score_folders(tmp_path / "masks", tmp_path / "reference")
    write_label_image(tmp_path / "masks" / "b.png", labels)
    write_label_image(tmp_path / "masks" / "c.png", labels)
    write_label_image(tmp_path / "reference" / "b_nuclei.png", labels)
    tifffile.imwrite(tmp_path / "reference" / "c_cp_masks.tif", np.zeros((2, 3), np.int32))
    per_image = score_folders(tmp_path / "masks", tmp_path / "reference").splitlines()[1:4]
    assert [line.split()[:2] for line in per_image] == [["a", "1.000"], ["b", "1.000"], ["c", "0.000"]]
    write_label_image(tmp_path / "masks" / "b.png", labels[:, :2])
    with pytest.raises(UserError, match="the image's size"):
        score_folders(tmp_path / "masks", tmp_path / "reference")
    with pytest.raises(UserError, match="found none"):
        score_folders(tmp_path / "masks", tmp_path)

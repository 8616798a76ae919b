import base64
import zlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregate.submission.kaggle2021 import (
    COLUMNS,
    cell_table,
    join_classes,
    pack_cells,
    pack_frame,
)
from classify.probabilities import class_columns
from hpa.errors import ImageError, UserError
from hpa.vocabulary import HPA19, HPA28, JOVIAN10
from tests.aggregate.single_cell_map import decode, mean_average_precision, parse


def _counts(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))


def test_masks_are_encoded_as_coco_describes() -> None:
    """Runs of 0 and 1 go down the columns; 100 is 00100 and 00011 in groups of five bits, lowest first."""
    labels = np.zeros((3, 3), np.uint16)
    labels[1:, 1] = 1
    assert _counts(dict(pack_cells(labels))[1]) == b"423"  # runs of 4, 2 and 3
    falling = np.array([[0, 1, 1, 0, 1]], np.uint16).T
    assert _counts(dict(pack_cells(falling))[1]) == b"121O"  # runs of 1, 2, 1, 1: the fourth is stored as 1 - 2
    assert _counts(pack_frame(10, 10)) == b"0T3"


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_random_cells_decode_to_their_masks(seed: int, height: int, width: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, (height, width)).astype(np.uint16)
    packed = dict(pack_cells(labels))
    assert set(packed) == set(np.unique(labels)) - {0}
    for label, text in packed.items():
        np.testing.assert_array_equal(decode(text, height, width), labels == label)


def _labels(seed: int = 0, size: int = 96) -> np.ndarray:
    """Return a label image of discs; later discs cover earlier ones, and the border cuts some."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.uint16)
    for label in range(1, 8):
        row, column = draw.integers(0, size, 2)
        labels[(rows - row) ** 2 + (columns - column) ** 2 < draw.integers(8, 20) ** 2] = label
    return labels


def test_every_packed_cell_decodes_to_its_mask() -> None:
    labels = _labels()
    packed = dict(pack_cells(labels))
    assert set(packed) == set(np.unique(labels)) - {0}
    for label, text in packed.items():
        np.testing.assert_array_equal(decode(text, 96, 96), labels == label)
    np.testing.assert_array_equal(decode(pack_frame(5, 7), 5, 7), np.ones((5, 7)))


OF_2018 = {
    **{c: {c} for c in range(8)},
    **{8: {11}, 9: {12, 13}, 10: {14}, 11: {17}, 12: {18, 19}, 13: {21, 22}, 14: {23}, 15: {24}, 16: {25}},
    17: {26, 20, 8, 9, 10},
}
"""Known mapping: the classes of 2018 that each class of 2021 contains. 18, Negative, contains none."""


def test_the_classes_of_2021_are_maxima_over_those_of_2018() -> None:
    probabilities = np.random.default_rng(0).random((4, 28)).astype(np.float32)
    joined = join_classes(probabilities, HPA28)
    assert joined.shape == (4, 19)
    for c, members in OF_2018.items():
        np.testing.assert_array_equal(joined[:, c], probabilities[:, sorted(members)].max(axis=1))
    np.testing.assert_array_equal(joined[:, 18], 1 - joined[:, :18].max(axis=1))


def test_a_model_of_the_2021_classes_keeps_them() -> None:
    probabilities = np.random.default_rng(0).random((4, 19))
    np.testing.assert_array_equal(join_classes(probabilities, HPA19), probabilities)


def test_ten_classes_do_not_cover_those_of_2021() -> None:
    with pytest.raises(UserError, match="found none for 'Nuclear membrane' in jovian10"):
        join_classes(np.zeros((1, 10)), JOVIAN10)


def _world() -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray], dict[str, list[tuple[np.ndarray, set[int]]]]]:
    draw = np.random.default_rng(3)
    masks = {name: _labels(seed) for seed, name in enumerate("ab")}
    rows: list[tuple[Any, ...]] = []
    truth: dict[str, list[tuple[np.ndarray, set[int]]]] = {}
    for name, labels in masks.items():
        truth[name] = []
        for label in np.unique(labels)[1:]:
            classes = {int(c) for c in draw.choice(28, 2, replace=False)} - {15, 16, 27}
            values = np.where(np.isin(np.arange(28), list(classes)), 0.9, 0.1) + draw.uniform(-0.05, 0.05, 28)
            rows.append((name, int(label), *values))
            joined = {c for c, members in OF_2018.items() if classes & members}
            truth[name].append((labels == label, joined))
    cells = pd.DataFrame(rows, columns=["image_id", "cell_label", *class_columns(HPA28)])
    images = pd.DataFrame({"image_id": ["b", "a"], "height_px": [96, 96], "width_px": [96, 96]})
    return images, cells, masks, truth


def test_the_submission_scores_like_its_cells() -> None:
    images, cells, masks, truth = _world()
    table = cell_table(images, cells, class_columns(HPA28), HPA28, lambda i: masks[i])
    assert tuple(table.columns) == COLUMNS
    assert list(table["ID"]) == ["b", "a"]
    strings = dict(zip(table["ID"], table["PredictionString"], strict=True))
    assert {c for c, _, _ in parse(strings["a"])} == set(range(19))
    assert len(parse(strings["a"])) == 19 * (len(np.unique(masks["a"])) - 1)
    assert mean_average_precision(strings, truth) == pytest.approx(1.0)
    # Masks of half the width do not match at IoU 0.6, and inverted confidences rank the wrong cells first.
    thin = {name: np.where(np.arange(96) % 2, labels, 0).astype(np.uint16) for name, labels in masks.items()}
    table = cell_table(images, cells, class_columns(HPA28), HPA28, lambda i: thin[i])
    assert mean_average_precision(dict(zip(table["ID"], table["PredictionString"], strict=True)), truth) == 0
    inverted = cells.copy()
    inverted[class_columns(HPA28)] = 1 - cells[class_columns(HPA28)]
    table = cell_table(images, inverted, class_columns(HPA28), HPA28, lambda i: masks[i])
    assert mean_average_precision(dict(zip(table["ID"], table["PredictionString"], strict=True)), truth) < 0.5


def test_images_without_cells_or_masks() -> None:
    images, cells, masks, _ = _world()
    images = pd.concat([images, pd.DataFrame({"image_id": ["c", "d"], "height_px": [5, 6], "width_px": [7, 8]})])
    frame = cells.iloc[:1].assign(image_id="c", cell_label=0)
    columns = class_columns(HPA28)
    table = cell_table(images, pd.concat([cells, frame]), columns, HPA28, lambda i: masks[i])
    assert list(table["ID"]) == ["b", "a", "c", "d"]
    assert (table["ImageWidth"].iloc[2], table["ImageHeight"].iloc[2]) == (7, 5)
    assert len(parse(table["PredictionString"].iloc[2])) == 19
    assert table["PredictionString"].iloc[3] == ""
    with pytest.raises(UserError, match="found none of cell 99"):
        cell_table(images, cells.assign(cell_label=99), columns, HPA28, lambda i: masks[i])

    def gone(image_id: str) -> np.ndarray:
        raise ImageError("missing file")

    with pytest.raises(UserError, match="expected the mask of image b, found: missing file"):
        cell_table(images, cells, columns, HPA28, gone)

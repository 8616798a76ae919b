"""Labels of crops, training and validation crops of a fold, and the channels and pixels that are read."""

from typing import Literal

import numpy as np
import pandas as pd
import pytest

from classify.config import ClassifySection
from classify.data.crops import (
    NO_FOLD,
    CropArrays,
    CropLabels,
    CropSource,
    label_crops,
    read_crops,
    select_channels,
)
from classify.inference.predict import scored_rows
from crops.store import DIM
from hpa.errors import UserError
from hpa.vocabulary import Vocabulary
from tests.support.bright_crops import bright_crops, bright_fold

THREE = Vocabulary("three", ("a", "b", "c"))
CROPS = pd.DataFrame(
    {
        "image_id": ["i0", "i0", "i1", "i2", "i2", "always", "unknown", "test"],
        "cell_label": [1, 2, 0, 1, 3, 1, 1, 1],
        "completeness": [1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        "fallback": [False, False, True, False, False, False, False, False],
    }
)

IMAGES = pd.DataFrame(
    {
        "image_id": ["i2", "i1", "i0", "unknown", "always", "test"],
        "source": ["k18"] * 3 + ["v18"] * 3,
        "split": ["train"] * 5 + ["test"],
        "antibody": ["B7", None, "A1", None, "A1", None],
        "target": [(2,), (1,), (0, 2), (), (1,), ()],
        "unknown_classes": [(), (0, 2), (), (), (), ()],
    }
)

FOLDS = pd.DataFrame({"image_id": ["always", "i0", "i1", "i2"], "fold": [-1, 0, 1, 2]})


def _labels() -> CropLabels:
    return label_crops(CROPS, IMAGES, FOLDS, THREE)


def test_crops_inherit_the_labels_of_their_image() -> None:
    labels = _labels()
    assert [np.flatnonzero(row).tolist() for row in labels.targets] == [[0, 2], [0, 2], [1], [2], [2], [1], [], []]
    assert labels.folds.tolist() == [0, 0, 1, 2, 2, -1, NO_FOLD, NO_FOLD]
    assert [np.flatnonzero(~row).tolist() for row in labels.known] == [[], [], [0, 2], [], [], [], [], []]
    np.testing.assert_array_equal(labels.soft_targets(np.array([2, 3])), [[np.nan, 1, np.nan], [0, 0, 1]])
    assert labels.is_test.tolist() == [False] * 7 + [True]
    assert labels.images.tolist() == [2, 2, 1, 0, 0, 4, 3, 5]
    assert labels.sources.tolist() == ["k18"] * 5 + ["v18"] * 3
    assert labels.completeness.tolist() == [1, 0.5, 1, 1, 1, 1, 1, 1]
    i0, i1, i2, always = (labels.antibodies[row] for row in (0, 2, 3, 5))
    assert i0 == always != i2
    assert i1 == labels.antibodies[-1] == -1, "unknown antibodies are not one antibody"


def test_fold_trains_on_other_folds_without_fallbacks_and_unknown_targets() -> None:
    source = bright_crops(np.zeros((8, 3), dtype=bool))
    by_fold = [_labels().fold_crops(source, fold) for fold in range(3)]
    assert [crops.training.tolist() for crops in by_fold] == [[3, 4, 5], [0, 1, 3, 4, 5], [0, 1, 5]]
    assert [crops.validation.tolist() for crops in by_fold] == [[0, 1], [2], [3, 4]]


def test_no_model_scores_an_image_of_its_training() -> None:
    source = bright_crops(np.zeros((8, 3), dtype=bool))
    images = CROPS["image_id"].to_numpy()
    scored: list[str] = []
    for fold in range(3):
        trained = set(images[_labels().fold_crops(source, fold).training])
        rows = scored_rows(_labels(), fold)
        assert not trained & set(images[rows])
        scored += images[rows].tolist()
    # Out of fold once, test images once a fold, those never scored and those in no fold not at all.
    assert sorted(scored) == ["i0", "i0", "i1", "i2", "i2", "test", "test", "test"]


def test_all_crops_are_unseen_by_models_of_another_folder() -> None:
    assert [scored_rows(_labels().as_unseen(), fold).tolist() for fold in (0, 1)] == [list(range(8))] * 2


SOURCE = bright_crops(np.random.default_rng(2).random((600, 3)) < 0.5)


@pytest.mark.parametrize(("outside_cell", "divisor"), [("keep", 1), ("dim", DIM), ("zero", 256)])
def test_pixels_outside_the_own_cell(outside_cell: Literal["keep", "dim", "zero"], divisor: int) -> None:
    rows = np.array([3, 1])
    read = read_crops(SOURCE, rows, outside_cell)
    for i, row in enumerate(rows):
        for y, x in [(0, 0), (3, 12), (4, 4), (11, 8), (12, 4)]:
            inside = SOURCE.own[row, y, x]
            expected = SOURCE.crops[row, :, y, x].astype(int) // (1 if inside else divisor)
            np.testing.assert_array_equal(read[i, :, y, x], expected)


FOLD = bright_fold(32, 8)
NAMES = ["red", "green", "blue", "yellow"]


def test_channels_are_selected_and_averaged_by_name() -> None:
    rows = np.array([4, 2])
    read = FOLD.source.pixels(rows).astype(np.float64)
    source = select_channels(FOLD.source, ["green", "red+yellow"], NAMES)
    seen = source.pixels(rows)
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen[:, 0], read[:, 1])
    np.testing.assert_array_equal(seen[:, 1], np.floor((read[:, 0] + read[:, 3]) / 2 + 0.5))
    np.testing.assert_array_equal(source.masks(rows), FOLD.source.masks(rows))


def test_the_maximum_is_taken_after_each_channel_is_scaled() -> None:
    """A dim ramp and a bright ramp that runs the other way: at each place the higher rank among its own pixels wins."""
    ramp = np.tile(np.arange(101, dtype=np.uint8), (101, 1))
    crops = np.stack([10 + ramp // 5, 2 * ramp[:, ::-1]])[np.newaxis]
    source = select_channels(CropArrays(crops, np.ones((1, 101, 101), bool)), ["red|yellow"], ["red", "yellow"])
    expected = 255 * np.maximum(np.arange(101), np.arange(101)[::-1]) / 100
    assert np.abs(source.pixels(np.array([0]))[0, 0] - expected).max() < 255 / 20 + 6


def test_selecting_all_channels_returns_the_store() -> None:
    source: CropSource = FOLD.source
    assert select_channels(source, [], NAMES) is source
    assert select_channels(source, NAMES, NAMES) is source


def test_missing_or_unknown_channel_raises_an_error() -> None:
    with pytest.raises(UserError, match=r"expected classify\.channels among those cut .*found 'yellow'"):
        select_channels(FOLD.source, ["red+yellow"], NAMES[:3])
    with pytest.raises(ValueError, match="found 'ultraviolet'"):
        ClassifySection(channels=("ultraviolet",))

"""Which crop is trained on, which is scored by whom."""

import numpy as np
import pandas as pd

from classify.data.labels import NO_FOLD, CropLabels, label_crops
from classify.inference.predict import scored_rows
from hpa.vocabulary import Vocabulary
from tests.classify.world import bright_crops

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


def test_crops_inherit_from_their_image() -> None:
    labels = _labels()
    assert [np.flatnonzero(row).tolist() for row in labels.targets] == [[0, 2], [0, 2], [1], [2], [2], [1], [], []]
    assert labels.folds.tolist() == [0, 0, 1, 2, 2, -1, NO_FOLD, NO_FOLD]
    assert labels.masked is not None
    assert [np.flatnonzero(row).tolist() for row in labels.masked] == [[], [], [0, 2], [], [], [], [], []]
    assert (
        label_crops(CROPS, IMAGES.assign(unknown_classes=IMAGES["target"].map(lambda _: ())), FOLDS, THREE).masked
        is None
    )
    assert labels.is_test.tolist() == [False] * 7 + [True]
    assert labels.images.tolist() == [2, 2, 1, 0, 0, 4, 3, 5]
    assert labels.sources.tolist() == ["k18"] * 5 + ["v18"] * 3
    assert labels.completeness.tolist() == [1, 0.5, 1, 1, 1, 1, 1, 1]
    i0, i1, i2, always = (labels.antibodies[row] for row in (0, 2, 3, 5))
    assert i0 == always != i2
    assert i1 == labels.antibodies[-1] == -1, "unknown antibodies are not one antibody"


def test_a_fold_trains_on_the_others_without_fallbacks_and_unknown_targets() -> None:
    source = bright_crops(np.zeros((8, 3), dtype=bool))
    by_fold = [_labels().fold_crops(source, fold) for fold in range(3)]
    assert [crops.training.tolist() for crops in by_fold] == [[3, 4, 5], [0, 1, 3, 4, 5], [0, 1, 5]]
    assert [crops.validation.tolist() for crops in by_fold] == [[0, 1], [2], [3, 4]]


def test_no_model_scores_an_image_it_saw() -> None:
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


def test_to_models_of_another_folder_all_is_new() -> None:
    assert [scored_rows(_labels().as_new(), fold).tolist() for fold in (0, 1)] == [list(range(8))] * 2

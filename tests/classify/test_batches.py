"""The batches of an epoch: complete bags, balanced classes, and the same for the same (seed, fold, epoch)."""

from typing import Any

import numpy as np
import pytest

from classify.config import ClassifySection
from classify.data.augmentation import Augmentation
from classify.data.batches import (
    TrainingCrops,
    draw_by_class,
    epoch_batches,
    epoch_loader,
    split_batches,
    training_batches,
)
from classify.data.crops import FoldCrops
from hpa.errors import UserError
from tests.support.bright_crops import bright_crops, bright_fold, fold_of

SIZES = [40, 1, 3, 7, 1, 12, 5, 9]


def _fold() -> FoldCrops:
    images = np.repeat(np.arange(len(SIZES)), SIZES)
    targets = np.zeros((len(SIZES), 3), dtype=bool)
    targets[0, 0] = targets[1:, 1] = targets[4, 2] = True  # one image has class 0, one class 2
    return fold_of(bright_crops(targets[images]), targets[images], images, len(images) - 9)


BAGS = ClassifySection(objective="bag", bag_size=5, batch_size=15)


def test_batches_are_complete_bags_of_limited_size() -> None:
    crops = _fold()
    batches = training_batches(crops, BAGS, 0, 0, 0)
    assert len(batches) == 7 // 3
    images = [crops.labels.images[batch] for batch in batches]
    for of_batch in images:
        runs = np.split(of_batch, np.flatnonzero(np.diff(of_batch)) + 1)
        assert len(runs) == 3 == len(set(of_batch.tolist()))
        assert [len(run) for run in runs] == [min(SIZES[run[0]], 5) for run in runs]
    assert set(np.concatenate(batches).tolist()) <= set(crops.training.tolist())
    assert len(np.concatenate(batches)) == len(set(np.concatenate(batches).tolist()))


def test_bags_of_a_large_image_differ_between_epochs() -> None:
    crops = _fold()
    seen = set()
    for epoch in range(60):
        rows = np.concatenate(training_batches(crops, BAGS, 0, 0, epoch))
        seen |= set(rows[crops.labels.images[rows] == 0].tolist())
    assert len(seen) == 40


@pytest.mark.parametrize("objective", ["cell", "bag"])
@pytest.mark.parametrize("sampling", ["crops", "classes"])
def test_batches_depend_on_seed_fold_and_epoch_only(objective: Any, sampling: Any) -> None:
    section = ClassifySection(objective=objective, sampling=sampling, bag_size=4, batch_size=8)
    reference = np.concatenate(training_batches(_fold(), section, 0, 0, 0))
    np.testing.assert_array_equal(reference, np.concatenate(training_batches(_fold(), section, 0, 0, 0)))
    for other in [(1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        rows = np.concatenate(training_batches(_fold(), section, *other))
        assert len(rows) != len(reference) or (rows != reference).any()


def test_classes_are_drawn_uniformly() -> None:
    targets = np.zeros((100, 3), dtype=bool)
    targets[0, 0] = targets[1:90, 1] = True  # class 2 never occurs, ten images have no class
    drawn = draw_by_class(targets, 3000, np.random.default_rng(0))
    shares = [(drawn == 0).mean(), ((drawn > 0) & (drawn < 90)).mean(), (drawn >= 90).mean()]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)  # 4.6 standard errors
    counts = np.bincount(drawn[(drawn > 0) & (drawn < 90)], minlength=90)[1:]
    assert counts.min() > 0, "images of one class are drawn evenly"


@pytest.mark.parametrize("objective", ["cell", "bag"])
def test_batches_by_class_show_every_class_equally_often(objective: Any) -> None:
    """One image has class 0 alone, one class 1 alone, eighteen class 2; crops of each differ in number."""
    sizes = np.resize([3, 9, 5], 20)
    images = np.repeat(np.arange(20), sizes)
    targets = np.eye(3, dtype=bool)[[0, 1, *[2] * 18]]
    crops = fold_of(bright_crops(targets[images]), targets[images], images, len(images))
    section = ClassifySection(objective=objective, sampling="classes", bag_size=2, batch_size=10)
    seen: list[int] = []
    for epoch in range(60):
        for batch in training_batches(crops, section, 0, 0, epoch):
            seen += images[batch].tolist() if objective == "cell" else images[batch][::2].tolist()
    shares = np.bincount(np.minimum(seen, 2), minlength=3) / len(seen)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.06)


def test_class_sampling_keeps_the_length_of_an_epoch() -> None:
    crops = _fold()
    section = ClassifySection(batch_size=8)
    even = section.model_copy(update={"sampling": "classes"})
    lengths = [[len(b) for b in training_batches(crops, s, 0, 0, 0)] for s in (section, even)]
    assert lengths[0] == lengths[1]


def test_split_batches_keep_every_row_and_every_bag() -> None:
    crops = _fold()
    batches = training_batches(crops, BAGS.model_copy(update={"batch_size": 30}), 0, 0, 3)
    halves = split_batches(batches, crops.labels.images, 2, keep_bags=True)
    np.testing.assert_array_equal(np.concatenate(batches), np.concatenate(halves))
    for one, other in zip(halves[::2], halves[1::2], strict=True):
        assert not set(crops.labels.images[one].tolist()) & set(crops.labels.images[other].tolist())


@pytest.mark.parametrize("keep_bags", [True, False])
def test_batches_that_cannot_be_split_raise_an_error(keep_bags: bool) -> None:
    crops = _fold()
    with pytest.raises(UserError, match="expected room for a training step"):
        split_batches([np.array([40, 41, 42])], crops.labels.images, 4, keep_bags=keep_bags)


def test_epoch_has_every_crop_at_most_once_and_drops_less_than_a_batch() -> None:
    rows = np.arange(7, 60)
    batches = epoch_batches(rows, 8, seed=0, fold=0, epoch=0)
    assert [len(batch) for batch in batches] == [8] * 6
    seen = np.concatenate(batches)
    assert len(set(seen.tolist())) == 48
    assert set(seen.tolist()) <= set(rows.tolist())


def test_a_single_short_batch_is_kept() -> None:
    batches = epoch_batches(np.arange(3), 8, seed=0, fold=0, epoch=0)
    assert [sorted(batch.tolist()) for batch in batches] == [[0, 1, 2]]


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_order_depends_on_seed_fold_and_epoch(other: tuple[int, int, int]) -> None:
    rows = np.arange(50)
    first = np.concatenate(epoch_batches(rows, 10, 0, 0, 0))
    np.testing.assert_array_equal(first, np.concatenate(epoch_batches(rows, 10, 0, 0, 0)))
    assert (first != np.concatenate(epoch_batches(rows, 10, *other))).any()


def test_bags_of_a_batch_are_its_images() -> None:
    """Adjacent rows of one image form a bag, whatever their cell labels, and bags are numbered from 0."""
    crops = _fold()
    section = ClassifySection(augment="none", objective="bag", completeness_power=1.0)
    training = TrainingCrops(crops, section, Augmentation(section, 0, 0), 0)
    rows = np.array([44, 45, 46, 0, 1, 40, 7])
    batch = training[rows]
    assert crops.labels.images[rows].tolist() == [3, 3, 3, 0, 0, 1, 0]
    assert batch.bags.tolist() == [0, 0, 0, 1, 1, 2, 3]
    assert batch.rows.tolist() == rows.tolist()
    assert batch.antibodies.tolist() == crops.labels.antibodies[rows].tolist()
    assert batch.weights.tolist() == crops.labels.completeness[rows].tolist()


def test_loader_returns_batches_with_inherited_targets() -> None:
    fold = bright_fold()
    batches = epoch_batches(fold.training, 8, 0, 0, 0)
    section = ClassifySection(augment="none")
    loaded = list(epoch_loader(TrainingCrops(fold, section, Augmentation(section, 0, 0), 0), batches))
    assert len(loaded) == len(batches)
    for rows, batch in zip(batches, loaded, strict=True):
        np.testing.assert_array_equal(batch.pixels.numpy(), fold.source.pixels(rows))
        np.testing.assert_array_equal(batch.targets.numpy(), fold.labels.targets[rows].astype(np.float32))

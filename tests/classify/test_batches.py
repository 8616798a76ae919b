"""What is read, in which order, and how it is normalised."""

from typing import Literal

import numpy as np
import pytest

from classify.config import ClassifySection
from classify.data.augmentation import Augmentation
from classify.data.crops import (
    TrainingCrops,
    epoch_loader,
    read_crops,
)
from classify.data.normalisation import measure_mean_and_deviation
from classify.data.sampling import epoch_batches
from crops.store import DIM
from tests.classify.world import bright_crops, bright_fold

SOURCE = bright_crops(np.random.default_rng(2).random((600, 3)) < 0.5)


@pytest.mark.parametrize(("outside_cell", "divisor"), [("keep", 1), ("dim", DIM), ("zero", 256)])
def test_what_is_outside_the_own_cell(outside_cell: Literal["keep", "dim", "zero"], divisor: int) -> None:
    rows = np.array([3, 1])
    read = read_crops(SOURCE, rows, outside_cell)
    for i, row in enumerate(rows):
        for y, x in [(0, 0), (3, 12), (4, 4), (11, 8), (12, 4)]:
            inside = SOURCE.own[row, y, x]
            expected = SOURCE.crops[row, :, y, x].astype(int) // (1 if inside else divisor)
            np.testing.assert_array_equal(read[i, :, y, x], expected)


@pytest.mark.parametrize("outside_cell", ["keep", "zero"])
def test_normalisation_is_numpys(outside_cell: Literal["keep", "zero"]) -> None:
    rows = np.arange(5, 590)  # more than one block
    mean, std = measure_mean_and_deviation(SOURCE, rows, outside_cell)
    pixels = read_crops(SOURCE, rows, outside_cell).astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)))


def test_a_constant_channel_is_not_blown_up() -> None:
    source = bright_crops(np.zeros((4, 1), dtype=bool))
    source.crops[:, 2] = 7
    mean, std = measure_mean_and_deviation(source, np.arange(4), "keep")
    assert (mean[2], std[2]) == (7, 1)


def test_an_epoch_sees_every_crop_at_most_once_and_drops_less_than_a_batch() -> None:
    rows = np.arange(7, 60)
    batches = epoch_batches(rows, 8, seed=0, fold=0, epoch=0)
    assert [len(batch) for batch in batches] == [8] * 6
    seen = np.concatenate(batches)
    assert len(set(seen.tolist())) == 48
    assert set(seen.tolist()) <= set(rows.tolist())


def test_a_short_batch_is_used_when_it_is_all_there_is() -> None:
    batches = epoch_batches(np.arange(3), 8, seed=0, fold=0, epoch=0)
    assert [sorted(batch.tolist()) for batch in batches] == [[0, 1, 2]]


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_seed_fold_and_epoch_each_decide_the_order(other: tuple[int, int, int]) -> None:
    rows = np.arange(50)
    first = np.concatenate(epoch_batches(rows, 10, 0, 0, 0))
    np.testing.assert_array_equal(first, np.concatenate(epoch_batches(rows, 10, 0, 0, 0)))
    assert (first != np.concatenate(epoch_batches(rows, 10, *other))).any()


def test_the_loader_hands_out_the_batches_with_their_inherited_targets() -> None:
    fold = bright_fold()
    batches = epoch_batches(fold.training, 8, 0, 0, 0)
    section = ClassifySection(augment="none")
    loaded = list(epoch_loader(TrainingCrops(fold, section, Augmentation(section, 0, 0), 0), batches))
    assert len(loaded) == len(batches)
    for rows, batch in zip(batches, loaded, strict=True):
        np.testing.assert_array_equal(batch.pixels.numpy(), fold.source.pixels(rows))
        np.testing.assert_array_equal(batch.targets.numpy(), fold.targets[rows].astype(np.float32))

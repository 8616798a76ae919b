"""Offsets and divisors of crops: from the folds, each source, ImageNet, or the image."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from classify.config import ClassifySection
from classify.data.crops import read_crops, select_channels
from classify.data.normalisation import (
    MEASURED,
    Statistics,
    crop_levels,
    measure_mean_and_deviation,
    measure_statistics,
)
from classify.network.model import Network
from tests.support.bright_crops import ArraySource, bright_crops, bright_fold

SOURCE = bright_crops(np.random.default_rng(2).random((600, 3)) < 0.5)


@pytest.mark.parametrize("outside_cell", ["keep", "zero"])
def test_mean_and_deviation_equal_numpy(outside_cell: Literal["keep", "zero"]) -> None:
    rows = np.arange(5, 590)  # more than one block
    mean, std = measure_mean_and_deviation(SOURCE, rows, outside_cell)
    pixels = read_crops(SOURCE, rows, outside_cell).astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(std, pixels.std(axis=(0, 2, 3)))


def test_deviation_of_a_constant_channel_is_one() -> None:
    source = bright_crops(np.zeros((4, 1), dtype=bool))
    source.crops[:, 2] = 7
    mean, std = measure_mean_and_deviation(source, np.arange(4), "keep")
    assert (mean[2], std[2]) == (7, 1)


FOLD = bright_fold(32, 8)
ALL = np.arange(40)
NAMES = ["red", "green", "blue", "yellow"]


def _levels(normalise: str, statistics: Statistics) -> np.ndarray:
    levels = crop_levels(FOLD.source, ALL, FOLD.labels, statistics, normalise)  # type: ignore[arg-type]
    assert levels is not None
    return levels


def test_each_source_gets_the_statistics_of_its_training_crops() -> None:
    statistics = measure_statistics(FOLD, "keep", "sources")
    levels = _levels("sources", statistics)
    for origin in ("even", "odd"):
        rows = [i for i in FOLD.training if FOLD.labels.sources[i] == origin]
        pixels = FOLD.source.pixels(np.array(rows)).astype(np.float64)
        for row in np.flatnonzero(FOLD.labels.sources == origin):
            np.testing.assert_allclose(levels[row, 0], pixels.mean((0, 2, 3)), rtol=1e-6)
            np.testing.assert_allclose(levels[row, 1], pixels.std((0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("normalise", MEASURED)
def test_validation_crops_do_not_change_the_statistics(normalise: str) -> None:
    """Otherwise the held-out images would leak into the model that is scored on them."""
    crops = FOLD.source.pixels(ALL)
    crops[FOLD.validation] = 255
    brighter = replace(FOLD, source=ArraySource(crops, FOLD.source.masks(ALL)))
    statistics = measure_statistics(FOLD, "keep", normalise)  # type: ignore[arg-type]
    assert measure_statistics(brighter, "keep", normalise) == statistics  # type: ignore[arg-type]
    np.testing.assert_allclose(statistics.mean, crops[FOLD.training].mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(statistics.std, crops[FOLD.training].std(axis=(0, 2, 3)))


def test_unknown_source_gets_the_overall_statistics() -> None:
    statistics = measure_statistics(FOLD, "keep", "sources")
    labels = replace(FOLD.labels, sources=np.full(40, "new", dtype=object))
    levels = crop_levels(FOLD.source, ALL, labels, statistics, "sources")
    assert levels is not None
    np.testing.assert_allclose(levels[3], [statistics.mean, statistics.std], rtol=1e-6)


def test_percentiles_are_over_all_crops_of_the_image() -> None:
    levels = _levels("percentiles", measure_statistics(FOLD, "keep", "percentiles"))
    for image in np.unique(FOLD.labels.images):
        rows = np.flatnonzero(FOLD.labels.images == image)
        for c in range(4):
            plane = np.sort(FOLD.source.pixels(rows)[:, c].ravel())
            low, high = (float(plane[int(np.ceil(q / 100 * len(plane))) - 1]) for q in (1.0, 99.5))
            np.testing.assert_allclose(levels[rows, 0, c], low)
            np.testing.assert_allclose(levels[rows, 1, c], max(high - low, 8))


def test_an_empty_channel_is_not_divided_by_its_range_of_percentiles() -> None:
    crops = FOLD.source.pixels(ALL)
    crops[:, 2] = 5
    crops[:, 3, 0, 0] = np.arange(40)
    crops[:, 3, :, 1:] = crops[:, 3, 1:, 0] = 3  # one pixel of 256 differs, which is beyond the percentiles
    statistics = measure_statistics(FOLD, "keep", "percentiles")
    levels = crop_levels(ArraySource(crops, FOLD.source.masks(ALL)), ALL, FOLD.labels, statistics, "percentiles")
    assert levels is not None
    assert (levels[:, 0, 2] == 5).all()
    assert (levels[:, 0, 3] == 3).all()
    assert (levels[:, 1, 2:] == 8).all()


def test_percentiles_do_not_depend_on_the_requested_rows() -> None:
    statistics = measure_statistics(FOLD, "keep", "percentiles")
    rows = np.flatnonzero(np.isin(FOLD.labels.images, [3, 7]))
    some = crop_levels(FOLD.source, rows[::-1].copy(), FOLD.labels, statistics, "percentiles")
    assert some is not None
    np.testing.assert_array_equal(some[rows], _levels("percentiles", statistics)[rows])


def test_imagenet_statistics_of_the_first_three_channels() -> None:
    statistics = measure_statistics(FOLD, "keep", "imagenet")
    np.testing.assert_allclose(np.array(statistics.mean) / 255, [0.485, 0.456, 0.406, 0.449], atol=1e-9)
    np.testing.assert_allclose(np.array(statistics.std[:3]) / 255, [0.229, 0.224, 0.225], atol=1e-9)


@pytest.mark.parametrize("normalise", ["crop", "folds", "imagenet"])
def test_normalisation_within_the_network_needs_no_levels(normalise: str) -> None:
    statistics = measure_statistics(FOLD, "keep", normalise)  # type: ignore[arg-type]
    assert crop_levels(FOLD.source, ALL, FOLD.labels, statistics, normalise) is None  # type: ignore[arg-type]


def test_network_subtracts_and_divides_by_levels() -> None:
    network = Network(ClassifySection(backbone="cnn3", normalise="percentiles"), 4, 2, [0.0] * 4, [1.0] * 4).eval()
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = FOLD.source.pixels(ALL[:2])
    levels = np.arange(1, 17, dtype=np.float32).reshape(2, 2, 4)
    network(torch.from_numpy(pixels), torch.from_numpy(levels))
    for n, c in np.ndindex(2, 4):
        expected = (pixels[n, c].astype(float) - levels[n, 0, c]) / levels[n, 1, c]
        np.testing.assert_allclose(seen[0][n, c].numpy(), expected, rtol=1e-5)


def test_statistics_are_of_the_selected_channels() -> None:
    two = replace(FOLD, source=select_channels(FOLD.source, ["blue", "green"], NAMES))
    every = measure_statistics(FOLD, "keep", "folds")
    assert measure_statistics(two, "keep", "folds").mean == [every.mean[2], every.mean[1]]

"""Levels of crops: of the folds, of each source, of ImageNet, of the image; and which channels are seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from classify.config import ClassifySection
from classify.data.channels import pick_channels
from classify.data.crops import CropSource
from classify.data.normalisation import Statistics, crop_levels, measure_statistics
from classify.network.model import Network
from hpa.errors import UserError
from tests.classify.world import bright_fold

FOLD = bright_fold(32, 8)
ALL = np.arange(40)
NAMES = ["red", "green", "blue", "yellow"]


def _levels(normalise: str, statistics: Statistics) -> np.ndarray:
    levels = crop_levels(FOLD.source, ALL, FOLD.images, FOLD.sources, statistics, normalise)  # type: ignore[arg-type]
    assert levels is not None
    return levels


def test_each_source_has_the_statistics_of_its_own_training_crops() -> None:
    statistics = measure_statistics(FOLD, "keep", "sources")
    levels = _levels("sources", statistics)
    for origin in ("even", "odd"):
        rows = [i for i in FOLD.training if FOLD.sources[i] == origin]
        pixels = FOLD.source.pixels(np.array(rows)).astype(np.float64)
        for row in np.flatnonzero(FOLD.sources == origin):
            np.testing.assert_allclose(levels[row, 0], pixels.mean((0, 2, 3)), rtol=1e-6)
            np.testing.assert_allclose(levels[row, 1], pixels.std((0, 2, 3)), rtol=1e-6)


def test_a_source_never_trained_on_gets_the_statistics_of_all() -> None:
    statistics = measure_statistics(FOLD, "keep", "sources")
    sources = np.full(40, "new", dtype=object)
    levels = crop_levels(FOLD.source, ALL, FOLD.images, sources, statistics, "sources")
    assert levels is not None
    np.testing.assert_allclose(levels[3], [statistics.mean, statistics.std], rtol=1e-6)


def test_percentiles_are_of_all_crops_of_the_image() -> None:
    levels = _levels("percentiles", measure_statistics(FOLD, "keep", "percentiles"))
    for image in np.unique(FOLD.images):
        rows = np.flatnonzero(FOLD.images == image)
        for c in range(4):
            plane = np.sort(FOLD.source.pixels(rows)[:, c].ravel())
            low, high = (float(plane[int(np.ceil(q / 100 * len(plane))) - 1]) for q in (1.0, 99.5))
            np.testing.assert_allclose(levels[rows, 0, c], low)
            np.testing.assert_allclose(levels[rows, 1, c], max(high - low, 8))


def test_percentiles_do_not_depend_on_which_rows_are_asked_for_together() -> None:
    statistics = measure_statistics(FOLD, "keep", "percentiles")
    rows = np.flatnonzero(np.isin(FOLD.images, [3, 7]))
    some = crop_levels(FOLD.source, rows[::-1].copy(), FOLD.images, FOLD.sources, statistics, "percentiles")
    assert some is not None
    np.testing.assert_array_equal(some[rows], _levels("percentiles", statistics)[rows])


def test_imagenet_s_numbers_go_to_the_first_three_channels() -> None:
    statistics = measure_statistics(FOLD, "keep", "imagenet")
    np.testing.assert_allclose(np.array(statistics.mean) / 255, [0.485, 0.456, 0.406, 0.449], atol=1e-9)
    np.testing.assert_allclose(np.array(statistics.std[:3]) / 255, [0.229, 0.224, 0.225], atol=1e-9)


@pytest.mark.parametrize("normalise", ["crop", "folds", "imagenet"])
def test_the_network_needs_no_levels_of_its_own_kinds(normalise: str) -> None:
    statistics = measure_statistics(FOLD, "keep", normalise)  # type: ignore[arg-type]
    assert crop_levels(FOLD.source, ALL, FOLD.images, FOLD.sources, statistics, normalise) is None  # type: ignore[arg-type]


def test_the_network_takes_levels_off_and_divides() -> None:
    network = Network(ClassifySection(backbone="cnn3", normalise="percentiles"), 4, 2, [0.0] * 4, [1.0] * 4).eval()
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = FOLD.source.pixels(ALL[:2])
    levels = np.arange(1, 17, dtype=np.float32).reshape(2, 2, 4)
    network(torch.from_numpy(pixels), torch.from_numpy(levels))
    for n, c in np.ndindex(2, 4):
        expected = (pixels[n, c].astype(float) - levels[n, 0, c]) / levels[n, 1, c]
        np.testing.assert_allclose(seen[0][n, c].numpy(), expected, rtol=1e-5)


def test_channels_are_picked_and_merged_by_name() -> None:
    rows = np.array([4, 2])
    read = FOLD.source.pixels(rows).astype(np.float64)
    source = pick_channels(FOLD.source, ["green", "red+yellow"], NAMES)
    seen = source.pixels(rows)
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen[:, 0], read[:, 1])
    np.testing.assert_array_equal(seen[:, 1], np.floor((read[:, 0] + read[:, 3]) / 2 + 0.5))
    np.testing.assert_array_equal(source.masks(rows), FOLD.source.masks(rows))


def test_all_channels_are_the_store_itself() -> None:
    source: CropSource = FOLD.source
    assert pick_channels(source, [], NAMES) is source
    assert pick_channels(source, NAMES, NAMES) is source


def test_a_channel_that_was_not_cut_is_an_error() -> None:
    with pytest.raises(UserError, match=r"expected classify\.channels among those cut .*found 'yellow'"):
        pick_channels(FOLD.source, ["red+yellow"], NAMES[:3])
    with pytest.raises(ValueError, match="not 'ultraviolet'"):
        ClassifySection(channels=("ultraviolet",))


def test_statistics_are_of_what_the_network_sees() -> None:
    two = replace(FOLD, source=pick_channels(FOLD.source, ["blue", "green"], NAMES))
    every = measure_statistics(FOLD, "keep", "folds")
    assert measure_statistics(two, "keep", "folds").mean == [every.mean[2], every.mean[1]]

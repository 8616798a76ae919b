"""Appearance and orientation of training samples."""

from dataclasses import replace

import numpy as np

from segment.network.cellpose import flows_from_labels
from segment.network.compact import ER, MICROTUBULES, NUCLEUS_PLANE
from segment.training.augment import augment, clear_rim, nucleus_distance, restyle
from tests.support.shapes import make_sample


def test_nucleus_distance_is_relative_to_the_farthest_pixel() -> None:
    one = make_sample()
    distance = nucleus_distance(one.cells, one.nuclei)
    assert not distance[(one.cells == 0) | (one.nuclei > 0)].any()
    assert [distance[one.cells == label].max() for label in (1, 2)] == [1, 1]


def test_appearances_differ_by_seed_and_are_finite() -> None:
    one = make_sample()
    first, again, other = (restyle(one, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for seed in range(40):
        assert np.isfinite(restyle(one, np.random.default_rng(seed))).all()


def test_er_or_microtubules_are_sometimes_missing_and_the_nucleus_never() -> None:
    appearances = [restyle(make_sample(), np.random.default_rng(seed)) for seed in range(60)]
    present = np.array([planes.any(axis=(1, 2)) for planes in appearances])
    assert present[:, NUCLEUS_PLANE].all()
    for plane in (ER, MICROTUBULES):
        assert 0 < (~present[:, plane]).sum() < 60
    assert present[:, [ER, MICROTUBULES]].any(axis=1).all(), "ER and microtubules are never both missing"


def test_a_share_of_the_appearances_shows_the_maximum_of_er_and_microtubules() -> None:
    """One cell is seen in the ER only, the other in the microtubules only: only their maximum shows both."""
    one = make_sample()
    planes = one.planes.copy()
    planes[ER][one.cells == 1] = 0
    planes[MICROTUBULES][one.cells == 2] = 0
    joined = 0
    for seed in range(80):
        restyled = restyle(replace(one, planes=planes), np.random.default_rng(seed))
        ring = [(one.cells == label) & (one.nuclei == 0) for label in (1, 2)]
        light = np.array([[plane[pixels].mean() for pixels in ring] for plane in restyled])
        joined += not restyled[ER].any() and bool((light[MICROTUBULES] > 0.3).all())
    assert 10 < joined < 30, "a fourth of the appearances"


def test_a_missing_plane_stays_missing() -> None:
    one = make_sample()
    planes = one.planes.copy()
    planes[MICROTUBULES] = 0
    for seed in range(20):
        restyled = restyle(replace(one, planes=planes), np.random.default_rng(seed))
        assert not restyled[MICROTUBULES].any()
        assert restyled[ER].any()


def test_the_rim_stays_blank() -> None:
    one = make_sample()
    for seed in range(20):
        restyled = restyle(replace(one, blank_px=5), np.random.default_rng(seed))
        assert not restyled[:, :5].any()
        assert not restyled[:, -5:].any()
        assert not restyled[:, :, -5:].any()
        assert restyled[:, 5:-5, 5:-5].any()
    assert clear_rim(one.cells, 14).sum() < one.cells.sum()
    assert not clear_rim(one.cells, 14)[:14].any()
    assert np.array_equal(clear_rim(one.cells, 0), one.cells)
    full = np.ones((11, 14), np.uint16)
    assert np.array_equal(clear_rim(full, 3), np.pad(full[3:-3, 3:-3], 3))


def test_flows_turn_with_the_image() -> None:
    """The flows of a turned label image are the turned flows of the label image."""
    one = make_sample()
    for seed in range(12):
        _, target = augment(one, np.random.default_rng(seed))
        turned = [np.flip(cells, axes) for cells in (one.cells, one.cells.T) for axes in ((), (0,), (1,), (0, 1))]
        errors = [
            np.abs(flows_from_labels(cells) - target[3:]).mean()
            for cells in turned
            if np.array_equal(cells > 0, target[2] > 0)
        ]
        assert min(errors) < 0.01

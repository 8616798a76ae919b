"""Fields of view show what real ones do: sister cells that touch, two nuclei in a cell, sheets, small cells."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from hpa.atlas.geometry.cells import _divide, _outline, _pair, _place, grow_field
from hpa.atlas.geometry.field import Field
from hpa.atlas.geometry.outlines import join, polygon
from hpa.atlas.styles import CELL_LINES, as_imaged

SIDE = 256


def fields(**changes: Any) -> list[Field]:
    """Grow three fields of a line with changed habits."""
    line = replace(CELL_LINES[0], nucleus_lobes=0.0, **changes)
    return [grow_field(np.random.default_rng([7, k]), line, (SIDE, SIDE), dividing=0, telophase=0) for k in range(3)]


def whole(nuclei: NDArray[np.int32]) -> list[int]:
    """Return the labels of the nuclei that do not touch the border."""
    rim = np.concatenate([nuclei[0], nuclei[-1], nuclei[:, 0], nuclei[:, -1]])
    return [int(label) for label in np.setdiff1d(np.unique(nuclei), np.append(rim, 0))]


def pieces(field: Field) -> list[int]:
    """Count the pieces of every whole nucleus, without specks."""
    counts = []
    for label in whole(field.nuclei):
        parts, number = ndimage.label(field.nuclei == label)
        sizes = np.bincount(parts.ravel())[1:]
        counts.append(int((sizes > 0.2 * sizes.sum()).sum()) if number else 0)
    return counts


def gaps(field: Field) -> list[float]:
    """Return the distance in px of every whole nucleus to the nearest one of another cell."""
    return [
        float(
            ndimage.distance_transform_edt((field.nuclei == 0) | (field.nuclei == label))[field.nuclei == label].min()
        )
        for label in whole(field.nuclei)
    ]


def test_two_nuclei_of_a_cell_carry_one_label() -> None:
    none = [count for field in fields(double=0) for count in pieces(field)]
    all_cells = [count for field in fields(double=10) for count in pieces(field)]
    assert np.mean(np.array(none) == 1) > 0.9
    assert np.mean(np.array(all_cells) == 2) > 0.6
    assert max(all_cells) == 2


def test_sisters_lie_side_by_side_under_two_labels() -> None:
    alone = np.array([gap for field in fields(pairs=0) for gap in gaps(field)])
    paired = np.array([gap for field in fields(pairs=10) for gap in gaps(field)])
    assert np.mean(paired < 10) > 0.6
    assert np.mean(alone < 10) < 0.35


def test_a_nucleus_lies_in_its_cell_and_cells_are_of_one_piece() -> None:
    for field in fields(double=1, pairs=1):
        inside = field.nuclei > 0
        assert (field.owner[inside] == field.nuclei[inside]).all()
        for label in np.unique(field.nuclei[inside]):
            assert ndimage.label(field.owner == label)[1] == 1


def test_images_of_a_line_differ_as_real_ones_do() -> None:
    """Sheets cover nine tenths of the frame, sparse fields a third; fields of small cells have several times more."""
    grown = [
        grow_field(np.random.default_rng([8, k]), CELL_LINES[0], (128, 128), dividing=0.03, telophase=0.02)
        for k in range(40)
    ]
    cover = [float((field.owner > 0).mean()) for field in grown]
    count = [len(np.unique(field.nuclei)) - 1 for field in grown]
    assert max(cover) > 0.85
    assert min(cover) < 0.45
    assert np.percentile(count, 95) > 2.5 * np.percentile(count, 25)


def test_nuclei_stay_where_the_population_says() -> None:
    away = [
        np.linalg.norm(np.argwhere(field.nuclei == label).mean(axis=0) - field.population.nucleus[label - 1])
        / field.population.nucleus_px[label - 1]
        for field in fields()
        for label in whole(field.nuclei)
    ]
    assert np.median(away) < 0.23


@pytest.mark.parametrize("line", [0, 1, 5])
def test_every_pixel_of_a_nucleus_is_of_its_cell(line: int) -> None:
    """Chromosomes of dividing cells too, however close their neighbours are."""
    shape, scale = (SIDE, SIDE), SIDE / 512
    for k in range(3):
        rng = np.random.default_rng([3, k])
        style = as_imaged(rng, CELL_LINES[line])
        cells = _pair(rng, style, _place(rng, style, shape, scale))
        innermost = np.argsort(np.linalg.norm(cells.centre - SIDE / 2, axis=1))
        cells = _divide(rng, cells, 0.3, 0.2, innermost)
        owner, nuclei = _outline(rng, style, cells, shape, scale)
        assert (nuclei > 0).any()
        assert np.array_equal(owner[nuclei > 0], nuclei[nuclei > 0])


def test_polygon_is_a_closed_line() -> None:
    turn = np.arange(20_000) * (2 * np.pi / 20_000)
    for seed in range(20):
        radius = polygon(np.random.default_rng(seed), turn)
        assert (radius > 0.1).all()
        # no jump anywhere, the last direction meets the first
        assert np.abs(np.diff(radius, append=radius[0])).max() < 0.01


def test_join_is_the_minimum_far_from_where_two_shapes_meet() -> None:
    first = np.array([0.2, 2.0, 1.0], np.float32)
    second = np.array([2.0, 0.2, 1.0], np.float32)
    np.testing.assert_allclose(join(first, second), [0.2, 0.2, 1.0 - 0.01875], atol=1e-6)


@pytest.mark.parametrize("index", [0, 4, 13])
def test_an_image_keeps_the_name_of_its_line(index: int) -> None:
    seen = [as_imaged(np.random.default_rng(k), CELL_LINES[index]) for k in range(200)]
    assert {line.name for line in seen} == {CELL_LINES[index].name}
    sizes = np.array([line.diameter_px for line in seen]) / CELL_LINES[index].diameter_px
    assert np.median(sizes) == pytest.approx(1.03, abs=0.05)
    assert 0.03 < np.mean([line.fill > 1 for line in seen]) < 0.13

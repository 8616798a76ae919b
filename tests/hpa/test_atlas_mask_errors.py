"""Disturbed masks err as often and as far as they are asked to, and know the true cells they show."""

from dataclasses import replace

import numpy as np

from hpa.atlas.mask_errors import MEASURED, MaskErrors, disturb_masks

NONE = MaskErrors(0, 0, 0, 0, 0, 0, 0)
SIDE, CELLS = 512, 64


def grid(gap: int = 0) -> np.ndarray:
    """Lay out 64 square cells of 48 px in touching pairs, or apart."""
    labels = np.zeros((SIDE, SIDE), np.uint16)
    for number in range(CELLS):
        row, column = divmod(number, 8)
        left = 64 * column + (8 if gap or column % 2 == 0 else -8)
        labels[64 * row + 8 : 64 * row + 56, left : left + 48] = number + 1
    return labels


def disturbed(errors: MaskErrors, rounds: int, labels: np.ndarray) -> list[tuple[np.ndarray, list[tuple[int, ...]]]]:
    nuclei = np.where(np.roll(labels, 3) == labels, labels, 0).astype(np.uint16)
    found = [disturb_masks(np.random.default_rng(k), labels, nuclei, errors) for k in range(rounds)]
    for cells, inner, sources in found:
        assert len(sources) == cells.max() == len(np.unique(cells)) - 1
        assert ((inner == cells) | (inner == 0)).all(), "a nucleus carries the label of the cell it lies in"
        assert set(np.unique(nuclei[inner > 0])) <= set(np.unique(labels)) - {0}
    return [(cells, sources) for cells, _, sources in found]


def test_no_errors_change_nothing() -> None:
    for cells, sources in disturbed(NONE, 2, grid()):
        assert (cells == grid()).all()
        assert sources == [(number + 1,) for number in range(CELLS)]


def test_sources_are_the_cells_that_are_there() -> None:
    """Compare with the overlap of pixels, counted one by one."""
    errors = replace(MEASURED, merged=0.3, divided=0.2, incomplete=0.2, missing=0.1)
    truth = grid()
    for cells, sources in disturbed(errors, 5, truth):
        for label, source in enumerate(sources, start=1):
            below = truth[cells == label]
            shares = {int(k): float(np.mean(below == k)) for k in np.unique(below) if k}
            assert sum(shares.get(k, 0) for k in source) > 0.75
            assert all(share < 0.2 for k, share in shares.items() if k not in source)


def test_rates_are_those_asked_for() -> None:
    counts = {"merged": 0, "divided": 0, "incomplete": 0, "missing": 0}
    rounds, rate = 12, 0.2
    area = 48 * 48
    for name in counts:
        for cells, sources in disturbed(replace(NONE, **{name: rate}), rounds, grid()):
            areas = np.bincount(cells.ravel())[1:]
            flat = [label for source in sources for label in source]
            counts["merged"] += name == "merged" and sum(len(source) == 2 for source in sources)
            counts["divided"] += name == "divided" and len(flat) - len(set(flat))
            counts["incomplete"] += name == "incomplete" and int((areas < 0.9 * area).sum())
            counts["missing"] += name == "missing" and CELLS - len(set(flat))
    for name, count in counts.items():
        of = rounds * (CELLS // 2 if name == "merged" else CELLS)
        sigma = np.sqrt(rate * (1 - rate) / of)
        assert abs(count / of - rate) < 4 * sigma, (name, count / of)


def test_shift_changes_the_side_of_squares_twice() -> None:
    """A square of side 48 that grows by d on each side has the area of one of side 48 + 2d, less its round corners."""
    apart = np.where(np.isin(grid(1) % 2, 1), grid(1), 0).astype(np.uint16)
    sides = [
        np.sqrt(np.bincount(cells.ravel())[1:]) for cells, _ in disturbed(replace(NONE, cell_shift_px=2), 4, apart)
    ]
    shift = (np.concatenate(sides) - 48) / 2
    assert abs(shift.mean()) < 0.45  # a shift of less than a pixel is rounded
    assert 1.6 < shift.std() < 2.3
    per_image = [
        np.sqrt(np.bincount(cells.ravel())[1:]).mean()
        for cells, _ in disturbed(replace(NONE, image_shift_px=2), 20, apart)
    ]
    assert 1.4 < np.std(per_image) / 2 < 2.7


def test_frame_scales_lengths() -> None:
    small = grid()[::2, ::2]
    errors = replace(NONE, cell_shift_px=4)
    (cells, _), (large, _) = disturbed(errors, 1, small)[0], disturbed(errors, 1, grid())[0]
    ratio = np.bincount(cells.ravel())[1:] / np.bincount(large.ravel())[1:]
    assert abs(np.median(ratio) - 0.25) < 0.03


def test_an_image_without_cells() -> None:
    nothing = np.zeros((64, 64), np.uint16)
    cells, nuclei, sources = disturb_masks(np.random.default_rng(0), nothing, nothing)
    assert not cells.any()
    assert not nuclei.any()
    assert sources == []

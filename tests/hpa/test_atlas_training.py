"""What is drawn for training: seeds of its own, label sets of known frequency, proteins that share their cells."""

from itertools import islice

import numpy as np
import pytest

from hpa.atlas import draw_scene, training
from hpa.atlas.imaging import ATLAS, HELD_OUT_LINES, OTHER, VARIED
from hpa.atlas.labels import label_sets
from hpa.atlas.patterns.catalogue import BRIDGE, SPINDLE
from hpa.atlas.plan import plan_images
from hpa.atlas.scene import TRAINING_SEEDS, draw_proteins
from hpa.atlas.training import BALANCED, DIVIDING_WEIGHT, PROTEINS, draw_targets, draw_training_scenes
from hpa.errors import UserError

KEY = (TRAINING_SEEDS, 12, 0)


def test_seeds_of_training_are_apart_from_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Demo, tests and benches are drawn by `draw_scene`. It refuses the seeds of training, which refuses its seeds."""
    with pytest.raises(UserError, match="expected a seed below 2147483648"):
        draw_scene((TRAINING_SEEDS, 4, 0), size_px=64)
    with pytest.raises(UserError, match="expected a seed from 0 to 2147483647"):
        plan_images(5, 5, TRAINING_SEEDS)
    with pytest.raises(UserError, match="expected a seed of training"):
        next(draw_proteins((TRAINING_SEEDS - 1,), [(0,)], size_px=64))
    keys = []

    def drawn(key: tuple[int, ...], targets: list[tuple[int, ...]], **_: object) -> list[None]:
        keys.append(key)
        return [None] * len(targets)

    monkeypatch.setattr(training, "draw_proteins", drawn)
    for seed in (0, 7, training.MAX_SEED):
        list(islice(draw_training_scenes(seed, seed), 3 * PROTEINS))
    assert len(set(keys)) == 9
    assert all(key[0] == TRAINING_SEEDS for key in keys)
    assert all(0 <= word < 2**32 for key in keys for word in key), "a larger number would spill into the next word"


def test_label_sets_have_the_frequencies_that_were_asked_for() -> None:
    """The expected frequency of every set, in closed form."""
    sets, images = label_sets()
    expected = (1 - BALANCED) * images / images.sum()
    weights = np.array([DIVIDING_WEIGHT if label in (BRIDGE, SPINDLE) else 1 for label in range(28)])
    for label in range(28):
        has = images * np.array([label in target for target in sets])
        expected += BALANCED * weights[label] / weights.sum() * has / has.sum()
    drawn = draw_targets(np.random.default_rng(1), 20_000, range(28))
    found = np.array([drawn.count(target) for target in sets])
    assert found.sum() == 20_000
    sigma = np.sqrt(20_000 * expected)
    assert (np.abs(found - 20_000 * expected) < 5 * sigma + 2).all()
    with_class = [sum(label in target for target in drawn) / 20_000 for label in range(28)]
    assert min(with_class) > 0.9 * BALANCED / weights.sum()
    rare = int(np.argmin([sum(n for t, n in zip(sets, images, strict=True) if label in t) for label in range(28)]))
    assert with_class[rare] > 20 * images[[rare in target for target in sets]].sum() / images.sum()


def test_classes_left_out_are_neither_drawn_nor_carried() -> None:
    classes = [0, 3, 8, 25]
    for drawn in islice(draw_training_scenes(4, classes=classes), 4 * PROTEINS):
        assert set(drawn.target) <= set(classes)
        assert {label for target in drawn.scene.targets for label in target} <= set(classes)


def test_proteins_share_their_cells_and_differ_in_green() -> None:
    first, second = draw_proteins(KEY, [(0,), (25,)], size_px=128)
    assert (first.cells == second.cells).all()
    assert (first.nuclei == second.nuclei).all()
    assert (first.channels[[0, 2, 3]] == second.channels[[0, 2, 3]]).all(), "the ordinary style edits nothing"
    assert (first.channels[1] != second.channels[1]).mean() > 0.1
    assert len(first.targets) == len(second.targets) == first.cells.max()


def test_carriers_are_the_cells_that_shine() -> None:
    """In images of the nucleoplasm, nuclei of cells with the label are brighter than those of cells without it."""
    bright: list[float] = []
    dark: list[float] = []
    for number in range(16):
        for scene in draw_proteins((*KEY, number), [(0,), (0,)], size_px=128):
            for label, target in enumerate(scene.targets, start=1):
                nucleus = scene.nuclei == label
                if nucleus.sum() > 20 and set(target) <= {0}:
                    (bright if target else dark).append(float(scene.channels[1][nucleus].mean()))
    assert len(bright) > 20
    assert len(dark) > 8
    assert np.mean(np.array(bright)[:, None] > np.array(dark)) > 0.95


def test_styles_do_not_overlap() -> None:
    for name in ("blur_px", "photon", "stray", "gain", "black", "gamma", "unspecific", "expression"):
        varied, other, atlas = (getattr(style, name) for style in (VARIED, OTHER, ATLAS))
        assert varied[1] < other[0] or other[1] < varied[0], name
        assert varied[0] <= atlas[0] <= atlas[1] <= varied[1], name
    assert set(VARIED.lines) | set(OTHER.lines) == set(ATLAS.lines)
    assert not set(VARIED.lines) & set(OTHER.lines)
    assert OTHER.ordinary == 0
    lines = {image.cell_line for image in plan_images(60, 20, 0, OTHER.line_shares())}
    assert lines <= set(HELD_OUT_LINES)


@pytest.mark.parametrize(
    ("seed", "part", "classes", "sentence"),
    [
        (-1, 0, [0], "expected a seed between 0 and 4294967295, found -1"),
        (2**32, 0, [0], "expected a seed between"),
        (0, -1, [0], "expected a part between"),
        (0, 0, [28], "expected classes between 0 and 27, found \\[28\\]"),
        (0, 0, [], "expected classes between 0 and 27, found none"),
    ],
)
def test_arguments_outside_their_range_raise(seed: int, part: int, classes: list[int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        next(draw_training_scenes(seed, part, classes=classes))

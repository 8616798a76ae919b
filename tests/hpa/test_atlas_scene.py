"""One synthetic field of view: a pure function, with masks, nuclei and targets that agree."""

import numpy as np
import pytest

from hpa.atlas import Scene, draw_scene
from hpa.atlas.styles import CELL_LINES, SHARES
from hpa.channels import CHANNELS
from hpa.errors import UserError

GREEN = CHANNELS.index("green")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene((5, line), size_px=256, cell_line=line, target=(0, 23)) for line in range(len(CELL_LINES))]


def test_same_seed_gives_the_same_pixels(scenes: list[Scene]) -> None:
    again = draw_scene((5, 3), size_px=256, cell_line=3, target=(0, 23))
    assert again.channels.tobytes() == scenes[3].channels.tobytes()
    assert again.cells.tobytes() == scenes[3].cells.tobytes()
    assert again.targets == scenes[3].targets
    other = draw_scene((6, 3), size_px=256, cell_line=3, target=(0, 23))
    assert other.cells.tobytes() != scenes[3].cells.tobytes()


def test_omitting_the_protein_changes_nothing_else(scenes: list[Scene]) -> None:
    bare = draw_scene((5, 3), size_px=256, cell_line=3, target=(0, 23), protein=False)
    assert not bare.channels[GREEN].any()
    others = [position for position in range(4) if position != GREEN]
    np.testing.assert_array_equal(bare.channels[others], scenes[3].channels[others])
    np.testing.assert_array_equal(bare.cells, scenes[3].cells)
    np.testing.assert_array_equal(bare.nuclei, scenes[3].nuclei)


def test_shapes_and_dtypes(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.channels.shape == (4, 256, 256)
        assert scene.channels.dtype == np.uint8
        assert scene.cells.shape == scene.nuclei.shape == (256, 256)
        assert scene.cells.dtype == scene.nuclei.dtype == np.uint16


def test_every_cell_has_a_target_and_contains_its_nucleus(scenes: list[Scene]) -> None:
    for scene in scenes:
        labels = list(range(1, len(scene.targets) + 1))
        assert np.unique(scene.cells[scene.cells > 0]).tolist() == labels
        assert np.unique(scene.nuclei[scene.nuclei > 0]).tolist() == labels
        nuclei = scene.nuclei > 0
        np.testing.assert_array_equal(scene.cells[nuclei], scene.nuclei[nuclei])
        assert {label for target in scene.targets for label in target} <= set(range(28))
        assert all(list(target) == sorted(set(target)) for target in scene.targets)


def test_stains_are_where_the_cells_are(scenes: list[Scene]) -> None:
    """Blue in nuclei, red and yellow in the cytoplasm, black outside except for a few cells without a nucleus."""
    red, _, blue, yellow = np.stack([scene.channels.astype(float) for scene in scenes], axis=1)
    cells, nuclei = (np.stack([getattr(scene, name) > 0 for scene in scenes]) for name in ("cells", "nuclei"))
    cytoplasm, outside = cells & ~nuclei, ~cells
    assert blue[nuclei].mean() > 8 * blue[~nuclei].mean()
    for stain in (red, yellow):
        assert stain[cytoplasm].mean() > 1.4 * stain[nuclei].mean()
        assert stain[cytoplasm].mean() > 3 * stain[outside].mean()


def test_size_keeps_the_field_of_view() -> None:
    small, large = (draw_scene((8,), size_px=size, cell_line=0, protein=False) for size in (128, 512))
    assert (small.cells > 0).mean() == pytest.approx((large.cells > 0).mean(), abs=0.15)


def test_no_target_leaves_every_cell_negative() -> None:
    negative = [draw_scene((9, k), size_px=256) for k in range(8)]
    assert all(set(scene.targets) == {()} for scene in negative)
    positive = [draw_scene((9, k), size_px=256, target=(25,), shares=(1.0,)) for k in range(8)]
    # exposures differ by image, so only means over images say which ones hold a protein
    without, with_protein = (np.mean([scene.channels[GREEN] for scene in each]) for each in (negative, positive))
    assert without < 0.7 * with_protein


def test_shares_of_zero_and_one_are_exact() -> None:
    scene = draw_scene((10,), size_px=256, cell_line=1, target=(2, 21), shares=(1.0, 0.0))
    with_nucleoli = np.mean([2 in target for target in scene.targets])
    assert with_nucleoli > 0.8  # the rest are the few cells with an off-target label
    assert not any(target == (2, 21) for target in scene.targets)


def test_a_dividing_class_shows_a_dividing_cell() -> None:
    for label in (16, 17):
        carriers = [
            sum(
                label in target
                for target in draw_scene((label, k), size_px=192, target=(label,), shares=(1.0,)).targets
            )
            for k in range(4)
        ]
        assert min(carriers) >= 1
        assert np.mean(carriers) < 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"size_px": 32}, "expected a size of at least 64 px, found 32"),
        ({"cell_line": 99}, "expected a cell line 0..16, found 99"),
        ({"target": (28,)}, "expected labels 0..27"),
        ({"target": (1, 2), "shares": (1.0,)}, "expected a share for each of 2 labels, found 1"),
        ({"target": (1,), "shares": (1.5,)}, "expected shares between 0 and 1, found"),
    ],
)
def test_invalid_arguments_raise_one_sentence(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        draw_scene((1,), **arguments)  # type: ignore[arg-type]


def test_every_line_has_a_share() -> None:
    assert len(SHARES) == len(CELL_LINES)
    assert len({line.name for line in CELL_LINES}) == len(CELL_LINES)

"""Blur, photons, stray light, gain, black level, gamma, expression and forms do what their names say."""

from dataclasses import replace

import numpy as np
import pytest

from hpa.atlas.geometry.cells import grow_field
from hpa.atlas.imaging import ATLAS, ORDINARY, VARIED, Imaging, style_named
from hpa.atlas.optics import record
from hpa.atlas.scene import draw_scene
from hpa.atlas.styles import CELL_LINES
from hpa.errors import UserError
from hpa.vocabulary import HPA28

FIELD = grow_field(np.random.default_rng(1), CELL_LINES[0], (256, 256), dividing=0.03, telophase=0.02)


def recorded(light: np.ndarray, imaging: Imaging) -> np.ndarray:
    focus = np.zeros(FIELD.shape, np.float32)
    return record(np.random.default_rng(2), FIELD, light, "yellow", focus, 1.0, imaging=imaging).astype(float)


def test_editing_is_the_formula() -> None:
    plane = np.arange(256, dtype=np.uint8).reshape(16, 16)
    edited = Imaging(gain=1.5, black=10, gamma=2).edit(plane)
    for value, found in zip(plane.ravel().tolist(), edited.ravel().tolist(), strict=True):
        assert abs(found - 255 * min(max((value - 10) * 1.5 / 255, 0), 1) ** 2) <= 0.5
    assert edited.ravel()[-1] == 255
    assert edited.ravel()[10] == 0
    assert ORDINARY.edit(plane) is plane


def test_photons_scale_the_variance() -> None:
    light = np.ones(FIELD.shape, np.float32)
    ordinary, plain, noisy = (
        recorded(light, imaging).var() for imaging in (ORDINARY, Imaging(photon=1), Imaging(photon=2))
    )
    assert noisy / plain == pytest.approx(2, rel=0.1)
    assert ordinary == plain


def test_stray_light_moves_light_and_keeps_its_sum() -> None:
    light = np.full(FIELD.shape, 0.2, np.float32)  # so bright that the black level clips nothing
    light[96:160, 96:160] = 1
    ring = np.zeros(FIELD.shape, bool)
    ring[84:172, 84:172] = True
    ring[94:162, 94:162] = False
    plain, strayed = (recorded(light, Imaging(stray=stray, photon=0.01)) for stray in (0, 0.2))
    assert strayed[ring].mean() > plain[ring].mean() + 2
    assert strayed[98:102, 110:146].mean() < plain[98:102, 110:146].mean() - 2
    assert strayed.mean() == pytest.approx(plain.mean(), rel=0.05)


def test_blur_widens_a_spot() -> None:
    light = np.zeros(FIELD.shape, np.float32)
    light[128, 128] = 1
    sharp, soft = (recorded(light, Imaging(blur_px=blur, photon=0.01)) for blur in (0, 1.5))
    assert sharp.max() > 2 * soft.max()


def test_the_atlas_is_always_ordinary_and_others_often() -> None:
    rng = np.random.default_rng(0)
    assert all(ATLAS.draw(rng) == ORDINARY for _ in range(50))
    drawn = [VARIED.draw(rng) for _ in range(1000)]
    assert np.mean([imaging == ORDINARY for imaging in drawn]) == pytest.approx(VARIED.ordinary, abs=0.06)
    for name in ("blur_px", "photon", "stray", "gain", "black", "gamma"):
        low, high = getattr(VARIED, name)
        values = np.array([getattr(imaging, name) for imaging in drawn if imaging != ORDINARY])
        assert low <= values.min() <= values.max() <= high
        assert values.max() - values.min() > 0.9 * (high - low)


def test_an_unknown_style_raises() -> None:
    with pytest.raises(UserError, match=r"expected a style \(atlas, varied, other\), found 'odd'"):
        style_named("odd")


def test_other_forms_change_their_patterns_alone() -> None:
    styled = replace(ATLAS, ordinary=0, other_forms=1)
    for name, changes in (("Cytosol", False), ("Nucleoli", True), ("Intermediate filaments", True)):
        target = (HPA28.index(name),)
        plain, other = (
            draw_scene((7, 1), size_px=128, target=target, shares=(1.0,), style=style) for style in (ATLAS, styled)
        )
        assert np.array_equal(plain.channels[[0, 2, 3]], other.channels[[0, 2, 3]])
        assert np.array_equal(plain.channels[1], other.channels[1]) != changes


def test_expression_spreads_the_brightness_of_cells() -> None:
    spread = []
    for sigma in (0.2, 1.0):
        style = replace(ATLAS, ordinary=0, expression=(sigma, sigma))
        scenes = [
            draw_scene((7, n), size_px=256, cell_line=0, target=(25,), shares=(1.0,), style=style) for n in range(4)
        ]
        bright = [
            [scene.channels[1][scene.cells == label].mean() + 1 for label in range(1, len(scene.targets) + 1)]
            for scene in scenes
        ]
        spread.append(np.mean([np.std(np.log(values)) for values in bright]))
    assert spread[1] > 1.5 * spread[0]

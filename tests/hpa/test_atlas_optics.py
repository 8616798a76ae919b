"""Photon counts follow the Poisson distribution, and an averaged image has less noise than a sampled one."""

from math import exp, factorial

import cv2
import numpy as np
import pytest

from hpa.atlas import draw_scene
from hpa.atlas.geometry.cells import grow_field
from hpa.atlas.optics import count_photons, record
from hpa.atlas.styles import CELL_LINES

SHAPE = (400, 500)


@pytest.mark.parametrize("expected", [0.0, 0.004, 0.3, 2.0, 7.77, 14.99, 15.01, 80.0])
def test_counts_have_the_mean_and_variance_of_poisson(expected: float) -> None:
    counted = count_photons(np.random.default_rng(3), np.full(SHAPE, expected, np.float32)).astype(float)
    error = np.sqrt(expected / counted.size)
    assert counted.mean() == pytest.approx(expected, abs=5 * error + 2e-4 * expected)
    assert counted.var() == pytest.approx(expected, rel=0.03, abs=1e-4)
    assert (counted == counted.round()).all()
    assert counted.min() >= 0


@pytest.mark.parametrize("expected", [0.5, 3.3])
def test_counts_have_the_probabilities_of_poisson(expected: float) -> None:
    counted = count_photons(np.random.default_rng(4), np.full(SHAPE, expected, np.float32)).astype(int)
    for number in range(8):
        chance = exp(-expected) * expected**number / factorial(number)
        assert np.mean(counted == number) == pytest.approx(chance, abs=0.004)


def test_averaging_leaves_less_noise() -> None:
    field = grow_field(np.random.default_rng(1), CELL_LINES[0], (128, 128), dividing=0.03, telophase=0.02)
    light, focus = np.ones(field.shape, np.float32), np.zeros(field.shape, np.float32)
    noise = [
        record(np.random.default_rng(2), field, light, "yellow", focus, 1.0, averaged=averaged).std()
        for averaged in (False, True)
    ]
    assert noise[1] < 0.5 * noise[0]


def test_microtubules_and_er_share_the_thickness_of_the_cell() -> None:
    """Blurred planes of four real images correlate by 0.42 to 0.86, on average by 0.66."""
    found = []
    for number in range(10):
        scene = draw_scene((31, number), size_px=256, protein=False)
        red, yellow = (cv2.GaussianBlur(scene.channels[k].astype(np.float32), (0, 0), 2) for k in (0, 3))
        found.append(np.corrcoef(red.ravel(), yellow.ravel())[0, 1])
    assert 0.55 < np.mean(found) < 0.8

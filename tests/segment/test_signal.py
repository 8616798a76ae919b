"""What the network sees of an image."""

import numpy as np

from segment.inference.preprocess import planes_with_signal, prepare_input


def test_noise_is_no_signal_and_one_small_cell_is() -> None:
    draw = np.random.default_rng(0)
    noise = draw.normal(20, 4, (2, 150, 150)).astype(np.float32)
    assert not planes_with_signal(noise).any()
    assert not planes_with_signal(np.full((1, 20, 20), 7, np.float32)).any()
    noise[1, 40:44, 60:64] += 60
    assert planes_with_signal(noise).tolist() == [False, True]


def test_a_plane_of_noise_is_black_to_the_network() -> None:
    draw = np.random.default_rng(0)
    planes = draw.integers(0, 4, (2, 128, 128), dtype=np.uint8)
    planes[1, 40:60, 40:60] = 200
    seen = prepare_input(planes, 24.0)
    assert not seen.has_signal
    assert not seen.planes[0].any()
    assert seen.planes[1].max() > 0.9

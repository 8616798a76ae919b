"""Choose, reduce and normalise the planes of the network input."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from hpa.channels import Channel
from hpa.config import DataSection
from hpa.errors import UserError
from segment.config import SegmentSection
from segment.inference.preprocess import (
    channels_of,
    channels_to_read,
    even_nuclei,
    load_input,
    normalise,
    planes_with_signal,
    prepare_input,
    reduce_labels,
    reduce_planes,
    without_haze,
)
from segment.network.compact import ER, MICROTUBULES, NUCLEUS_PLANE
from segment.network.scale import network_shape


def test_channels_are_those_of_the_recipe_if_the_data_have_them() -> None:
    all_channels, rgb = DataSection(), DataSection(channels=("red", "green", "blue"))
    both = SegmentSection(channels=("yellow", "blue", "red"))
    assert channels_to_read(SegmentSection(), all_channels) == ("yellow", "blue")
    assert channels_to_read(both, all_channels) == ("yellow", "blue", "red")
    assert channels_to_read(both, rgb) == ("red", "blue")
    mixed = SegmentSection(channels=("yellow|red", "blue"))
    assert channels_to_read(mixed, all_channels) == ("yellow|red", "blue")
    assert channels_of(mixed.channels) == ("yellow", "red", "blue")
    assert channels_to_read(mixed, rgb) == ("red", "blue")
    with pytest.raises(UserError, match="found no red"):
        channels_to_read(SegmentSection(channels=("red", "blue")), DataSection(channels=("yellow", "blue")))


@pytest.mark.parametrize(
    "channels", [("yellow",), ("yellow", "red"), ("yellow|red", "yellow", "blue"), ("yellow|blue",), ("green", "blue")]
)
def test_channels_without_a_nucleus_of_its_own_are_refused(channels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected blue with yellow, red, both or their mixture"):
        SegmentSection(channels=channels)


def test_a_mixture_feeds_the_microtubules_and_leaves_the_er_empty() -> None:
    """Two cells, one seen in the ER only and one in the microtubules only, ten times as bright."""
    rng = np.random.default_rng(0)
    planes = np.zeros((3, 64, 64), dtype=np.uint8)
    planes[0, 8:24, 8:24] = rng.integers(10, 25, (16, 16))
    planes[1, 40:56, 40:56] = rng.integers(100, 250, (16, 16))
    planes[2, 12:18, 12:18] = planes[2, 44:50, 44:50] = 90
    apart = prepare_input(planes, 30.0, ("yellow", "red", "blue")).planes
    highest = prepare_input(planes, 30.0, ("yellow|red", "blue")).planes
    mean = prepare_input(planes, 30.0, ("yellow+red", "blue")).planes
    assert not highest[ER].any()
    assert not mean[ER].any()
    assert np.array_equal(highest[MICROTUBULES], np.maximum(apart[ER], apart[MICROTUBULES]))
    assert np.array_equal(highest[NUCLEUS_PLANE], apart[NUCLEUS_PLANE])
    assert mean[MICROTUBULES, 8:24, 8:24].mean() < 0.2 < 0.5 < highest[MICROTUBULES, 8:24, 8:24].mean()


def test_images_and_labels_are_reduced_to_the_network_shape() -> None:
    assert network_shape(512, 1024, 100) == (154, 307)
    assert network_shape(8, 8, 1000) == (16, 16)
    labels = np.array([[1, 2], [0, 3]], dtype=np.uint16).repeat(4, axis=0).repeat(4, axis=1)
    assert reduce_labels(labels, (2, 2)).tolist() == [[1, 2], [0, 3]]
    assert reduce_planes(labels[np.newaxis], (2, 2)).tolist() == [[[1, 2], [0, 3]]]


@pytest.mark.parametrize("order", [("yellow", "blue", "red"), ("red", "yellow", "blue"), ("blue", "red")])
def test_each_channel_feeds_its_own_input_of_the_network(order: tuple[Channel, ...], tmp_path: Path) -> None:
    """The ER is bright at the top, the nucleus in the middle, microtubules at the bottom."""
    bands = {"yellow": 0, "blue": 20, "red": 40}
    row: dict[str, object] = {}
    for channel, top in bands.items():
        plane = np.zeros((60, 60), dtype=np.uint8)
        plane[top : top + 20] = 200
        cv2.imwrite(str(tmp_path / f"{channel}.png"), plane)
        row |= {f"path_{channel}": str(tmp_path / f"{channel}.png"), f"plane_{channel}": -1}
    loaded = load_input(row, order, 30.0)
    inputs = {"yellow": ER, "blue": NUCLEUS_PLANE, "red": MICROTUBULES}
    assert sorted(inputs.values()) == [0, 1, 2]
    for channel, index in inputs.items():
        bright = loaded.planes[index].mean(axis=1) > 0.5
        expected = np.arange(60) // 20 == bands[channel] // 20
        assert (bright == (expected & (channel in order))).all()


def test_planes_that_grow_along_one_side_only_are_interpolated() -> None:
    plane = np.array([[0, 100, 200]], dtype=np.uint8).repeat(20, axis=0)
    wide = reduce_planes(plane[np.newaxis], (10, 12))[0]
    assert len(np.unique(wide)) > 3, "nearest neighbours would repeat three values"
    np.testing.assert_allclose(wide.mean(), 100, atol=1)


def test_haze_of_a_tenth_is_taken_back() -> None:
    """Cells of which a tenth of the light scatters by 6 px look nearly as without it; the rest is of second order."""
    clean = np.zeros((80, 80), dtype=np.float32)
    clean[10:40, 10:40], clean[50:70, 30:75] = 1, 3
    hazy = 0.9 * clean + 0.1 * cv2.GaussianBlur(clean, (0, 0), 6)
    assert np.abs(hazy - clean).max() > 0.12
    assert np.abs(without_haze(hazy) - clean).max() < 0.02
    assert np.allclose(without_haze(np.full((20, 20), 0.7, dtype=np.float32)), 0.7)


def test_nuclei_far_apart_become_nearly_as_bright_as_each_other() -> None:
    plane = np.zeros((60, 160), dtype=np.float32)
    plane[25:35, 25:35] = 1
    plane[28:32, 28:32] = 0.5  # a dark nucleolus
    plane[:, 100:] = 0.2 * plane[:, :60]
    even = even_nuclei(plane)
    assert even[30, 26] / even[30, 126] == pytest.approx(5**0.3, rel=0.01)
    assert even[30, 130] / even[30, 126] == pytest.approx(0.5, rel=0.02), "within a nucleus the ratio stays"
    assert (even[plane == 0] == 0).all()


def test_dark_places_are_amplified_to_a_limit() -> None:
    noise = np.random.default_rng(0).random((50, 50), dtype=np.float32) * 0.01
    np.testing.assert_allclose(even_nuclei(noise), noise / 0.1**0.7, rtol=1e-5)


def test_normalising_flat_and_sparse_planes() -> None:
    planes = np.zeros((3, 50, 50), dtype=np.float32)
    planes[1] = 7
    planes[2, 0, 0] = 100
    scaled = normalise(planes)
    assert not scaled[:2].any()
    assert scaled[2, 0, 0] == 10  # the scale is a tenth of the range, not the span of the background
    ramp = normalise(np.arange(101, dtype=np.float32).reshape(1, 1, 101))
    assert ramp[0, 0, [1, 99]].tolist() == [0, 1]


def test_noise_is_not_signal_and_one_small_cell_is() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(20, 4, (2, 150, 150)).astype(np.float32)
    assert not planes_with_signal(noise).any()
    assert not planes_with_signal(np.full((1, 20, 20), 7, np.float32)).any()
    noise[1, 40:44, 60:64] += 60
    assert planes_with_signal(noise).tolist() == [False, True]


def test_a_plane_of_noise_is_set_to_zero() -> None:
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 4, (2, 128, 128), dtype=np.uint8)
    planes[1, 40:60, 40:60] = 200
    image = prepare_input(planes, 24.0)
    assert not image.has_signal
    assert not image.planes[0].any()
    assert image.planes[1].max() > 0.9

"""Run a network over tiles and batches."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segment.inference.predict import run_network
from segment.inference.preprocess import NetworkInput, even_nuclei, without_haze
from segment.network.compact import ER, INPUTS, JOINED, NUCLEUS_PLANE, OUTPUTS, CompactNetwork

CPU = torch.device("cpu")


def as_input(planes: NDArray[np.float32]) -> NetworkInput:
    return NetworkInput(planes, (planes.shape[1], planes.shape[2]), has_signal=True, diameter_px=98.0)


def test_a_small_image_is_one_padded_tile(net: CompactNetwork) -> None:
    """A small image is one zero-padded tile, so the output equals that of the network itself."""
    image = np.random.default_rng(0).random((INPUTS, 37, 50), dtype=np.float32)
    taken = image.copy()
    taken[ER], taken[NUCLEUS_PLANE] = without_haze(image[ER]), even_nuclei(image[NUCLEUS_PLANE])
    padded = np.pad(taken, [(0, 0), (5, 6), (7, 7)])
    with torch.inference_mode():
        expected = net(torch.from_numpy(padded[np.newaxis]))[0].numpy()[0, :, 5:42, 7:57]
    (output,) = run_network(net, [as_input(image)])
    expected[-3:-1] /= 5
    assert np.allclose(output, expected, atol=1e-5)


def test_a_large_image_is_cut_and_joined(net: CompactNetwork) -> None:
    """Far from the seams, tiling gives the same output as the complete image."""
    image = np.random.default_rng(0).random((INPUTS, 64, 480), dtype=np.float32)
    image[[ER, NUCLEUS_PLANE]] = 0  # which are changed before the network sees them
    with torch.inference_mode():
        expected = net(torch.from_numpy(image[np.newaxis]))[0].numpy()[0]
    expected[-3:-1] /= 5
    (output,) = run_network(net, [as_input(image)], 2)
    assert output.shape == (OUTPUTS, 64, 480)
    assert np.allclose(output[:, :, :60], expected[:, :, :60], atol=0.02 * np.abs(expected).max())


class Recording(torch.nn.Module):
    """Network that adds one to its input, records the batches, and has room for a few tiles only."""

    dtype, device = torch.float32, CPU

    def __init__(self, room: int, backbone: str = "compact") -> None:
        super().__init__()
        self.backbone = backbone
        self.room, self.batches = room, list[tuple[int, ...]]()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(x) > self.room:
            raise torch.OutOfMemoryError
        self.batches.append(tuple(x.shape))
        return x + 1, torch.zeros(len(x), 256)


def test_tiles_of_different_images_share_batches() -> None:
    rng = np.random.default_rng(0)
    sizes = [(30, 40), (32, 48), (27, 33), (31, 47), (64, 64)]
    images = [rng.random((5, *size), dtype=np.float32) for size in sizes]
    net = Recording(room=8)
    outputs = run_network(net, [as_input(image) for image in images])
    assert sorted(net.batches) == [(1, 5, 64, 64), (4, 5, 32, 48)]
    for image, output in zip(images, outputs, strict=True):
        assert np.allclose(output[-1], image[-1] + 1)
        assert np.allclose(output[-2], (image[-2] + 1) / 5)


def test_only_the_compact_network_gets_er_without_haze_and_even_nuclei() -> None:
    """A bright square over a dim surrounding: beside the square the ER becomes dimmer, far from it nuclei brighter."""
    image = np.full((2 * INPUTS, 64, 64), 0.1, dtype=np.float32)  # so that none of the inputs is scaled as a flow
    image[:, 24:40, 24:40] = 1
    before = image.copy()
    (output,) = run_network(Recording(room=8), [as_input(image)])
    assert np.array_equal(image, before)
    assert (output[ER, 31, [20, 43]] < 1.08).all()
    assert (output[NUCLEUS_PLANE, 0, [0, -1]] > 1.2).all()
    assert np.allclose(output[JOINED], image[JOINED] + 1)
    (documented,) = run_network(Recording(room=8, backbone="sam_vitl"), [as_input(image)])
    assert np.allclose(documented[:INPUTS], image[:INPUTS] + 1)


def test_a_batch_that_exceeds_memory_is_split_in_half() -> None:
    images = [np.full((5, 16, 16), value, dtype=np.float32) for value in range(11)]
    net = Recording(room=2)
    outputs = run_network(net, [as_input(image) for image in images])
    assert [batch[0] for batch in net.batches] == [2, 2, 2, 2, 2, 1]
    assert [output[-1, 0, 0] for output in outputs] == [value + 1 for value in range(11)]
    with pytest.raises(torch.OutOfMemoryError):
        run_network(Recording(room=0), [as_input(image) for image in images])

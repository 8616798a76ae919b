"""The inputs, outputs and initial weights of the compact network."""

import torch

from segment.network.compact import INPUTS, OUTPUTS, CompactNetwork, new_network


def test_every_input_plane_affects_the_output(net: CompactNetwork) -> None:
    planes = torch.rand(2, INPUTS, 48, 32)
    with torch.inference_mode():
        output, style = net(planes)
    assert output.shape == (2, OUTPUTS, 48, 32)
    assert style.shape == (2, 256)
    for plane in range(INPUTS):
        other = planes.clone()
        other[:, plane] += 1
        with torch.inference_mode():
            assert not torch.equal(net(other)[0], output), f"plane {plane} has no effect"


def test_initial_weights_depend_only_on_the_seed() -> None:
    first, second = new_network(5).state_dict(), new_network(5).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(value, first[key]) for key, value in new_network(6).state_dict().items())


def test_the_rearrangement_of_pixels_is_not_trained() -> None:
    """It is a parameter for Cellpose's sake; each output pixel is exactly one channel of the last convolution."""
    network = new_network(0)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert "W2" not in trained
    assert {"stem.weight", "out.weight", "out.bias"} <= trained

"""Stems, attention and pooling around a backbone."""

import numpy as np
import pytest
import torch
from torch import nn

from classify.config import ClassifySection, Features, Stem
from classify.network.backbones import feature_map_shape, new_backbone
from classify.network.layers import (
    Cbam,
    FeaturePooling,
    GatedAttention,
    add_cbam,
    new_adapter,
    widen_stem,
)
from classify.network.model import Network


def _pixels(channels: int, side: int = 64, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 255, (n, channels, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stem", ["average", "adapter"])
def test_one_to_five_channels_of_any_crop_size(channels: int, stem: Stem) -> None:
    section = ClassifySection(backbone="cnn3", stem=stem)
    network = Network(section, channels, 6, np.zeros(channels), np.ones(channels)).eval()
    for side in (16, 40):
        assert network(_pixels(channels, side)).logits.shape == (2, 6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_copied_filters_repeat_in_turn(channels: int) -> None:
    filters = torch.randn(2, 3, 7, 7)
    wide = widen_stem(filters, channels, "copy")
    for c in range(channels):
        assert torch.equal(wide[:, c], filters[:, c % 3])


def test_adapter_starts_as_identity_on_the_first_three_channels() -> None:
    x = torch.rand(1, 4, 2, 2)
    with torch.no_grad():
        out = new_adapter(4)(x)
        torch.testing.assert_close(out, x[:, :3] + x[:, 3:] / 3)
        torch.testing.assert_close(new_adapter(1)(x[:, :1]), x[:, :1].expand(-1, 3, -1, -1))


@pytest.mark.parametrize(("name", "stages"), [("resnet18", 4), ("densenet121", 4), ("cnn3", 2)])
def test_cbam_follows_every_stage(name: str, stages: int) -> None:
    backbone = new_backbone(name)
    attended = add_cbam(backbone)
    blocks = [layer for layer in attended.modules() if isinstance(layer, Cbam)]
    assert len(blocks) == stages
    assert feature_map_shape(attended) == feature_map_shape(backbone)


def test_cbam_matches_its_formula() -> None:
    block = Cbam(3, reduction=1)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(block(x), x / 4)  # a sigmoid of nothing is one half, twice
    nn.init.constant_(block.channel[2].bias, 20.0)  # type: ignore[arg-type]
    block.spatial.weight.data[0, 0, 3, 3] = 20.0  # weighs the mean over channels at the same position
    expected = x * torch.sigmoid(20 * x.mean(1, keepdim=True))
    torch.testing.assert_close(block(x), expected)


def test_gated_attention_matches_its_formula() -> None:
    layer = GatedAttention(3, hidden=2)
    features = torch.randn(4, 3)
    hidden = torch.tanh(features @ layer.value.weight.T + layer.value.bias)
    gate = 1 / (1 + torch.exp(-(features @ layer.gate.weight.T + layer.gate.bias)))
    torch.testing.assert_close(layer(features), ((hidden * gate) @ layer.score.weight.T)[:, 0] + layer.score.bias)


@pytest.mark.parametrize(("kind", "width"), [("average", 3), ("maximum", 3), ("both", 6), ("gem", 3)])
def test_feature_pooling_equals_numpy(kind: Features, width: int) -> None:
    x = torch.rand(2, 3, 4, 5) + 0.1
    layer = FeaturePooling(kind)
    assert layer.width(3) == width
    flat = x.numpy().reshape(2, 3, -1).astype(np.float64)
    expected = {
        "average": flat.mean(2),
        "maximum": flat.max(2),
        "both": np.concatenate([flat.mean(2), flat.max(2)], axis=1),
        "gem": (flat**3).mean(2) ** (1 / 3),
    }[kind]
    with torch.no_grad():
        np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-5)


def test_generalised_mean_ranges_from_average_to_maximum() -> None:
    x = torch.rand(2, 3, 4, 4) + 0.1
    layer = FeaturePooling("gem")
    assert layer.p is not None
    with torch.no_grad():
        layer.p.fill_(1.0)
        torch.testing.assert_close(layer(x), x.mean((2, 3)))
        layer.p.fill_(150.0)
        torch.testing.assert_close(layer(x), x.amax((2, 3)), rtol=0.03, atol=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_widened_stem_keeps_rgb_and_gives_further_channels_the_mean(channels: int) -> None:
    filters = torch.randn(2, 3, 7, 7)
    wide = widen_stem(filters, channels)
    mean = (filters[:, 0] + filters[:, 1] + filters[:, 2]) / 3
    assert wide.shape == (2, channels, 7, 7)
    for c in range(channels):
        torch.testing.assert_close(wide[:, c], filters[:, c] if c < 3 <= channels else mean)

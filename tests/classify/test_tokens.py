"""Transformers of timm as backbones: the same tokens as the library's, laid out where their patches are."""

import pytest
import torch

from classify.config import ClassifySection
from classify.network.backbones import new_backbone
from classify.network.layers import first_convolution
from classify.network.model import new_network

timm = pytest.importorskip("timm")
VIT, DINO, SWIN = "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "swin_tiny_patch4_window7_224"


def _tokens_and_map(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the library's model and our backbone make of an image, with the same weights."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0, global_pool="").eval()
    backbone = new_backbone(f"timm:{name}").eval()
    backbone.load_state_dict({f"model.model.{key}": value for key, value in model.state_dict().items()})
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        return model.forward_features(x)[0], backbone(x)[0]


def test_patch_tokens_keep_their_places() -> None:
    tokens, found = _tokens_and_map(VIT)
    assert found.shape == (192, 14, 14)
    for row, column in ((0, 0), (2, 5), (13, 13)):
        torch.testing.assert_close(found[:, row, column], tokens[1 + 14 * row + column], rtol=1e-4, atol=1e-4)


def test_windowed_tokens_keep_their_places() -> None:
    expected, found = _tokens_and_map(SWIN)
    assert found.shape == (768, 7, 7)
    torch.testing.assert_close(found[:, 1, 6], expected[1, 6], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [VIT, DINO, SWIN])
def test_four_channels_of_any_size(name: str) -> None:
    network = new_network(ClassifySection(backbone=f"timm:{name}"), 0, [9.0] * 4, [5.0] * 4, [0.5, 0.2])
    generator = torch.Generator().manual_seed(0)
    for side in (64, 100):
        pixels = torch.randint(0, 255, (2, 4, side, side), dtype=torch.uint8, generator=generator)
        network(pixels).logits.sum().backward()
    gradient = first_convolution(network.backbone).weight.grad
    assert gradient is not None
    assert gradient.shape[1] == 4
    assert (gradient.abs().amax((0, 2, 3)) > 1e-3 * gradient.abs().max()).all(), "every channel is learned from"

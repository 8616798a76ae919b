"""Backbones: taken apart they are still the library's; stems, attention and pooling around them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import get_model

from classify.config import ClassifySection, Features, Stem
from classify.network.backbones import feature_map, new_backbone
from classify.network.features import FeaturePooling
from classify.network.layers import Cbam, GatedAttention, with_cbam
from classify.network.model import Network, check_input, new_network
from classify.network.stem import first_convolution, new_adapter, widen_stem
from hpa.errors import UserError

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is an extra")
HEADS = {"resnet18": "fc", "densenet121": "classifier", "efficientnet_b0": "classifier", "inception_v3": "fc"}


def _pixels(channels: int, side: int = 64, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 255, (n, channels, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "efficientnet_b0", pytest.param("inception_v3", marks=pytest.mark.slow)]
)
def test_a_backbone_taken_apart_says_what_the_library_s_model_says(name: str) -> None:
    options = {"aux_logits": False, "init_weights": True} if name == "inception_v3" else {}
    torch.manual_seed(0)
    model = get_model(name, weights=None, **options).eval()
    backbone = new_backbone(name).eval()
    backbone.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith(HEADS[name])})
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        features = backbone(x).mean((2, 3))
        torch.testing.assert_close(getattr(model, HEADS[name])(features), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stem", ["average", "adapter"])
def test_one_to_five_channels_of_any_size(channels: int, stem: Stem) -> None:
    section = ClassifySection(backbone="cnn3", stem=stem)
    network = Network(section, channels, 6, np.zeros(channels), np.ones(channels)).eval()
    for side in (16, 40):
        assert network(_pixels(channels, side)).logits.shape == (2, 6)


@pytest.mark.parametrize(
    "name", ["convnext_tiny", "mobilenet_v3_small", pytest.param("timm:resnet10t", marks=needs_timm)]
)
def test_other_families_train_a_step(name: str) -> None:
    network = new_network(ClassifySection(backbone=name), 0, [9.0] * 4, [5.0] * 4, [0.5, 0.2])
    network(_pixels(4)).logits.sum().backward()
    gradient = first_convolution(network.backbone).weight.grad
    assert gradient is not None
    assert gradient.shape[1] == 4
    assert torch.count_nonzero(gradient) > 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet19", "expected a torchvision model"),
        ("vit_b_16", "ends in a feature map, found vit_b_16"),
        ("fasterrcnn_resnet50_fpn", "expected a torchvision model"),
        pytest.param("timm:nothing", "expected a model of timm", marks=needs_timm),
        pytest.param("timm:vit_tiny_patch16_224", "ends in a feature map", marks=needs_timm),
    ],
)
def test_an_unusable_backbone_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        new_backbone(name)


def test_there_are_no_pretrained_weights_of_the_plain_network() -> None:
    with pytest.raises(UserError, match="there are none of cnn3"):
        new_network(ClassifySection(backbone="cnn3", pretrained=True), 0, [0.0], [1.0], [0.5])


def test_crops_too_small_for_a_backbone_are_one_sentence() -> None:
    network = Network(ClassifySection(backbone="cnn3"), 2, 3, [0.0] * 2, [1.0] * 2)
    check_input(network, 2, 8)
    with pytest.raises(UserError, match=r"found 4 px \(set classify.input_px"):
        check_input(network, 2, 4)
    larger = Network(ClassifySection(backbone="cnn3", input_px=32), 2, 3, [0.0] * 2, [1.0] * 2)
    check_input(larger, 2, 4)


def test_weights_from_a_file(tmp_path: Path) -> None:
    donor = new_backbone("cnn3")
    torch.save({"state_dict": donor.state_dict()}, tmp_path / "cnn3.pt")
    section = ClassifySection(backbone="cnn3", weights_file=str(tmp_path / "cnn3.pt"))
    network = new_network(section, 0, [0.0] * 4, [1.0] * 4, [0.5])
    own = network.backbone.state_dict()
    for name, tensor in donor.state_dict().items():
        if name != "conv1.weight":
            assert torch.equal(own[name], tensor), name
    assert torch.equal(own["conv1.weight"], widen_stem(donor.state_dict()["conv1.weight"], 4))
    with pytest.raises(UserError, match="expected a file of weights, found no"):
        new_network(ClassifySection(weights_file=str(tmp_path / "none")), 0, [0.0], [1.0], [0.5])
    (tmp_path / "cnn3.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match="found another or a damaged file"):
        new_network(section, 0, [0.0] * 4, [1.0] * 4, [0.5])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_copied_filters_come_in_turn(channels: int) -> None:
    filters = torch.randn(2, 3, 7, 7)
    wide = widen_stem(filters, channels, "copy")
    for c in range(channels):
        assert torch.equal(wide[:, c], filters[:, c % 3])


def test_an_adapter_starts_by_handing_through() -> None:
    x = torch.rand(1, 4, 2, 2)
    with torch.no_grad():
        out = new_adapter(4)(x)
        torch.testing.assert_close(out, x[:, :3] + x[:, 3:] / 3)
        torch.testing.assert_close(new_adapter(1)(x[:, :1]), x[:, :1].expand(-1, 3, -1, -1))


@pytest.mark.parametrize(("name", "stages"), [("resnet18", 4), ("densenet121", 4), ("cnn3", 2)])
def test_attention_stands_after_every_stage(name: str, stages: int) -> None:
    backbone = new_backbone(name)
    attended = with_cbam(backbone)
    blocks = [layer for layer in attended.modules() if isinstance(layer, Cbam)]
    assert len(blocks) == stages
    assert feature_map(attended) == feature_map(backbone)


def test_attention_by_hand() -> None:
    block = Cbam(3, reduction=1)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(block(x), x / 4)  # a sigmoid of nothing is one half, twice
    nn.init.constant_(block.channel[2].bias, 20.0)  # type: ignore[arg-type]
    block.place.weight.data[0, 0, 3, 3] = 20.0  # looks at the mean over channels, at the same place
    expected = x * torch.sigmoid(20 * x.mean(1, keepdim=True))
    torch.testing.assert_close(block(x), expected)


def test_gated_attention_is_its_formula() -> None:
    layer = GatedAttention(3, hidden=2)
    features = torch.randn(4, 3)
    hidden = torch.tanh(features @ layer.what.weight.T + layer.what.bias)
    gate = 1 / (1 + torch.exp(-(features @ layer.gate.weight.T + layer.gate.bias)))
    torch.testing.assert_close(layer(features), ((hidden * gate) @ layer.score.weight.T)[:, 0] + layer.score.bias)


@pytest.mark.parametrize(("kind", "width"), [("average", 3), ("maximum", 3), ("both", 6), ("gem", 3)])
def test_feature_pooling_against_numpy(kind: Features, width: int) -> None:
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


def test_the_generalised_mean_goes_from_average_to_maximum() -> None:
    x = torch.rand(2, 3, 4, 4) + 0.1
    layer = FeaturePooling("gem")
    assert layer.p is not None
    with torch.no_grad():
        layer.p.fill_(1.0)
        torch.testing.assert_close(layer(x), x.mean((2, 3)))
        layer.p.fill_(150.0)
        torch.testing.assert_close(layer(x), x.amax((2, 3)), rtol=0.03, atol=0)


def test_frozen_is_all_but_stem_attention_and_heads() -> None:
    network = Network(ClassifySection(attention="cbam", embedding_dim=2), 4, 3, [0.0] * 4, [1.0] * 4).train()
    network.freeze(True)
    moving = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {name for name in moving if "cbam" not in name} == {
        *("backbone.conv1.weight", "head.weight", "head.bias", "embedding.weight", "embedding.bias")
    }
    assert any("cbam" in name for name in moving)
    before = network.backbone.state_dict()["layer1.0.bn1.running_mean"].clone()
    network(_pixels(4))
    assert torch.equal(network.backbone.state_dict()["layer1.0.bn1.running_mean"], before)
    network.freeze(False)
    assert all(parameter.requires_grad for parameter in network.parameters())
    network(_pixels(4))
    assert not torch.equal(network.backbone.state_dict()["layer1.0.bn1.running_mean"], before)

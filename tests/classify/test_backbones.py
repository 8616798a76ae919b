"""Backbones: their layers are still the library's, and unusable ones are errors."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model

from classify.config import ClassifySection
from classify.network.backbones import new_backbone, resnet18
from classify.network.layers import (
    first_convolution,
    widen_stem,
)
from classify.network.model import Network, check_input, new_network
from classify.network.pretrained import Start
from classify.network.start import read_start
from hpa.errors import UserError

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is an extra")
HEADS = {"resnet18": "fc", "densenet121": "classifier", "efficientnet_b0": "classifier", "inception_v3": "fc"}


def _pixels(channels: int, side: int = 64, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 255, (n, channels, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "efficientnet_b0", pytest.param("inception_v3", marks=pytest.mark.slow)]
)
def test_backbone_and_head_give_the_output_of_the_library_model(name: str) -> None:
    options = {"aux_logits": False, "init_weights": True} if name == "inception_v3" else {}
    torch.manual_seed(0)
    model = get_model(name, weights=None, **options).eval()
    backbone = new_backbone(name).eval()
    backbone.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith(HEADS[name])})
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        features = backbone(x).mean((2, 3))
        torch.testing.assert_close(getattr(model, HEADS[name])(features), model(x), rtol=1e-4, atol=1e-4)


def test_resnet18_of_full_width_is_that_of_torchvision() -> None:
    model = get_model("resnet18", weights=None).eval()
    backbone = resnet18(64).eval()
    backbone.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("fc")})
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model.fc(backbone(x).mean((2, 3))), model(x))


def test_half_of_resnet18_has_a_quarter_of_its_weights() -> None:
    backbone = new_backbone("resnet18_half")
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 2_798_880
    for side in (64, 128):
        assert backbone.eval()(torch.zeros(1, 3, side, side)).shape == (1, 256, side // 32, side // 32)


@pytest.mark.parametrize(
    "name", ["convnext_tiny", "mobilenet_v3_small", pytest.param("timm:resnet10t", marks=needs_timm)]
)
def test_gradients_reach_the_stem_of_other_families(name: str) -> None:
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
        pytest.param("timm:hiera_tiny_224", "ends in a feature map", marks=needs_timm),
    ],
)
def test_unusable_backbone_raises_an_error(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        new_backbone(name)


@pytest.mark.parametrize("name", ["cnn3", "resnet18_half"])
def test_some_backbones_have_no_imagenet_weights(name: str) -> None:
    with pytest.raises(UserError, match=f"found {name}, of which there are none"):
        read_start(ClassifySection(backbone=name, pretrained="imagenet"), ["red"], ["one"])


def test_crops_too_small_for_a_backbone_raise_an_error() -> None:
    network = Network(ClassifySection(backbone="cnn3"), 2, 3, [0.0] * 2, [1.0] * 2)
    check_input(network, 2, 8)
    with pytest.raises(UserError, match=r"found 4 px \(set classify.input_px"):
        check_input(network, 2, 4)
    larger = Network(ClassifySection(backbone="cnn3", input_px=32), 2, 3, [0.0] * 2, [1.0] * 2)
    check_input(larger, 2, 4)


def test_weights_are_read_from_a_file(tmp_path: Path) -> None:
    donor = new_backbone("cnn3")
    torch.save({"state_dict": donor.state_dict()}, tmp_path / "cnn3.pt")
    section = ClassifySection(backbone="cnn3", pretrained=str(tmp_path / "cnn3.pt"))
    channels = ["red", "green", "blue", "yellow"]
    start = read_start(section, channels, ["one"])
    own = new_network(section, 0, [0.0] * 4, [1.0] * 4, [0.5], start).backbone.state_dict()
    for name, tensor in donor.state_dict().items():
        if name != "conv1.weight":
            assert torch.equal(own[name], tensor), name
    assert torch.equal(own["conv1.weight"], widen_stem(donor.state_dict()["conv1.weight"], 4))
    wide = Network(section, 4, 1, [0.0] * 4, [1.0] * 4).backbone.state_dict()
    torch.save(wide, tmp_path / "cnn3.pt")
    own = new_network(
        section, 0, [0.0] * 4, [1.0] * 4, [0.5], read_start(section, channels, ["one"])
    ).backbone.state_dict()
    assert torch.equal(own["conv1.weight"], wide["conv1.weight"]), "a stem of the run's channels is taken as it is"
    with pytest.raises(UserError, match="expected weights with a stem of 3 or 2 channels, found 4"):
        new_network(section, 0, [0.0] * 2, [1.0] * 2, [0.5], read_start(section, channels[:2], ["one"]))
    with pytest.raises(UserError, match="expected a file of weights, found no"):
        read_start(ClassifySection(pretrained=str(tmp_path / "none")), channels, ["one"])
    (tmp_path / "cnn3.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match="found another or a damaged file"):
        read_start(section, channels, ["one"])


def test_new_parts_are_an_extended_stem_attention_and_heads() -> None:
    start = Start(new_backbone("resnet18").state_dict())
    section = ClassifySection(backbone="resnet18", attention="cbam", embedding_dim=2)
    network = Network(section, 4, 3, [0.0] * 4, [1.0] * 4, start=start).train()
    network.train_only(network.parameters_of(["new"]))
    network.train_mode()
    moving = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {name for name in moving if "cbam" not in name} == {
        *("backbone.conv1.weight", "head.weight", "head.bias", "embedding.weight", "embedding.bias")
    }
    assert any("cbam" in name for name in moving)
    before = network.backbone.state_dict()["layer1.0.bn1.running_mean"].clone()
    network(_pixels(4))
    assert torch.equal(network.backbone.state_dict()["layer1.0.bn1.running_mean"], before)
    network.train_only(network.parameters_of(["all"]))
    network.train_mode()
    assert all(parameter.requires_grad for parameter in network.parameters())
    network(_pixels(4))
    assert not torch.equal(network.backbone.state_dict()["layer1.0.bn1.running_mean"], before)

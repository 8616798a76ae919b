"""Pooled features of several stages are those of the feature maps at their ends."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from classify.config import ClassifySection
from classify.network.backbones import new_backbone
from classify.network.model import Network
from classify.training.fit import fit
from hpa.errors import UserError
from tests.support.bright_crops import bright_fold

STATS = ([60.0] * 4, [50.0] * 4)
PIXELS = torch.from_numpy(bright_fold().source.pixels(bright_fold().training[:3]))


def _hooked(network: Network, modules: list[nn.Module]) -> list[Tensor]:
    """Return the outputs of modules while the network sees the crops."""
    seen: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda *call: seen.append(call[2].detach().clone())) for module in modules]
    with torch.inference_mode():
        network.eval()(PIXELS)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("attention", ["none", "cbam"])
@pytest.mark.parametrize("pooling", ["average", "both"])
def test_features_of_stages_of_a_resnet_are_joined(pooling: str, attention: str) -> None:
    change = {"backbone": "resnet18", "feature_stages": [2, 3, 4], "features": pooling, "attention": attention}
    network = Network(ClassifySection.model_validate(change), 4, 3, *STATS)
    chain = dict(network.backbone.named_children())
    ends = [f"layer{k}" for k in (2, 3, 4)]
    if attention == "cbam":  # it follows each stage
        ends = [list(chain)[list(chain).index(name) + 1] for name in ends]
    maps = _hooked(network, [chain[name] for name in ends])
    expected = [part for one in maps for part in [one.mean((2, 3)), one.amax((2, 3))][: 1 + (pooling == "both")]]
    with torch.inference_mode():
        features = network.eval()(PIXELS).features
    torch.testing.assert_close(features, torch.cat(expected, dim=1))
    assert features.shape[1] == (128 + 256 + 512) * (1 + (pooling == "both"))


@pytest.mark.parametrize(
    ("backbone", "ends"),
    [
        ("timm:resnet10t", ["layer2", "layer3", "layer4"]),
        ("timm:efficientnet_b0", ["blocks.1", "blocks.2", "blocks.4"]),
    ],
)
def test_features_of_stages_of_timm_are_joined(backbone: str, ends: list[str]) -> None:
    pytest.importorskip("timm")
    stages = [2, 3, 4] if "resnet" in backbone else [2, 3, 5]
    section = ClassifySection(backbone=backbone, feature_stages=tuple(stages), pretrained="none", input_px=64)
    network = Network(section, 4, 3, *STATS)
    model = network.backbone.get_submodule("model")
    maps = _hooked(network, [model.get_submodule(name) for name in ends])
    with torch.inference_mode():
        features = network.eval()(PIXELS).features
    torch.testing.assert_close(features, torch.cat([one.mean((2, 3)) for one in maps], dim=1))


def test_the_last_stage_of_a_densenet_is_its_feature_map() -> None:
    """Its final ReLU works in place, on a map that is not to be changed before it is pooled."""
    one = ClassifySection(backbone="densenet121", pretrained="none", input_px=64)
    torch.manual_seed(0)
    network = Network(one, 4, 3, *STATS).eval()
    joined = Network(one.model_copy(update={"feature_stages": (3, 4)}), 4, 3, *STATS).eval()
    joined.backbone.load_state_dict(network.backbone.state_dict())
    with torch.inference_mode():
        last = network(PIXELS).features
        both = joined(PIXELS).features
    torch.testing.assert_close(both[:, -last.shape[1] :], last)
    assert both.shape[1] == 1024 + 1024


def test_stages_that_a_model_of_timm_lacks_are_refused() -> None:
    pytest.importorskip("timm")
    section = ClassifySection(backbone="timm:efficientnet_b0", feature_stages=(4,), pretrained="none")
    with pytest.raises(UserError, match=r"stages of timm:efficientnet_b0 \(1, 2, 3, 5, 7\), found 4"):
        Network(section, 4, 3, *STATS)


def test_a_network_of_joined_features_trains_all_stages(tmp_path: Path) -> None:
    section = ClassifySection(backbone="cnn3", feature_stages=(1, 2), epochs=1, batch_size=8, phases=())
    trained = fit(bright_fold(), section, 0, 0, tmp_path, torch.device("cpu")).state_dict
    assert trained["head.weight"].shape == (3, 64 + 128)
    assert new_backbone("cnn3").state_dict().keys() == {
        name.removeprefix("backbone.") for name in trained if name.startswith("backbone.")
    }

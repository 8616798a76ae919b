"""The network: normalisation, heads and initial weights."""

from pathlib import Path
from typing import Literal
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

from classify.config import ClassifySection
from classify.network.model import FLOOR, Network, new_network
from classify.network.start import read_start
from hpa.errors import UserError

MEAN, STD = [10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the pretrained weight file; downloads fail."""

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    name: str = ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    return folder / name


def test_output_shapes_and_unit_length() -> None:
    section = ClassifySection(embedding_dim=5)
    network = new_network(section, 0, MEAN, STD, np.full(28, 0.1)).eval()
    outputs = network(torch.randint(0, 255, (3, 4, 32, 32), dtype=torch.uint8))
    assert outputs.logits.shape == (3, 28)
    assert outputs.embeddings is not None
    assert outputs.embeddings.shape == (3, 5)
    torch.testing.assert_close(outputs.embeddings.norm(dim=1), torch.ones(3))


@pytest.mark.usefixtures("tiny_backbone")
def test_network_without_embedding_head() -> None:
    network = new_network(ClassifySection(), 0, MEAN, STD, np.full(28, 0.1)).eval()
    assert network(torch.zeros(1, 4, 8, 8, dtype=torch.uint8)).embeddings is None


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("normalise", ["crop", "folds"])
def test_normalisation_equals_numpy(normalise: Literal["crop", "folds"]) -> None:
    network = new_network(ClassifySection(normalise=normalise), 0, MEAN, STD, [0.5]).eval()
    seen: list[torch.Tensor] = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 6), dtype=np.uint8)
    pixels[1, 2] = 9  # a channel with nothing in it
    network(torch.from_numpy(pixels))
    for n, c in np.ndindex(2, 4):
        plane = pixels[n, c].astype(float)
        own = (plane - plane.mean()) / (plane.std() + FLOOR * STD[c])
        expected = own if normalise == "crop" else (plane - MEAN[c]) / STD[c]
        np.testing.assert_allclose(seen[0][n, c].numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("tiny_backbone")
def test_crop_normalisation_is_invariant_to_brightness() -> None:
    network = new_network(ClassifySection(), 0, MEAN, [0.01] * 4, [0.5]).eval()
    pixels = torch.randint(0, 60, (2, 4, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(network(pixels).logits, network(pixels * 4 + 3).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("tiny_backbone")
def test_head_starts_at_the_class_frequencies() -> None:
    frequencies = np.array([0.5, 0.1, 0.0])
    network = new_network(ClassifySection(), 0, MEAN, STD, frequencies)
    np.testing.assert_allclose(torch.sigmoid(network.head.bias.detach()).numpy(), [0.5, 0.1, 1e-4], rtol=1e-3)


@pytest.mark.usefixtures("tiny_backbone")
def test_seed_determines_weights_without_changing_the_global_state() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (new_network(ClassifySection(), seed, MEAN, STD, [0.5]).head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def _from_imagenet() -> Network:
    section = ClassifySection(backbone="resnet18", pretrained="imagenet")
    start = read_start(section, ["red", "green", "blue", "yellow"], ["one"])
    return new_network(section, 0, MEAN, STD, [0.5], start)


def test_pretrained_weights_equal_the_file(hub: Path) -> None:
    donor = resnet18().state_dict()
    torch.save(donor, hub)
    network = _from_imagenet()
    state = network.backbone.state_dict()
    filters = state["conv1.weight"]
    torch.testing.assert_close(filters[:, :3], donor["conv1.weight"])
    torch.testing.assert_close(filters[:, 3], donor["conv1.weight"].mean(1))
    assert torch.equal(state["layer4.1.conv2.weight"], donor["layer4.1.conv2.weight"])


@pytest.mark.usefixtures("tiny_backbone")
def test_unavailable_pretrained_weights_raise_an_error(hub: Path) -> None:
    with pytest.raises(UserError, match=r"expected the ImageNet weights .*found neither") as error:
        _from_imagenet()
    assert str(hub) in str(error.value)


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04cut"])
def test_damaged_weight_file_raises_an_error(hub: Path, content: bytes) -> None:
    hub.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        _from_imagenet()


def test_weights_of_another_network_raise_an_error(hub: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.zeros(3)}, hub)
    with pytest.raises(UserError, match=r"expected weights of resnet18, found .* missing and 1 of another shape"):
        _from_imagenet()

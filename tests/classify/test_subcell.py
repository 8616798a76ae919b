"""SubCell's backbone against a small implementation of the published architecture, under the published names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import conv2d, gelu, interpolate, layer_norm, linear

from classify.config import ClassifySection
from classify.network.backbones import load_weights
from classify.network.layers import replace_stem
from classify.network.model import Network, new_network
from classify.network.start import read_start
from classify.network.subcell import new_subcell, published_names, translate
from hpa.errors import UserError

DEPTH = 2
WIDTH = 768
CHANNELS = ["red", "yellow", "blue", "green"]


def _random_state(channels: int, grid: int, depth: int = DEPTH) -> dict[str, Tensor]:
    """Return random weights under the names of the published files."""
    draw = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.embeddings.cls_token": (1, 1, WIDTH),
        "encoder.embeddings.position_embeddings": (1, 1 + grid * grid, WIDTH),
        "encoder.embeddings.patch_embeddings.projection": (WIDTH, channels, 16, 16),
        "encoder.layernorm": (WIDTH,),
        "pool_model.attention_v.1": (512, WIDTH),
        "pool_model.attention_u.1": (512, WIDTH),
        "pool_model.attention": (2, 512),
    }
    for i in range(depth):
        block = f"encoder.encoder.layer.{i}"
        shapes |= {f"{block}.layernorm_before": (WIDTH,), f"{block}.layernorm_after": (WIDTH,)}
        shapes |= {f"{block}.attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        shapes |= {f"{block}.attention.output.dense": (WIDTH, WIDTH)}
        shapes |= {f"{block}.intermediate.dense": (4 * WIDTH, WIDTH), f"{block}.output.dense": (WIDTH, 4 * WIDTH)}
    state = {}
    for name, shape in shapes.items():
        scale = 0.05 if len(shape) > 1 else 0.3
        offset = 1.0 if "norm" in name else 0.0
        if name.startswith("encoder.embeddings.") and "projection" not in name:
            state[name] = 0.5 * torch.randn(shape, generator=draw)
            continue
        state[f"{name}.weight"] = offset + scale * torch.randn(shape, generator=draw)
        state[f"{name}.bias"] = scale * torch.randn(shape[0], generator=draw)
    return state


def _naive_features(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """Return the features of one image (C, 448, 448), head by head and token by token, straight from the names."""

    def dense(x: Tensor, name: str) -> Tensor:
        return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-12)

    projection = "encoder.embeddings.patch_embeddings.projection"
    patches = conv2d(image[None], state[f"{projection}.weight"], state[f"{projection}.bias"], stride=16)[0]
    tokens = [state["encoder.embeddings.cls_token"][0, 0]]
    for i in range(patches.shape[1]):
        tokens += [patches[:, i, j] for j in range(patches.shape[2])]
    x = torch.stack(tokens) + state["encoder.embeddings.position_embeddings"][0]
    for i in range(DEPTH):
        block = f"encoder.encoder.layer.{i}"
        y = norm(x, f"{block}.layernorm_before")
        query, key, value = (dense(y, f"{block}.attention.attention.{part}") for part in ("query", "key", "value"))
        heads = []
        for start in range(0, WIDTH, 64):
            part = slice(start, start + 64)
            heads.append((query[:, part] @ key[:, part].T / 8).softmax(dim=1) @ value[:, part])
        x = x + dense(torch.cat(heads, dim=1), f"{block}.attention.output.dense")
        y = gelu(dense(norm(x, f"{block}.layernorm_after"), f"{block}.intermediate.dense"))
        x = x + dense(y, f"{block}.output.dense")
    x = norm(x, "encoder.layernorm")
    gated = torch.tanh(dense(x, "pool_model.attention_v.1")) * gelu(dense(x, "pool_model.attention_u.1"))
    scores = dense(gated, "pool_model.attention")
    means = [sum(scores[:, k].softmax(0)[t] * x[t] for t in range(len(x))) for k in range(2)]
    return torch.cat(means)  # type: ignore[arg-type]


def _loaded(state: dict[str, Tensor], channels: int) -> torch.nn.Sequential:
    backbone = new_subcell(DEPTH)
    replace_stem(backbone, channels)
    load_weights(backbone, translate(state, DEPTH), "subcell")
    return backbone.eval()


def test_published_weights_give_the_published_architectures_features() -> None:
    state = _random_state(channels=4, grid=28)
    image = torch.rand(4, 448, 448, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = _loaded(state, 4)(image[None])
        expected = _naive_features(state, image)
    assert features.shape == (1, 1536, 1, 1)
    torch.testing.assert_close(features[0, :, 0, 0], expected, rtol=1e-3, atol=1e-4)
    assert expected.std() > 0.1


def test_every_published_name_is_used() -> None:
    state = _random_state(channels=2, grid=28)
    assert set(published_names(DEPTH)) == set(state)
    image = torch.rand(1, 2, 448, 448, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = _loaded(state, 2)(image)
        for name in ("cls_token", "position_embeddings"):
            other = state | {f"encoder.embeddings.{name}": state[f"encoder.embeddings.{name}"].flip(-1)}
            assert not torch.allclose(_loaded(other, 2)(image), before)


def test_position_embeddings_of_another_grid_are_interpolated() -> None:
    state = _random_state(channels=2, grid=14)
    name = "encoder.embeddings.position_embeddings"
    ramp = torch.linspace(0, 13, 14)
    state[name] = torch.zeros(1, 197, WIDTH)
    state[name][0, 1:, 0] = ramp.repeat_interleave(14)  # grows from row to row
    positions = translate(state, DEPTH)["model.encoder.pos_embed"]
    rows = positions[0, 1:, 0].reshape(28, 28)
    assert positions.shape == (1, 785, WIDTH)
    centres = (torch.arange(4, 24) + 0.5) / 2 - 0.5
    # torch's cubic kernel, a = -0.75, bends a straight line by at most 3/64.
    torch.testing.assert_close(rows[4:24], centres[:, None].expand(-1, 28), rtol=0, atol=3.01 / 64)
    assert (rows.diff(dim=0) >= 0).all()
    assert (positions[0, 0] == 0).all()


def test_a_partial_file_is_refused_by_name() -> None:
    state = _random_state(channels=4, grid=28)
    del state["pool_model.attention_u.1.weight"], state["encoder.encoder.layer.1.output.dense.bias"]
    with pytest.raises(UserError, match=r"found 2 of \d+ missing \(pool_model\.attention_u\.1\.weight"):
        translate(state, DEPTH)
    state = _random_state(channels=4, grid=28)
    state["encoder.embeddings.position_embeddings"] = torch.zeros(1, 785, 12)
    with pytest.raises(UserError, match="position embeddings"):
        translate(state, DEPTH)
    state = _random_state(channels=4, grid=28)
    state["pool_model.attention.weight"] = torch.zeros(3, 512)
    with pytest.raises(UserError, match="1 of another shape"):
        _loaded(state, 4)


def test_a_recipe_says_what_subcell_was_trained_on() -> None:
    keys: dict[str, Any] = {"backbone": "subcell", "normalise": "stack", "input_px": 448}
    assert ClassifySection(**keys, channels=CHANNELS).starts_from == "none"
    wrongs: tuple[dict[str, Any], ...] = (
        {"channels": ["blue", "red", "green"]},
        {"channels": []},
        {"channels": CHANNELS, "normalise": "crop"},
        {"channels": CHANNELS, "input_px": 0},
    )
    for wrong in wrongs:
        with pytest.raises(ValidationError, match="subcell"):
            ClassifySection(**(keys | wrong))


def test_a_stack_is_scaled_by_its_minimum_and_maximum() -> None:
    section = ClassifySection(backbone="cnn3", normalise="stack")
    network = Network(section, 2, 3, [5.0, 5.0], [2.0, 2.0]).eval()
    crops = torch.randint(20, 200, (2, 2, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops[1] //= 4
    crops = torch.cat([crops, torch.full((1, 2, 16, 16), 7, dtype=torch.uint8)])
    with torch.inference_mode():
        found = network(crops).features
        for crop, features in zip(crops.float(), found, strict=True):
            spread = float(crop.max() - crop.min())
            scaled = (crop - crop.min()) / spread if spread else torch.zeros_like(crop)
            torch.testing.assert_close(network.features(network.backbone(scaled[None]))[0], features)


@pytest.mark.slow
def test_a_file_of_published_weights_becomes_a_network(tmp_path: Path) -> None:
    state = _random_state(channels=4, grid=28, depth=12)
    torch.save(state, tmp_path / "subcell.pth")
    section = ClassifySection(
        backbone="subcell", normalise="stack", input_px=448, channels=CHANNELS, trainable="heads",
        pretrained=str(tmp_path / "subcell.pth"),
    )  # fmt: skip
    start = read_start(section, ["red", "green", "blue", "yellow"], ["a", "b"])
    network = new_network(section, 0, [9.0] * 4, [5.0] * 4, [0.5, 0.2], start).eval()
    crops = torch.randint(0, 255, (1, 4, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = network(crops)
        scaled = (crops - crops.min().float()) / (crops.max() - crops.min()).float()
        image = interpolate(scaled, (448, 448), mode="bilinear", antialias=True, align_corners=False)
        backbone = new_subcell()
        replace_stem(backbone, 4)
        backbone.load_state_dict(translate(state))
        expected = backbone.eval()(image)[:, :, 0, 0]
    assert found.features.shape == (1, 1536)
    torch.testing.assert_close(found.features, expected, rtol=1e-3, atol=1e-4)
    two = section.model_copy(update={"channels": ("blue", "green")})
    start = read_start(two, ["red", "green", "blue", "yellow"], ["a", "b"])
    with pytest.raises(UserError, match="stem of 3 or 2 channels, found 4"):
        new_network(two, 0, [9.0] * 2, [5.0] * 2, [0.5, 0.2], start)

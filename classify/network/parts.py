"""The parts of a network: its stem, the stages of its backbone, and what is new; by them a recipe says what is trained.

A stage is what lies between two halvings of the feature map's sides, as the four stages of a ResNet. Stages are counted
from 1; the stem lies before them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from hpa.errors import UserError

_NESTED: Final = ("features", "layers", "trunk_output")  # chains that torchvision keeps within a model
_SHRINKS: Final = 0.75  # a smaller factor of the side begins a stage; layers without padding lose some pixels as well
_PROBE_PX: Final = 128


@dataclass(frozen=True)
class Stages:
    """The stages of a backbone.

    Parameters
    ----------
    of_parameters
        Number of the stage of every parameter, by its name in the backbone; 0 for the stem.
    ends
        What gives the feature map at the end of a stage, by the stage's number: the number of a layer in `layers`, or
        of an intermediate feature map of a model of timm.
    """

    of_parameters: dict[str, int]
    ends: dict[int, int]

    @property
    def count(self) -> int:
        """The number of stages."""
        return max(self.of_parameters.values(), default=0)


def layers(backbone: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """Return the layers of a chain and their names, those of a chain within it one by one."""
    chain: list[tuple[str, nn.Module]] = []
    for name, child in backbone.named_children():
        if isinstance(child, nn.Sequential) and name in _NESTED:
            chain += [(f"{name}.{inner}", layer) for inner, layer in child.named_children()]
        else:
            chain.append((name, child))
    return chain


def find_stages(backbone: nn.Sequential) -> Stages:
    """Find the stages of a backbone.

    Parameters
    ----------
    backbone
        A chain of layers, which takes images of three channels before its stem is replaced, or a single model of timm.

    Returns
    -------
    Stages
        Of a transformer, every block is a stage.
    """
    model = _timm_model(backbone)
    return _stages_of_chain(backbone) if model is None else _stages_of_timm(backbone, *model)


def _timm_model(backbone: nn.Sequential) -> tuple[str, Any] | None:
    """Return the name and the module of timm's model within a backbone, if it is one."""
    return next(((name, cast("Any", m)) for name, m in backbone.named_modules() if hasattr(m, "group_matcher")), None)


def _stages_of_timm(backbone: nn.Sequential, prefix: str, model: Any) -> Stages:
    from timm.models import group_parameters

    groups: dict[str, int] = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    last = max(groups.values())
    if all(p.ndim <= 1 for name, p in model.named_parameters() if groups[name] == last):
        last -= 1  # a norm behind the last stage belongs to it
    own = {f"{prefix}.{name}": min(group, last) for name, group in groups.items()}
    stages = {name: own.get(name, last) for name, _ in backbone.named_parameters()}
    ends: dict[int, int] = {}
    for number, info in enumerate(model.feature_info):
        within = [stage for name, stage in own.items() if name.startswith(f"{prefix}.{info['module']}.")]
        if within and max(within) > 0:
            ends[max(within)] = number
    return Stages(stages, ends if hasattr(model, "forward_intermediates") else {})


def _stages_of_chain(backbone: nn.Sequential) -> Stages:
    chain = layers(backbone)
    sides = _sides(backbone, chain)
    has_convolution = [any(isinstance(m, nn.Conv2d) for m in layer.modules()) for _, layer in chain]
    first = has_convolution.index(True)
    after_stem = next((i for i in range(first + 1, len(chain)) if has_convolution[i]), len(chain))
    of_layers, stage, side = [0] * after_stem, 0, float("inf")
    for i in range(after_stem, len(chain)):
        has_weights = any(True for _ in chain[i][1].parameters())
        # Pooling that ends a chain is no stage of its own, and pooling between stages belongs to the next.
        ahead = has_weights or any(has_convolution[i:])
        if stage == 0 or (sides[i] <= _SHRINKS * side and ahead):
            stage, side = stage + 1, sides[i]
        of_layers.append(stage)
    stages = {
        f"{name}.{inner}": number
        for (name, layer), number in zip(chain, of_layers, strict=True)
        for inner, _ in layer.named_parameters()
    }
    return Stages(stages, {number: i for i, number in enumerate(of_layers) if number})


def _sides(backbone: nn.Sequential, chain: Sequence[tuple[str, nn.Module]]) -> list[float]:
    training = backbone.training
    backbone.eval()
    sides = []
    with torch.inference_mode():
        x = torch.zeros(1, next(m for m in backbone.modules() if isinstance(m, nn.Conv2d)).in_channels, _PROBE_PX, 128)
        for _, layer in chain:
            x = layer(x)
            sides.append(float(x.shape[2]) if x.ndim == 4 else 0.0)
    backbone.train(training)
    return sides


def stage_maps(backbone: nn.Sequential, stages: Stages, wanted: Sequence[int], x: Tensor) -> list[Tensor]:
    """Return the feature maps at the ends of some stages, (N, F_s, h_s, w_s) each.

    Parameters
    ----------
    backbone
        The backbone.
    stages
        Its stages.
    wanted
        Numbers of stages in rising order.
    x
        Input of the backbone, (N, C, H, W).
    """
    model = _timm_model(backbone)
    if model is not None:
        indices = [stages.ends[number] for number in wanted]
        maps: list[Tensor] = model[1].forward_intermediates(x, indices=indices, intermediates_only=True)
        return maps
    maps, chain = [], layers(backbone)
    ends = {stages.ends[number] for number in wanted}
    for i, (_, layer) in enumerate(chain[: max(ends) + 1]):
        x = layer(x)
        if i in ends:
            maps.append(x.clone())  # the next layer may work in place
    return maps


def check_feature_stages(stages: Stages, wanted: Sequence[int], backbone: str) -> None:
    """Check that a backbone has the stages whose features are joined.

    Raises
    ------
    UserError
        If it has not.
    """
    for number in wanted:
        if number not in stages.ends:
            known = ", ".join(map(str, sorted(stages.ends))) or "none"
            raise UserError(
                f"expected classify.feature_stages among the stages of {backbone} ({known}), found {number}"
            )

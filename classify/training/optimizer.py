"""The optimizer, its groups of parameters, and the schedule of its learning rate."""

from collections.abc import Iterable
from typing import Any, Literal

from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from classify.config import ClassifySection
from classify.network.model import Network
from classify.phases import Schedule
from classify.training.history import rises
from hpa.errors import UserError

FACTOR = "factor"
"""Key of a group of parameters: factor on the learning rate of the recipe."""


def decay_groups(parameters: Iterable[Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Group parameters into those with weight decay and those without: scales of norms, biases and other vectors.

    Decay would pull a norm's scale, and the head's bias, which starts at the log odds of the classes, towards 0.
    """
    every = list(parameters)
    return [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]


def parameter_groups(network: Network, section: ClassifySection) -> list[dict[str, Any]]:
    """Group the parameters that are not frozen by their weight decay and the factor of their learning rate.

    Parameters
    ----------
    network
        The network.
    section
        Recipe section: `weight_decay`, `backbone_rate` for what lies in a pretrained backbone, and `layer_rates`
        (Howard and Ruder 2018, https://arxiv.org/abs/1801.06146).

    Raises
    ------
    UserError
        If `layer_rates` is a list of another length than there are stem and stages.
    """
    members: dict[tuple[bool, float], list[Parameter]] = {}
    factors = _layer_factors(network, section)
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        pretrained = network.starts_pretrained and name.startswith(("backbone.", "features.")) and "cbam" not in name
        factor = factors.get(network.part_of(name), 1.0) if factors else 1.0
        factor *= section.backbone_rate if pretrained else 1.0
        members.setdefault((pretrained, factor), []).append(parameter)
    groups = []
    for (pretrained, factor), parameters in sorted(members.items(), key=lambda item: item[0]):
        # Heads that are held near their start must not be pulled to 0 as well.
        decay = 0.0 if section.heads == "pretrained" and not pretrained else section.weight_decay
        groups += [group | {FACTOR: factor} for group in decay_groups(parameters, decay) if group["params"]]
    return groups


def _layer_factors(network: Network, section: ClassifySection) -> dict[str, float]:
    """Return the factor on the learning rate of each part of the backbone that `layer_rates` changes."""
    rates = section.layer_rates
    if rates == 1:
        return {}
    parts = ["stem", *(f"stage{number}" for number in range(1, network.stages.count + 1))]
    if isinstance(rates, float):
        return {part: rates ** (len(parts) - 1 - i) for i, part in enumerate(parts)}
    if len(rates) != len(parts):
        raise UserError(
            f"expected {len(parts)} classify.layer_rates for {section.backbone}, of the stem and {len(parts) - 1}"
            f" stages, found {len(rates)}"
        )
    return dict(zip(parts, rates, strict=True))


def new_optimizer(groups: list[dict[str, Any]], section: ClassifySection) -> Optimizer:
    """Return the recipe's optimizer of groups of parameters.

    AdamW is Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101.
    """
    groups = [group | {"lr": section.learning_rate * group.get(FACTOR, 1.0)} for group in groups]
    if section.optimizer == "sgd":
        nesterov = section.momentum > 0
        return SGD(groups, lr=section.learning_rate, momentum=section.momentum, nesterov=nesterov)
    if section.optimizer == "adam":
        return Adam(groups, lr=section.learning_rate)
    return AdamW(groups, lr=section.learning_rate)


def start_schedule(
    optimizer: Optimizer, section: ClassifySection, schedule: Schedule, learning_rate: float, steps: int
) -> LRScheduler | None:
    """Set the learning rate of an optimizer, and return its schedule, None for a constant rate.

    One cycle is Smith and Topin 2019, https://arxiv.org/abs/1708.07120.

    Parameters
    ----------
    optimizer
        The optimizer; what it knows of earlier gradients stays.
    section
        Recipe section: parameters of the schedules.
    schedule
        Name of the schedule.
    learning_rate
        Highest rate, of a group of parameters times its factor.
    steps
        Number of steps. A schedule advances after each, but `ReduceLROnPlateau` after each validation.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = learning_rate * group.get(FACTOR, 1.0)
    if schedule == "one-cycle":
        # Torch ends the rise a step before this fraction, and divides by zero if that is step 0. One more step than is
        # taken puts the highest rate where it is due in trainings of any length, and lets the last step learn too.
        rise = (section.rise * steps + 1) / (steps + 1)
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=steps + 1, pct_start=rise, cycle_momentum=False)
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    if schedule == "plateau":
        mode: Literal["min", "max"] = "max" if rises(section.monitor) else "min"
        return ReduceLROnPlateau(optimizer, mode, patience=section.plateau_patience, threshold=0)
    return None

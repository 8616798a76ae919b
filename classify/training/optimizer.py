"""The optimizer and the schedule of its learning rate."""

from collections.abc import Iterable
from typing import Any, Final

from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from classify.config import ClassifySection

_RISE: Final = 0.25  # fraction of the steps in which the rate of one cycle rises
_PATIENCE: Final = 2  # validations without progress that the rate endures; the next one lowers it


def decay_groups(parameters: Iterable[Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Group parameters into those with weight decay and those without: scales of norms, biases and other vectors.

    Decay would pull a norm's scale, and the head's bias, which starts at the log odds of the classes, towards 0.
    """
    every = list(parameters)
    return [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]


def new_optimizer(
    parameters: Iterable[Parameter],
    section: ClassifySection,
    steps: int,
    pretrained: Iterable[Parameter] = (),
) -> tuple[Optimizer, LRScheduler | None]:
    """Return the recipe's optimizer and the schedule of its learning rate, None for a constant rate.

    AdamW is Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101; one cycle is Smith and Topin 2019,
    https://arxiv.org/abs/1708.07120.

    Parameters
    ----------
    parameters
        Parameters to train.
    section
        Recipe section: optimizer, learning rate, weight decay, schedule.
    steps
        Number of steps of the whole training. A schedule advances after each, but `ReduceLROnPlateau` after each
        validation, by its loss.
    pretrained
        Further parameters, whose rate is lower by the recipe's `backbone_rate`.
    """
    # Heads that are held near their start must not be pulled to 0 as well.
    groups = decay_groups(parameters, 0.0 if section.heads == "pretrained" else section.weight_decay)
    for group in decay_groups(pretrained, section.weight_decay):
        groups.append(group | {"lr": section.learning_rate * section.backbone_rate})
    groups = [group for group in groups if group["params"]]
    optimizer: Optimizer
    if section.optimizer == "sgd":
        nesterov = section.momentum > 0
        optimizer = SGD(groups, lr=section.learning_rate, momentum=section.momentum, nesterov=nesterov)
    elif section.optimizer == "adam":
        optimizer = Adam(groups, lr=section.learning_rate)
    else:
        optimizer = AdamW(groups, lr=section.learning_rate)
    return optimizer, _new_schedule(optimizer, section, steps)


def _new_schedule(optimizer: Optimizer, section: ClassifySection, steps: int) -> LRScheduler | None:
    if section.schedule == "one-cycle":
        # Torch ends the rise a step before this fraction, and divides by zero if that is step 0. One more step than is
        # taken puts the highest rate where it is due in trainings of any length, and lets the last step learn too.
        rise = (_RISE * steps + 1) / (steps + 1)
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps=steps + 1, pct_start=rise, cycle_momentum=False)
    if section.schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    if section.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, patience=_PATIENCE, threshold=0)
    return None

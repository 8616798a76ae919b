"""How weights are moved: the optimizer and its learning rate over the steps or epochs."""

from collections.abc import Iterable, Sequence
from math import cos, inf, pi
from typing import Any, Final

from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from classify.config import ClassifySection

_RISE: Final = 0.25  # share of the steps in which the rate rises
_START: Final = 0.04  # share of the highest rate at the start
_PATIENCE: Final = 3
_DROP: Final = 0.1


def one_cycle(step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the highest (Smith and Topin 2019, https://arxiv.org/abs/1708.07120).

    Along half a cosine up in the first quarter, along another down to almost nothing at the last step.

    Parameters
    ----------
    step
        From 0.
    steps
        Of the whole training.
    """
    rise = _RISE * steps
    if step < rise:
        return _START + (1 - _START) * (1 - cos(pi * step / rise)) / 2
    return (1 + cos(pi * min(1.0, (step - rise) / (steps - rise)))) / 2


def cosine(step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the first: along half a cosine down to nothing."""
    return (1 + cos(pi * min(1.0, step / steps))) / 2


def plateau(losses: Sequence[float]) -> float:
    """Return the learning rate after some looks at the validation loss, as a share of the first.

    Divided by ten whenever three looks in a row did not fall below the lowest before them.

    Parameters
    ----------
    losses
        Of every look so far.
    """
    lowest, waited, share = inf, 0, 1.0
    for loss in losses:
        waited = 0 if loss < lowest else waited + 1
        lowest = min(lowest, loss)
        if waited == _PATIENCE:
            share, waited = share * _DROP, 0
    return share


def decay_groups(parameters: Iterable[Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Part parameters into those that decay and those that do not: scales of norms, biases and other lone numbers.

    Decay would pull a norm's scale and the head's bias, which starts at the log odds of the classes, to nothing.
    """
    every = list(parameters)
    return [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]


def new_optimizer(
    parameters: Iterable[Parameter], section: ClassifySection, steps: int
) -> tuple[Optimizer, LambdaLR | None]:
    """Make the optimizer and its schedule.

    AdamW is Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101.

    Parameters
    ----------
    parameters
        What is trained.
    section
        Which optimizer, learning rate, weight decay, schedule.
    steps
        Of the whole training; the schedule is stepped once after each. `plateau` has none: its rate is set at the
        start of an epoch.
    """
    groups = decay_groups(parameters, section.weight_decay)
    optimizer: Optimizer
    if section.optimizer == "sgd":
        nesterov = section.momentum > 0
        optimizer = SGD(groups, lr=section.learning_rate, momentum=section.momentum, nesterov=nesterov)
    elif section.optimizer == "adam":
        optimizer = Adam(groups, lr=section.learning_rate)
    else:
        optimizer = AdamW(groups, lr=section.learning_rate)
    shares = {"one-cycle": one_cycle, "cosine": cosine, "constant": _constant}
    if section.schedule == "plateau":
        return optimizer, None
    share = shares[section.schedule]
    return optimizer, LambdaLR(optimizer, lambda step: share(step, steps))


def _constant(step: int, steps: int) -> float:
    return 1.0

"""The optimizer and the schedules of its learning rate."""

from collections.abc import Iterable, Sequence
from math import cos, inf, pi
from typing import Any, Final

from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from classify.config import ClassifySection

_RISE: Final = 0.25  # fraction of the steps in which the rate rises
_START: Final = 0.04  # fraction of the highest rate at the start
_PATIENCE: Final = 3  # validations without progress before the rate drops
_DROP: Final = 0.1


def one_cycle(step: int, steps: int) -> float:
    """Return the learning rate of a step as a fraction of the highest.

    It rises along half a cosine in the first quarter of the steps and falls along another to almost 0 at the last step
    (Smith and Topin 2019, https://arxiv.org/abs/1708.07120).

    Parameters
    ----------
    step
        Step, from 0.
    steps
        Number of steps of the whole training.

    Examples
    --------
    >>> [round(one_cycle(step, 8), 3) for step in (0, 1, 2, 5)]
    [0.04, 0.52, 1.0, 0.5]
    """
    rise = _RISE * steps
    if step < rise:
        return _START + (1 - _START) * (1 - cos(pi * step / rise)) / 2
    return (1 + cos(pi * min(1.0, (step - rise) / (steps - rise)))) / 2


def cosine(step: int, steps: int) -> float:
    """Return the learning rate of a step as a fraction of the first, which falls to 0 along half a cosine."""
    return (1 + cos(pi * min(1.0, step / steps))) / 2


def plateau(losses: Sequence[float]) -> float:
    """Return the learning rate after a series of validations, as a fraction of the first.

    It is divided by ten whenever the loss of three validations in a row is not below the lowest before them.

    Parameters
    ----------
    losses
        Validation losses so far.
    """
    lowest, waited, fraction = inf, 0, 1.0
    for loss in losses:
        waited = 0 if loss < lowest else waited + 1
        lowest = min(lowest, loss)
        if waited == _PATIENCE:
            fraction, waited = fraction * _DROP, 0
    return fraction


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
    parameters: Iterable[Parameter], section: ClassifySection, steps: int
) -> tuple[Optimizer, LambdaLR | None]:
    """Return the recipe's optimizer and its schedule by steps, None for ``plateau``, which goes by validations.

    AdamW is Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101.

    Parameters
    ----------
    parameters
        Parameters to train.
    section
        Recipe section: optimizer, learning rate, weight decay, schedule.
    steps
        Number of steps of the whole training; the schedule advances after each.
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
    if section.schedule == "plateau":
        return optimizer, None
    fraction = {"one-cycle": one_cycle, "cosine": cosine, "constant": _constant}[section.schedule]
    return optimizer, LambdaLR(optimizer, lambda step: fraction(step, steps))


def _constant(step: int, steps: int) -> float:
    return 1.0

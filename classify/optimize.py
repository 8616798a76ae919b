"""How weights are moved: the optimizer and its learning rate over the steps."""

from collections.abc import Iterable
from math import cos, pi
from typing import Final

from torch.nn import Parameter
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from classify.config import ClassifySection

_RISE: Final = 0.25  # share of the steps in which the rate rises
_START: Final = 0.04  # share of the highest rate at the start


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


def new_optimizer(parameters: Iterable[Parameter], section: ClassifySection, steps: int) -> tuple[AdamW, LambdaLR]:
    """Make AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101) and its schedule.

    Parameters
    ----------
    parameters
        What is trained.
    section
        Learning rate, weight decay, schedule.
    steps
        Of the whole training; the schedule is stepped once after each.
    """
    optimizer = AdamW(parameters, lr=section.learning_rate, weight_decay=section.weight_decay)

    def share(step: int) -> float:
        return one_cycle(step, steps) if section.schedule == "one-cycle" else 1.0

    return optimizer, LambdaLR(optimizer, share)

"""How weights are moved: the optimizer and its learning rate over the steps."""

from collections.abc import Iterable

from torch.nn import Parameter
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from classify.config import ClassifySection


def new_optimizer(parameters: Iterable[Parameter], section: ClassifySection, steps: int) -> tuple[AdamW, LRScheduler]:
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
    if section.schedule == "constant":
        return optimizer, LambdaLR(optimizer, lambda step: 1.0)
    # One step more than there are, for the schedule is also stepped after the last one.
    return optimizer, OneCycleLR(optimizer, section.learning_rate, total_steps=steps + 1, pct_start=0.25)

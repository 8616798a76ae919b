"""Train a compact network on samples, with Cellpose's loss and averaged weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.swa_utils import AveragedModel

from hpa.work.device import has_bf16_instructions
from hpa.work.progress import progress
from segment.network.cellpose import flow_loss
from segment.network.compact import NUCLEUS, NUCLEUS_CORE, CompactNetwork, new_network
from segment.training.augment import Sample, augment

_BATCH_SIZE: Final = 8
_WEIGHT_DECAY: Final = 0.02
_MOMENTUM: Final = 0.995  # averages the weights over the last few hundred steps


@dataclass(frozen=True)
class Training:
    """Settings of a training run.

    Parameters
    ----------
    seed
        Seed of the initial weights, the order of images and their augmentation.
    epochs
        Number of passes over all images.
    bfloat16
        Compute in bfloat16, which is several times as fast on CPUs with instructions for it and slower on others; by
        default where there are such instructions.
    max_learning_rate
        Highest learning rate, reached after a tenth of the steps.
    """

    seed: int = 0
    epochs: int = 20
    bfloat16: bool = field(default_factory=has_bf16_instructions)
    max_learning_rate: float = 3e-3


def train(
    samples: Sequence[Sample], settings: Training, start: CompactNetwork | None = None
) -> tuple[CompactNetwork, list[float]]:
    """Train a network, either a new one or a copy of an existing one.

    Every random draw is a function of the seed, the epoch and the image.

    Parameters
    ----------
    samples
        The images.
    settings
        Settings of the run.
    start
        Network whose weights to start from, which itself stays unchanged; None starts from random weights.

    Returns
    -------
    net
        The network with averaged weights, ready for inference.
    losses
        Mean loss of each epoch.
    """
    net = new_network(settings.seed)
    if start is not None:
        net.load_state_dict(start.state_dict())
    steps = settings.epochs * sum(1 for _ in batches(samples, (settings.seed, 0)))
    # A short run averages over its last fifth; otherwise the average would stay close to the start.
    momentum = min(_MOMENTUM, max(0.0, 1 - 5 / steps))
    average = AveragedModel(net, multi_avg_fn=partial(_update_average, momentum), use_buffers=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.max_learning_rate, weight_decay=_WEIGHT_DECAY)
    warmup = max(0.1, 1.5 / max(steps, 2))  # torch divides by zero if the warmup ends with the first step
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.max_learning_rate, total_steps=steps, pct_start=warmup
    )
    losses = []
    with progress("train", steps) as advance:
        for epoch in range(settings.epochs):
            total = 0.0
            for batch in batches(samples, (settings.seed, epoch)):
                planes, target = _load_batch(samples, batch, (settings.seed, epoch))
                total += _train_step(net, optimizer, planes, target, bfloat16=settings.bfloat16) * len(batch)
                schedule.step()
                average.update_parameters(net)
                advance(1)
            losses.append(total / len(samples))
    net.load_state_dict(average.module.state_dict())
    net.eval()
    return net, losses


def batches(samples: Sequence[Sample], seed: tuple[int, int]) -> Iterator[NDArray[np.intp]]:
    """Yield the indices of an epoch's images in random batches, each of images of one size.

    Parameters
    ----------
    samples
        The images.
    seed
        Seed of the run, and epoch.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(samples))
    shapes = np.array([samples[index].cells.shape for index in order])
    sizes = np.unique(shapes, axis=0, return_inverse=True)[1].ravel()
    found = [
        order[sizes == size][start : start + _BATCH_SIZE]
        for size in np.unique(sizes)
        for start in range(0, int((sizes == size).sum()), _BATCH_SIZE)
    ]
    for index in rng.permutation(len(found)):
        yield found[index]


def _update_average(
    momentum: float, average: Sequence[torch.Tensor], current: Sequence[torch.Tensor], _: torch.Tensor | int
) -> None:
    for mean, value in zip(average, current, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - momentum)
        else:
            mean.copy_(value)


def _load_batch(
    samples: Sequence[Sample], batch: NDArray[np.intp], seed: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [augment(samples[index], np.random.default_rng((*seed, int(index)))) for index in batch]
    planes, targets = zip(*pairs, strict=True)
    return torch.from_numpy(np.stack(planes)), torch.from_numpy(np.stack(targets))


def _train_step(
    net: CompactNetwork,
    optimizer: torch.optim.Optimizer,
    planes: torch.Tensor,
    target: torch.Tensor,
    *,
    bfloat16: bool,
) -> float:
    net.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        output = net(planes)[0]
    output = output.float()
    loss = flow_loss(target[:, 2:], output)
    loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(
        output[:, [NUCLEUS, NUCLEUS_CORE]], target[:, :2]
    )
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.item()

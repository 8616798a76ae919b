"""Training of the compact network on the synthetic atlas, with Cellpose's flows and loss."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.swa_utils import AveragedModel

from hpa.work.progress import progress
from segment.network.cellpose import flow_loss
from segment.network.compact import NUCLEUS, NUCLEUS_CORE, CompactNetwork, new_network
from segment.training.augment import Sample, restyle

_BATCH: Final = 8
_DECAY: Final = 0.02
_AVERAGE: Final = 0.995  # weights are averaged over the last few hundred steps


@dataclass(frozen=True)
class Training:
    """How the compact network is trained.

    Parameters
    ----------
    seed
        Of weights, order and looks.
    epochs
        How often every image is seen.
    half
        Compute in bfloat16, which processors with the instructions for it do several times as fast.
    top_rate
        The learning rate at its highest, after a tenth of the steps.
    """

    seed: int = 0
    epochs: int = 20
    half: bool = True
    top_rate: float = 3e-3


def train(
    samples: Sequence[Sample], how: Training, start: CompactNetwork | None = None
) -> tuple[CompactNetwork, list[float]]:
    """Train a new network.

    Every random draw is a function of the seed, the epoch and the image.

    Parameters
    ----------
    samples
        The images.
    how
        How.
    start
        A network to train further, which stays as it is; None starts anew.

    Returns
    -------
    net
        The network with averaged weights, ready for use.
    losses
        The mean loss of every epoch.
    """
    net = new_network(how.seed)
    if start is not None:
        net.load_state_dict(start.state_dict())
    steps = how.epochs * sum(1 for _ in batches(samples, (how.seed, 0)))
    # A short training is averaged over its last fifth, or its weights would stay near the start.
    keep = min(_AVERAGE, max(0.0, 1 - 5 / steps))
    average = AveragedModel(net, multi_avg_fn=partial(_drift, keep), use_buffers=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=how.top_rate, weight_decay=_DECAY)
    rise = max(0.1, 1.5 / max(steps, 2))  # torch divides by zero where the rise ends with the first step
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.top_rate, total_steps=steps, pct_start=rise)
    losses = []
    with progress("train", steps) as advance:
        for epoch in range(how.epochs):
            total = 0.0
            for batch in batches(samples, (how.seed, epoch)):
                total += _step(net, optimizer, *_batch(samples, batch, (how.seed, epoch)), half=how.half) * len(batch)
                schedule.step()
                average.update_parameters(net)
                advance(1)
            losses.append(total / len(samples))
    net.load_state_dict(average.module.state_dict())
    net.eval()
    return net, losses


def _drift(keep: float, average: Sequence[torch.Tensor], now: Sequence[torch.Tensor], _: torch.Tensor | int) -> None:
    for mean, value in zip(average, now, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - keep)
        else:
            mean.copy_(value)


def batches(samples: Sequence[Sample], draw: tuple[int, int]) -> Iterator[NDArray[np.intp]]:
    """Yield the images of an epoch in batches of one size.

    Parameters
    ----------
    samples
        The images.
    draw
        Seed and epoch.
    """
    rng = np.random.default_rng(draw)
    order = rng.permutation(len(samples))
    shapes = np.array([samples[index].cells.shape for index in order])
    sides = np.unique(shapes, axis=0, return_inverse=True)[1].ravel()
    found = [
        order[sides == side][start : start + _BATCH]
        for side in np.unique(sides)
        for start in range(0, int((sides == side).sum()), _BATCH)
    ]
    for index in rng.permutation(len(found)):
        yield found[index]


def augmented(sample: Sample, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw one look and one orientation of a sample.

    Returns
    -------
    planes
        Shape (3, h, w), what the network sees.
    target
        Shape (5, h, w): nucleus, inner part of a nucleus, cell, flow rows, flow columns.
    """
    planes = restyle(sample, rng)
    flags = np.stack([sample.nuclei > 0, sample.core, sample.cells > 0])
    target = np.concatenate([flags.astype(np.float32), sample.flows.astype(np.float32)])
    for axis in (1, 2):
        if rng.random() < 0.5:
            planes, target = np.flip(planes, axis), np.flip(target, axis).copy()
            target[2 + axis] *= -1  # a flow along a flipped axis points the other way
    if rng.random() < 0.5:
        planes, target = planes.swapaxes(1, 2), target.swapaxes(1, 2)[[0, 1, 2, 4, 3]]
    return np.ascontiguousarray(planes), np.ascontiguousarray(target)


def _batch(
    samples: Sequence[Sample], batch: NDArray[np.intp], draw: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = [augmented(samples[index], np.random.default_rng((*draw, int(index)))) for index in batch]
    planes, targets = zip(*drawn, strict=True)
    return torch.from_numpy(np.stack(planes)), torch.from_numpy(np.stack(targets))


def _step(
    net: CompactNetwork, optimizer: torch.optim.Optimizer, planes: torch.Tensor, target: torch.Tensor, *, half: bool
) -> float:
    net.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
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

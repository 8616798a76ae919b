"""The range of useful learning rates: the loss while the rate rises from step to step (Smith 2017).

https://arxiv.org/abs/1506.01186
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import clip_grad_norm_

from classify.data.batches import Batch
from classify.data.normalisation import Statistics
from classify.data.seeds import Purpose, derive_seed
from classify.inference.evaluate import autocast_type
from classify.losses.classification import class_weights
from classify.training.fold_training import FoldTraining
from classify.training.mixing import run_network
from classify.training.optimizer import FACTOR, new_optimizer, parameter_groups
from classify.training.step_loss import step_loss
from hpa.errors import UserError
from hpa.pictures import save_figure
from hpa.work.progress import progress

_SMOOTHING: Final = 0.9  # weight of the steps before in the smoothed loss
_DIVERGED: Final = 4.0  # times the lowest smoothed loss, at which the search ends
_SKIPPED: Final = 5  # first steps, whose smoothed loss is still that of single batches


@dataclass(frozen=True)
class RateSearch:
    """The losses of steps with rising learning rates.

    Parameters
    ----------
    rates
        Learning rate of each step, shape (n,).
    losses
        Loss of each step's batch, shape (n,).
    smoothed
        Running mean of the losses, shape (n,).
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss falls fastest per factor of the rate."""
        slopes = np.gradient(self.smoothed, np.log(self.rates))
        first = min(_SKIPPED, len(slopes) - 1)
        return float(self.rates[first + int(np.argmin(slopes[first:]))])

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest; the loss is about to rise there."""
        return float(self.rates[int(np.argmin(self.smoothed))])


def smooth(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the exponential running mean of losses, free of the bias towards a start at 0."""
    mean, smoothed = 0.0, np.empty(len(losses))
    for i, loss in enumerate(losses):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        smoothed[i] = mean / (1 - _SMOOTHING ** (i + 1))
    return smoothed


def search_rates(
    training: FoldTraining, statistics: Statistics, phase: int, steps: int, lowest: float, highest: float
) -> RateSearch:
    """Train an untrained network for some steps with rising learning rates, until the loss diverges.

    Parameters
    ----------
    training
        Data, settings and place; nothing is written.
    statistics
        Statistics of the training crops.
    phase
        Number of the phase, from 0, whose parts are trained on crops of its size.
    steps
        Number of steps.
    lowest, highest
        Learning rates of the first and the last step; each of the others is a constant factor above the one before.
        Groups of parameters have their factors on them, as in the training.

    Raises
    ------
    UserError
        If the loss is not finite from the start.
    """
    section, device = training.section, training.device
    network = training.new_network(statistics).to(device)
    chosen = section.training_phases[phase]
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    optimizer = new_optimizer(parameter_groups(network, section), section)
    network.train_only(network.parameters_of(chosen.trainable) & trainable)
    network.training_px = chosen.input_px
    network.train_mode()
    reduced = autocast_type(section.precision, device, section.backbone)
    scaler = torch.amp.GradScaler(device.type, enabled=reduced is torch.float16)
    weights, held = class_weights(section, training.crops), training.held_heads
    rates, losses = np.geomspace(lowest, highest, steps), list[float]()
    batches = _endless(training)
    with torch.random.fork_rng(devices=[]), progress("find-lr", steps) as advance:
        torch.manual_seed(derive_seed(Purpose.DROPOUT, training.seed, training.fold))
        for step, rate in enumerate(rates):
            for group in optimizer.param_groups:
                group["lr"] = rate * group[FACTOR]
            batch = Batch(*(None if part is None else part.to(device) for part in next(batches)))  # type: ignore[arg-type]
            with torch.autocast(device.type, reduced or torch.bfloat16, enabled=reduced is not None):
                seed = derive_seed(Purpose.MIXING, training.seed, training.fold, 0, step)
                outputs, mixed = run_network(network, batch, section, seed)
                loss = step_loss(network, outputs, mixed, section, weights, held)
            losses.append(float(loss.detach()))
            if _has_diverged(np.array(losses)):
                break
            optimizer.zero_grad()
            torch.autograd.backward(scaler.scale(loss))
            if section.clip_norm:
                scaler.unscale_(optimizer)
                clip_grad_norm_([p for p in network.parameters() if p.grad is not None], section.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            advance(1)
    finite = [loss for loss in losses if np.isfinite(loss)]
    if len(finite) < 2:
        raise UserError(f"expected finite losses from a learning rate of {lowest:g} on, found {losses[0]}; lower it")
    values = np.array(finite)
    return RateSearch(rates[: len(values)], values, smooth(values))


def _endless(training: FoldTraining) -> Iterator[Batch]:
    for epoch in count():
        yield from training.loader(epoch, 1)


def _has_diverged(losses: NDArray[np.float64]) -> bool:
    if not np.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses)
    return bool(smoothed[-1] > _DIVERGED * smoothed.min())


def draw_search(path: Path, search: RateSearch, present: float) -> None:
    """Draw the losses over the learning rates, with the rate of the recipe."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(search.rates, search.losses, ".", color="0.75", markersize=4, label="loss of a batch")
    axes.plot(search.rates, search.smoothed, color="C0", label="smoothed")
    for rate, name, style in (
        (search.steepest, "falls fastest", "-"),
        (search.lowest, "lowest", ":"),
        (present, "classify.learning_rate", "--"),
    ):
        axes.axvline(rate, color="C1", linestyle=style, linewidth=1, label=f"{name}: {rate:.2g}")
    low, high = search.smoothed.min(), search.smoothed[: _SKIPPED + 1].max()
    axes.set_ylim(low - 0.2 * (high - low), high + 0.6 * (high - low))  # what diverges would flatten the rest
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)

"""Training one fold's network: the network of a finished training, and what it takes to get there after a kill."""

import gc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classify.config import ClassifySection
from classify.data.crops import FoldCrops
from classify.data.normalisation import Statistics, crop_levels, measure_statistics
from classify.network.model import Network
from classify.training.history import History, clear_best
from classify.training.loop import RESUME, run_epochs
from classify.training.task import Task, check_sides
from hpa.errors import UserError


@dataclass(frozen=True)
class Fitted:
    """What training one fold gave.

    Parameters
    ----------
    state_dict
        The kept weights, on the CPU.
    epoch
        Epochs behind them.
    statistics
        Grey values of the training folds.
    """

    state_dict: dict[str, Tensor]
    epoch: int
    statistics: Statistics


def fit(
    crops: FoldCrops,
    section: ClassifySection,
    seed: int,
    fold: int,
    folder: Path,
    device: torch.device,
    workers: int = 0,
) -> Fitted:
    """Train the network of one fold, going on after the last finished epoch of an earlier run.

    Every epoch leaves ``history.csv`` and ``resume.ckpt`` in `folder`; `clear` removes what is not needed after the
    end. On one machine, device and number of threads the result is the same whether or not the run was interrupted.

    Parameters
    ----------
    crops
        What is trained and validated on.
    section
        How.
    seed
        The recipe's seed.
    fold
        Number of the fold.
    folder
        Where the fold's files lie; that what lies there was made from these arguments is the caller's to know.
    device
        Where it runs. If it has not the memory for a training step, the step is made in halves, whose gradients are
        put together; batch norm then looks at the halves.
    workers
        Processes that read and vary crops; 0 does it in this one.

    Raises
    ------
    UserError
        If there is nothing to train or validate on, or pretrained weights are not to be had, or what an earlier
        run left is damaged, or the loss is no longer a finite number; ``not_finite.csv`` then has the batch's crops.
    SystemExit
        With code 143, at a SIGTERM; the last finished epoch is saved.
    """
    if len(crops.training) < 2 or not len(crops.validation):
        raise UserError(
            f"expected at least 2 crops to train fold {fold} on and 1 to validate it, "
            f"found {len(crops.training)} and {len(crops.validation)}"
        )
    statistics = measure_statistics(crops, section.outside_cell, section.normalise)
    rows = np.concatenate([crops.training, crops.validation])
    levels = crop_levels(crops.source, rows, crops.images, crops.sources, statistics, section.normalise)
    task = Task(replace(crops, levels=levels), section, seed, fold, folder, device, workers)
    network, history = _train(task, statistics)
    kept, epoch = history.kept(network)
    return Fitted(kept, epoch, statistics)


def clear(folder: Path) -> None:
    """Remove what only a training under way needs."""
    (folder / RESUME).unlink(missing_ok=True)
    clear_best(folder)


def _train(task: Task, statistics: Statistics) -> tuple[Network, History]:
    """Train, from the start again with steps in twice as many parts for as long as memory does not suffice."""
    parts = 1
    while True:
        network = task.network(statistics)
        side = task.section.random_crop_px if task.section.random_crop != "none" else 0
        check_sides(network, task.crops, side)
        history = History(task.crops, task.section, task.folder, task.device)
        try:
            run_epochs(network, history, task, parts)
            return network, history
        except torch.OutOfMemoryError:
            parts *= 2
            print(f"train fold {task.fold}: too little memory on {task.device}, a step is now made in {parts} parts")
        finally:
            # Trainer and module refer to each other. Until Python happens to look for such rings the optimizer and the
            # mapped crops would stay, and the next try would have less room, not more.
            gc.collect()

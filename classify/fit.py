"""Training one fold's network. The one module that imports Lightning."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from classify.augment import Augmentation
from classify.batches import Batch, FoldCrops, TrainingCrops, epoch_loader
from classify.checkpoint import load_plain, to_bytes
from classify.config import ClassifySection
from classify.draws import Purpose, draw_seed
from classify.evaluate import uses_bfloat16
from classify.history import History, clear_best
from classify.model import Network, check_input, new_network
from classify.normalise import Statistics, crop_levels, measure_statistics
from classify.objective import batch_loss
from classify.optimize import new_optimizer, plateau
from classify.sampling import split_batches, training_batches
from hpa.errors import UserError
from hpa.files import write_bytes, write_csv
from hpa.progress import progress

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # Lightning 2.6 uses a torch class that is on its way out
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities.exceptions import SIGTERMException

NOT_FINITE: Final = "not_finite.csv"
"""The crops of the batch whose loss was not a finite number."""

_RESUME: Final = "resume.ckpt"
_TERMINATED: Final = 128 + 15


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


@dataclass(frozen=True)
class _Task:
    """What is trained, how, and where."""

    crops: FoldCrops
    section: ClassifySection
    seed: int
    fold: int
    folder: Path
    device: torch.device
    workers: int

    def network(self, statistics: Statistics) -> Network:
        rows = self.crops.training
        frequencies = self.crops.targets[rows].sum(axis=0) / np.maximum(self.crops.known(rows).sum(axis=0), 1)
        seed = draw_seed(Purpose.WEIGHTS, self.seed, self.fold)
        return new_network(self.section, seed, statistics.mean, statistics.std, frequencies)

    def batches(self, epoch: int, parts: int) -> list[NDArray[np.int64]]:
        batches = training_batches(self.crops, self.section, self.seed, self.fold, epoch)
        if parts == 1:
            return batches
        return split_batches(batches, self.crops.images, parts, whole_bags=self.section.objective != "cell")


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
    statistics = measure_statistics(crops, section.neighbours, section.normalise)
    rows = np.concatenate([crops.training, crops.validation])
    levels = crop_levels(crops.source, rows, crops.images, crops.sources, statistics, section.normalise)
    task = _Task(replace(crops, levels=levels), section, seed, fold, folder, device, workers)
    network, history = _train(task, statistics)
    kept, epoch = history.kept(network)
    return Fitted(kept, epoch, statistics)


def clear(folder: Path) -> None:
    """Remove what only a training under way needs."""
    (folder / _RESUME).unlink(missing_ok=True)
    clear_best(folder)


def _train(task: _Task, statistics: Statistics) -> tuple[Network, History]:
    parts = 1
    while True:
        network = task.network(statistics)
        side = task.section.random_crop_px if task.section.random_crop != "none" else 0
        _check_sides(network, task.crops, side)
        history = History(task.crops, task.section, task.folder, task.device)
        try:
            _run_epochs(_Module(network, task, parts), history, task)
        except torch.OutOfMemoryError:
            parts *= 2
            print(f"train fold {task.fold}: too little memory on {task.device}, a step is now made in {parts} parts")
            continue
        return network, history


def _check_sides(network: Network, crops: FoldCrops, random_crop_px: int) -> None:
    shape = crops.source.pixels(crops.training[:1]).shape
    for side in {shape[2], random_crop_px or shape[2]}:
        if side > shape[2]:
            raise UserError(f"expected classify.random_crop_px of at most {shape[2]}, the crops' side, found {side}")
        check_input(network, shape[1], side)


class _Module(LightningModule):
    """The network as Lightning trains it."""

    def __init__(self, network: Network, task: _Task, parts: int) -> None:
        super().__init__()
        self.network = network
        self.section = task.section
        self.losses: list[Tensor] = []
        self.learning_rate = 0.0
        self._task = task
        self._parts = parts
        self._rows: list[Tensor] = []
        self.accumulate = task.section.accumulate * parts
        self.steps = task.section.epochs * -(-len(task.batches(0, parts)) // self.accumulate)

    def train_dataloader(self) -> DataLoader[Batch]:
        task, epoch = self._task, self.current_epoch
        augmentation = Augmentation(task.section, task.seed, task.fold)
        crops = TrainingCrops(task.crops, task.section, augmentation, epoch)
        pin = task.device.type == "cuda"
        return epoch_loader(crops, task.batches(epoch, self._parts), task.workers, pin=pin)

    def on_train_epoch_start(self) -> None:
        self.network.train()
        self.network.freeze(self.current_epoch < self.section.freeze_epochs)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = batch_loss(self.network(batch.pixels, batch.levels), batch, self.section, self.network.alpha)
        self.losses.append(loss.detach())
        self._rows.append(batch.rows)
        self.check_finite(waiting=0 if loss.device.type == "cpu" else 2)  # a look at the newest waits for the device
        self.learning_rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def check_finite(self, waiting: int = 0) -> None:
        """Stop if a loss is not a finite number; the newest `waiting` may still be under way on the device."""
        while len(self._rows) > waiting:
            loss, rows = self.losses[-len(self._rows)], self._rows.pop(0)
            if not torch.isfinite(loss):
                self._stop(rows.cpu().numpy(), float(loss))

    def _stop(self, rows: NDArray[np.int64], loss: float) -> None:
        crops, path = self._task.crops, self._task.folder / NOT_FINITE
        keys = {"image_id": crops.image_ids[rows], "cell_label": crops.cell_labels[rows]}
        write_csv(path, pd.DataFrame(keys))
        raise UserError(
            f"expected a finite loss in epoch {self.current_epoch + 1}, found {loss}; the crops of its batch are in"
            f" {path}; a lower classify.learning_rate or a classify.clip_norm may help"
        )

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = new_optimizer(self.parameters(), self.section, self.steps)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class _Epochs(Callback):
    """Closes every epoch: history first, then the point to resume from."""

    def __init__(self, history: History, folder: Path, advance: Callable[[int], None]) -> None:
        self._history = history
        self._folder = folder
        self._advance = advance

    def state_dict(self) -> dict[str, Any]:
        return self._history.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._history.restore(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._advance(trainer.global_step)
        self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, _Module)
        if pl_module.section.schedule == "plateau":
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = pl_module.section.learning_rate * plateau(self._history.losses)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._advance(trainer.global_step - self._step)
        self._step = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, _Module)
        pl_module.check_finite()
        train_loss = torch.stack(pl_module.losses).mean().item()
        pl_module.losses.clear()
        self._history.close_epoch(pl_module.network, trainer.current_epoch + 1, train_loss, pl_module.learning_rate)
        # Written last: an epoch counts as finished only with it. (Trainer.save_checkpoint would write to the path.)
        write_bytes(self._folder / _RESUME, to_bytes(trainer._checkpoint_connector.dump_checkpoint()))


def _run_epochs(module: _Module, history: History, task: _Task) -> None:
    resume = task.folder / _RESUME
    device, section = task.device, task.section
    if resume.exists():
        load_plain(resume)  # a damaged file is told of here, in one sentence
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS sums in any order
    with _quiet(), progress(f"train fold {task.fold}", module.steps) as advance:
        trainer = Trainer(
            accelerator=device.type,
            devices=1 if device.index is None else [device.index],
            precision="bf16-mixed" if uses_bfloat16(section.precision, device) else "32-true",
            deterministic="warn" if device.type == "cuda" else None,
            max_epochs=section.epochs,
            gradient_clip_val=section.clip_norm or None,
            accumulate_grad_batches=module.accumulate,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[_Epochs(history, task.folder, advance)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=task.folder,
        )
        try:
            trainer.fit(module, ckpt_path=resume if resume.exists() else None, weights_only=True)
        except SIGTERMException:
            saved = "the last finished epoch is saved" if resume.exists() else "no epoch was finished yet"
            print(f"train fold {task.fold}: told to end; {saved}, the same command goes on", file=sys.stderr)
            raise SystemExit(_TERMINATED) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from talking about devices, loggers and tips."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # batches are made in process
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""Training one fold's network. The one module that imports Lightning."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from classify.augment import Augmentation
from classify.batches import FoldCrops, TrainingCrops, epoch_batches, epoch_loader, measure_normalisation
from classify.checkpoint import load_plain, to_bytes
from classify.config import ClassifySection
from classify.draws import Purpose, draw_seed
from classify.evaluate import uses_bfloat16
from classify.history import History, clear_best
from classify.model import Network, new_network
from classify.objective import batch_loss
from classify.optimize import new_optimizer
from hpa.errors import UserError
from hpa.files import write_bytes
from hpa.progress import progress

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # Lightning 2.6 uses a torch class that is on its way out
    from lightning.pytorch import Callback, LightningModule, Trainer

_RESUME: Final = "resume.ckpt"


@dataclass(frozen=True)
class Fitted:
    """What training one fold gave.

    Parameters
    ----------
    state_dict
        The kept weights, on the CPU.
    epoch
        Epochs behind them.
    mean, std
        Normalisation per channel, in uint8 units.
    """

    state_dict: dict[str, Tensor]
    epoch: int
    mean: list[float]
    std: list[float]


def fit(crops: FoldCrops, section: ClassifySection, seed: int, fold: int, folder: Path, device: torch.device) -> Fitted:
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
        Where it runs.

    Raises
    ------
    UserError
        If there is nothing to train or validate on, or pretrained weights are not to be had, or what an earlier
        run left is damaged.
    """
    if len(crops.training) < 2 or not len(crops.validation):
        raise UserError(
            f"expected at least 2 crops to train fold {fold} on and 1 to validate it, "
            f"found {len(crops.training)} and {len(crops.validation)}"
        )
    mean, std = measure_normalisation(crops.source, crops.training, section.neighbours)
    known = crops.known(crops.training).sum(axis=0)
    frequencies = crops.targets[crops.training].sum(axis=0) / np.maximum(known, 1)
    network = new_network(section, draw_seed(Purpose.WEIGHTS, seed, fold), mean, std, frequencies)
    history = History(crops, section, folder, device)
    _run_epochs(_Module(network, crops, section, seed, fold), history, folder, device, f"train fold {fold}")
    kept, epoch = history.kept(network)
    return Fitted(kept, epoch, mean.tolist(), std.tolist())


def clear(folder: Path) -> None:
    """Remove what only a training under way needs."""
    (folder / _RESUME).unlink(missing_ok=True)
    clear_best(folder)


class _Module(LightningModule):
    """The network as Lightning trains it."""

    def __init__(self, network: Network, crops: FoldCrops, section: ClassifySection, seed: int, fold: int) -> None:
        super().__init__()
        self.network = network
        self.section = section
        self.losses: list[Tensor] = []
        self.learning_rate = 0.0
        self._crops = crops
        self._seed = seed
        self._fold = fold
        self.steps = section.epochs * len(self._batches(0))

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        return epoch_batches(self._crops.training, self.section.batch_size, self._seed, self._fold, epoch)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        epoch = self.current_epoch
        augmentation = Augmentation(self.section.augment, self._seed, self._fold)
        return epoch_loader(
            TrainingCrops(self._crops, self.section.neighbours, augmentation, epoch), self._batches(epoch)
        )

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        pixels, targets = batch
        loss = batch_loss(self.network(pixels), targets, self.section)
        self.losses.append(loss.detach())
        self.learning_rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = new_optimizer(self.parameters(), self.section, self.steps)
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

    def on_train_batch_end(self, *_: Any) -> None:
        self._advance(1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, _Module)
        train_loss = torch.stack(pl_module.losses).mean().item()
        pl_module.losses.clear()
        self._history.close_epoch(pl_module.network, trainer.current_epoch + 1, train_loss, pl_module.learning_rate)
        # Written last: an epoch counts as finished only with it. (Trainer.save_checkpoint would write to the path.)
        write_bytes(self._folder / _RESUME, to_bytes(trainer._checkpoint_connector.dump_checkpoint()))


def _run_epochs(module: _Module, history: History, folder: Path, device: torch.device, what: str) -> None:
    resume = folder / _RESUME
    if resume.exists():
        load_plain(resume)  # a damaged file is told of here, in one sentence
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS sums in any order
    with _quiet(), progress(what, module.steps) as advance:
        trainer = Trainer(
            accelerator=device.type,
            devices=1 if device.index is None else [device.index],
            precision="bf16-mixed" if uses_bfloat16(module.section.precision, device) else "32-true",
            deterministic="warn" if device.type == "cuda" else None,
            max_epochs=module.section.epochs,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[_Epochs(history, folder, advance)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, ckpt_path=resume if resume.exists() else None, weights_only=True)


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

"""The loop over epochs. The one module that imports Lightning."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from classify.data.crops import Batch
from classify.inference.evaluate import uses_bfloat16
from classify.losses.objective import batch_loss
from classify.network.checkpoint import load_plain, to_bytes
from classify.network.model import Network
from classify.training.history import History
from classify.training.optimizer import new_optimizer, plateau
from classify.training.task import Task
from hpa.errors import UserError
from hpa.work.files import write_bytes, write_csv
from hpa.work.progress import progress

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # Lightning 2.6 uses a torch class that is on its way out
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities.exceptions import SIGTERMException

NOT_FINITE: Final = "not_finite.csv"
"""The crops of the batch whose loss was not a finite number."""

RESUME: Final = "resume.ckpt"
"""All that a killed training goes on from, after its last finished epoch."""

_TERMINATED: Final = 128 + 15


class _Module(LightningModule):
    """The network as Lightning trains it.

    Parameters
    ----------
    network
        What is trained, in place.
    task
        On what, and how.
    parts
        Into how many parts every step is cut.
    """

    def __init__(self, network: Network, task: Task, parts: int) -> None:
        super().__init__()
        self.network = network
        self.section = task.section
        self.losses: list[Tensor] = []  # of the epoch's batches so far, on the device
        self.learning_rate = 0.0  # of the last step
        self._task = task
        self._parts = parts
        self._rows: list[Tensor] = []  # of the batches whose loss was not looked at yet
        self.accumulate = task.section.accumulate * parts  # batches whose gradients make one step
        self.steps = task.section.epochs * -(-len(task.batches(0, parts)) // self.accumulate)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the batches of the current epoch; Lightning asks anew for every epoch."""
        return self._task.loader(self.current_epoch, self._parts)

    def on_train_epoch_start(self) -> None:
        """Turn to training after the last validation, and freeze the backbone for the recipe's first epochs."""
        self.network.train()
        self.network.freeze(self.current_epoch < self.section.freeze_epochs)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the loss of a batch, a scalar.

        Raises
        ------
        UserError
            If an earlier loss, or on a CPU this one, is not a finite number.
        """
        loss = batch_loss(self.network(batch.pixels, batch.levels), batch, self.section, self.network.alpha)
        self.losses.append(loss.detach())
        self._rows.append(batch.rows)
        self.check_finite(waiting=0 if loss.device.type == "cpu" else 2)  # a look at the newest waits for the device
        self.learning_rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def check_finite(self, waiting: int = 0) -> None:
        """Stop if a loss is not a finite number; the newest `waiting` may still be under way on the device.

        Raises
        ------
        UserError
            Naming the file that lists the crops of its batch.
        """
        while len(self._rows) > waiting:
            loss, rows = self.losses[-len(self._rows)], self._rows.pop(0)
            if not torch.isfinite(loss):
                self._stop(rows.cpu().numpy(), float(loss))

    def _stop(self, rows: NDArray[np.int64], loss: float) -> NoReturn:
        """List the crops of a batch and stop."""
        path = self._task.folder / NOT_FINITE
        write_csv(path, self._task.keys(rows))
        raise UserError(
            f"expected a finite loss in epoch {self.current_epoch + 1}, found {loss}; the crops of its batch are in"
            f" {path}; a lower classify.learning_rate or a classify.clip_norm may help"
        )

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimizer, and its schedule if that is one of steps."""
        optimizer, scheduler = new_optimizer(self.parameters(), self.section, self.steps)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class _Epochs(Callback):
    """Closes every epoch: history first, then the point to resume from.

    Parameters
    ----------
    history
        What is told of every epoch.
    folder
        Where the point to resume from lies.
    advance
        Moves the progress bar by so many steps.
    """

    def __init__(self, history: History, folder: Path, advance: Callable[[int], None]) -> None:
        self._history = history
        self._folder = folder
        self._advance = advance

    def state_dict(self) -> dict[str, Any]:
        """Return the history, for the point to resume from."""
        return self._history.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history up again."""
        self._history.restore(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the progress bar to where an earlier run ended."""
        self._advance(trainer.global_step)
        self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the learning rate by the validation losses so far, where the schedule follows them."""
        assert isinstance(pl_module, _Module)
        if pl_module.section.schedule == "plateau":
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = pl_module.section.learning_rate * plateau(self._history.losses)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Move the progress bar; not every batch is a step."""
        self._advance(trainer.global_step - self._step)
        self._step = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate, write the history, then the point to resume from."""
        assert isinstance(pl_module, _Module)
        pl_module.check_finite()
        train_loss = torch.stack(pl_module.losses).mean().item()
        pl_module.losses.clear()
        self._history.close_epoch(pl_module.network, trainer.current_epoch + 1, train_loss, pl_module.learning_rate)
        # Written last: an epoch counts as finished only with it. (Trainer.save_checkpoint would write to the path.)
        write_bytes(self._folder / RESUME, to_bytes(trainer._checkpoint_connector.dump_checkpoint()))


def run_epochs(network: Network, history: History, task: Task, parts: int) -> None:
    """Train a network in place, after the last finished epoch of an earlier run.

    Parameters
    ----------
    network
        As training begins; an earlier run's weights are loaded over it.
    history
        Takes in every epoch.
    task
        What is trained on, how, and where.
    parts
        Into how many parts every step is cut.

    Raises
    ------
    UserError
        If what an earlier run left is damaged, or the loss is no longer a finite number.
    torch.OutOfMemoryError
        If a part of a step is still too large.
    SystemExit
        With code 143, at a SIGTERM.
    """
    module = _Module(network, task, parts)
    resume = task.folder / RESUME
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

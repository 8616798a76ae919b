"""The training loop of one fold's network; the only module that imports Lightning."""

import logging
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader

from classify.data.batches import Batch
from classify.data.seeds import Purpose, derive_seed
from classify.inference.evaluate import autocast_type
from classify.losses.classification import class_weights
from classify.network.checkpoint import load_plain, to_bytes
from classify.network.model import Network
from classify.training.averaging import WeightAverage
from classify.training.devices import TERMINATED, gather_batch
from classify.training.fold_training import FoldTraining, LogName
from classify.training.history import GpuWatch, History, copy_weights
from classify.training.mixing import run_network
from classify.training.optimizer import new_optimizer, parameter_groups, start_schedule
from classify.training.samples import SeenCrops
from classify.training.step_loss import step_loss
from hpa.errors import UserError
from hpa.work.files import write_bytes, write_csv
from hpa.work.progress import Advance, progress

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # Lightning 2.6 uses a deprecated torch class
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
    from lightning.pytorch.plugins.io import TorchCheckpointIO
    from lightning.pytorch.strategies import DDPStrategy
    from lightning.pytorch.utilities.exceptions import SIGTERMException

NOT_FINITE: Final = "not_finite.csv"
"""File that lists the crops of the batch whose loss was not finite."""

RESUME: Final = "resume.ckpt"
"""File that an interrupted training resumes from, written after the last epoch and after those that are worth it."""

LOGS: Final = "logs"
"""Folder of the logs that are written beside the history."""

_SAVING_SHARE: Final = 0.03  # at most this share of the time goes into the files to resume from

PHASE: Final = "cellwise_phase"
"""Key of the file to resume from: number of the phase, of the epochs before it, and of its finished epochs."""

_PLATEAU: Final = "plateau"  # keys of the states of the schedule and of the average of the weights
_AVERAGE: Final = "average"


class _Module(LightningModule):
    """The network in the form that Lightning trains.

    Parameters
    ----------
    network
        The network, trained in place.
    training
        Data and settings.
    parts
        Number of parts that every batch is split into.
    """

    def __init__(self, network: Network, training: FoldTraining, parts: int) -> None:
        super().__init__()
        self.network = network
        self.section = training.section
        self.losses: list[Tensor] = []  # of the epoch's batches so far, on the device
        self.seen = SeenCrops()  # in the epoch's batches so far
        self.learning_rate = 0.0  # of the last step
        self._fold_training = training
        self._parts = parts
        self._unchecked_rows: list[Tensor] = []  # rows of each batch whose loss has not been checked yet
        self.accumulate = training.section.accumulate * parts  # batches whose gradients make one step
        self.steps_per_epoch = -(-len(training.batches(0, parts)) // self.accumulate)
        self.phases = training.section.training_phases
        self.steps = self.steps_per_epoch * sum(phase.epochs for phase in self.phases)
        self.phase = self.first_epoch = 0  # number of the present phase, and of its first epoch
        self.finished = 0  # epochs of the present phase
        self.ended = False  # whether the phase ended before its last epoch
        self.average = WeightAverage(network, training.section, sum(phase.epochs for phase in self.phases))
        self._trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        self._optimizer = new_optimizer(parameter_groups(network, training.section), training.section)
        self._schedule: LRScheduler | None = None
        self._scheduled = -1  # the phase whose schedule it is
        self._held = training.held_heads
        self._class_weights = class_weights(training.section, training.crops)

    @property
    def epoch(self) -> int:
        """The number of the epoch in the whole training, from 0."""
        return self.first_epoch + self.current_epoch

    def begin_phase(self, number: int, first_epoch: int) -> None:
        """Freeze and unfreeze, and start the schedule of the learning rate unless the one before continues.

        The optimizer keeps what it knows of earlier gradients.

        Parameters
        ----------
        number
            Number of the phase, from 0.
        first_epoch
            Number of epochs before it.
        """
        phase, self.phase, self.first_epoch = self.phases[number], number, first_epoch
        self.finished, self.ended = 0, False
        trained = self.network.parameters_of(phase.trainable) & self._trainable
        if not trained:
            parts = ", ".join(phase.trainable)
            raise UserError(f"expected something to train in phase {number + 1} of classify.phases, found no {parts}")
        self.network.train()
        self.network.train_only(trained)
        self.network.training_px = phase.input_px
        self._optimizer.zero_grad(set_to_none=True)  # a gradient of zero would still decay what is frozen now
        first = max(i for i in range(number + 1) if self.phases[i].schedule is not None)
        if first != self._scheduled:
            after = [i for i in range(first + 1, len(self.phases)) if self.phases[i].schedule is not None]
            epochs = sum(phase.epochs for phase in self.phases[first : min(after, default=len(self.phases))])
            chosen = self.phases[first].schedule
            assert chosen is not None, "the phase starts a schedule"
            self._schedule = start_schedule(
                *(self._optimizer, self.section, chosen),
                learning_rate=self.phases[first].learning_rate,
                steps=self.steps_per_epoch * epochs,
            )
            self._scheduled = first

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the current epoch; Lightning calls this at the start of every epoch."""
        return self._fold_training.loader(self.epoch, self._parts)

    def on_train_epoch_start(self) -> None:
        """Switch to training mode, which validation ends, and draw dropout by the epoch alone."""
        self.network.train_mode()
        training = self._fold_training
        rank = 0 if training.rank is None else training.rank.number
        torch.manual_seed(derive_seed(Purpose.DROPOUT, training.seed, training.fold, self.epoch, rank))
        self._sizes = [] if training.rank is None else training.sizes(self.epoch)

    def on_train_start(self) -> None:
        """Move the average of the weights to where they are."""
        self.average.to(self.device)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Raises
        ------
        UserError
            If an earlier loss, or on a CPU this one, is not finite.
        """
        training = self._fold_training
        seed = derive_seed(Purpose.MIXING, training.seed, training.fold, self.epoch, index)
        outputs, batch = run_network(self.network, batch, self.section, seed)
        if training.rank is not None:
            outputs, batch = gather_batch(outputs, batch, self._sizes[index], training.rank.number)
        loss = step_loss(self.network, outputs, batch, self.section, self._class_weights, self._held)
        self.losses.append(loss.detach())
        if not (self.section.mixup or self.section.cutmix):  # outputs for mixtures are not those of their crops
            self.seen.add(batch.rows, outputs)
        self._unchecked_rows.append(batch.rows)
        # On a GPU, reading the newest losses would wait for the device.
        self.check_finite(skip_newest=0 if loss.device.type == "cpu" else 2)
        self.learning_rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def check_finite(self, skip_newest: int = 0) -> None:
        """Check that losses are finite, except the newest `skip_newest`, which the device may still be computing.

        Raises
        ------
        UserError
            If a loss is not finite; the message names the file that lists the crops of its batch.
        """
        while len(self._unchecked_rows) > skip_newest:
            loss, rows = self.losses[-len(self._unchecked_rows)], self._unchecked_rows.pop(0)
            if not torch.isfinite(loss):
                self._stop(rows.cpu().numpy(), float(loss))

    def _stop(self, rows: NDArray[np.int64], loss: float) -> NoReturn:
        path = self._fold_training.folder / NOT_FINITE
        labels = self._fold_training.crops.labels
        keys = pd.DataFrame({"image_id": labels.image_ids[rows], "cell_label": labels.cell_labels[rows]})
        if self._fold_training.writes:
            write_csv(path, keys)
        raise UserError(
            f"expected a finite loss in epoch {self.epoch + 1}, found {loss}; the crops of its batch are in"
            f" {path}; a lower classify.learning_rate or a classify.clip_norm may help"
        )

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimizer, and its schedule if that goes by steps."""
        if self._schedule is None or isinstance(self._schedule, ReduceLROnPlateau):
            return self._optimizer
        return {"optimizer": self._optimizer, "lr_scheduler": {"scheduler": self._schedule, "interval": "step"}}

    def follow_plateau(self, score: float) -> None:
        """Advance a schedule that goes by validations; Lightning would do so after the file to resume from is saved."""
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(score)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to the file to resume from what Lightning does not know: the phase and a schedule by validations."""
        checkpoint[PHASE] = {
            "number": self.phase,
            "first_epoch": self.first_epoch,
            "epochs": self.finished,
            "ended": self.ended,
        }
        checkpoint[_AVERAGE] = self.average.state()
        if isinstance(self._schedule, ReduceLROnPlateau):
            checkpoint[_PLATEAU] = self._schedule.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added."""
        self.finished, self.ended = checkpoint[PHASE]["epochs"], checkpoint[PHASE]["ended"]
        self.average.restore(checkpoint[_AVERAGE])
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.load_state_dict(checkpoint[_PLATEAU])


class _Epochs(Callback):
    """Callback that ends every epoch: it writes the history, then the file to resume from.

    Parameters
    ----------
    history
        The history, which also validates.
    training
        Data, settings and place.
    advance
        Function that moves the progress bar by a number of steps.
    """

    def __init__(self, history: History, training: FoldTraining, advance: Advance) -> None:
        self._history = history
        self._training = training
        self._advance = advance
        self._saved = time.monotonic()
        self._cost_s = 0.0  # of the last file to resume from
        self._gpu = GpuWatch(training.device)
        self._loggers: list[Logger] = []
        self._has_begun = False

    def state_dict(self) -> dict[str, Any]:
        """Return the history for the file to resume from."""
        return self._history.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history."""
        self._history.restore(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the progress bar to the end of an earlier run."""
        assert isinstance(pl_module, _Module)
        if not self._has_begun:
            self._loggers = new_loggers(self._training.folder, self._training.logs) if self._training.writes else []
            for row in self._history.rows:
                self._log(row)
            self._advance(pl_module.first_epoch * pl_module.steps_per_epoch + trainer.global_step)
        self._has_begun, self._step = True, trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Average the weights and move the progress bar after a step, which may take several batches."""
        assert isinstance(pl_module, _Module)
        if trainer.global_step > self._step:
            pl_module.average.after_step(pl_module.network)
        self._gpu.sample()
        self._advance(trainer.global_step - self._step)
        self._step = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate, write the history, then the file to resume from unless that takes longer than it can save."""
        assert isinstance(pl_module, _Module)
        pl_module.check_finite()
        train_loss = torch.stack(pl_module.losses).mean().item()
        pl_module.losses.clear()
        epoch, phase = pl_module.epoch + 1, pl_module.phases[pl_module.phase]
        average, pl_module.finished = pl_module.average, trainer.current_epoch + 1
        is_last = pl_module.phase + 1 == len(pl_module.phases) and pl_module.finished == phase.epochs
        measures = average.after_epoch(pl_module.network, epoch) and is_last
        score, stalled = None, False
        if self._training.writes:
            if measures:
                average.measure_norms(replace(self._training, rank=None).loader(epoch - 1, 1))
            network = average.of(pl_module.network)
            seen = pl_module.seen.take()
            score = self._history.close_epoch(network, epoch, train_loss, pl_module.learning_rate, seen)
            self._advance(0, self._history.last_scores())
            stalled = self._history.has_stalled(epoch)
            self._log(self._history.rows[-1] | self._gpu.take())
            if self._training.keep is not None:
                self._training.keep(copy_weights(network), epoch)
        began = time.monotonic()
        saves = _SAVING_SHARE * (began - self._saved) >= self._cost_s
        if self._training.rank is not None:
            score, stalled, saves = trainer.strategy.broadcast((score, stalled, saves))
        if score is not None:
            pl_module.follow_plateau(score)
        if stalled and pl_module.finished < phase.epochs:
            pl_module.ended = trainer.should_stop = True
            is_last = pl_module.phase + 1 == len(pl_module.phases)
        if is_last or saves:
            # Last, because the epoch counts as finished with it.
            trainer.save_checkpoint(self._training.folder / RESUME)
            self._saved = time.monotonic()
            self._cost_s = self._saved - began

    def _log(self, row: Mapping[str, float]) -> None:
        for logger in self._loggers:
            logger.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=int(row["epoch"]))
            logger.save()


def new_loggers(folder: Path, logs: Sequence[LogName]) -> list[Logger]:
    """Return Lightning's loggers, which begin anew in ``logs/csv`` and ``logs/tensorboard`` of a folder."""
    kinds: dict[LogName, Any] = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}
    for log in logs:
        shutil.rmtree(folder / LOGS / log, ignore_errors=True)
    return [kinds[log](folder / LOGS, name="", version=log) for log in logs]


class _PlainFiles(TorchCheckpointIO):
    """Files to resume from: written atomically, and read without executing code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the file."""
        write_bytes(Path(path), to_bytes(checkpoint))

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> Any:
        """Read the file, or report a damaged one in one sentence."""
        return load_plain(Path(path))


def run_epochs(network: Network, history: History, training: FoldTraining, parts: int) -> Network:
    """Train a network in place, resuming after the last finished epoch of an earlier run.

    Parameters
    ----------
    network
        The untrained network; the weights of an earlier run replace its own.
    history
        The history that every epoch is added to.
    training
        Data, settings and place.
    parts
        Number of parts that every batch is split into.

    Returns
    -------
    Network
        The network whose weights the last epoch leaves: the same, or the average of its weights.

    Raises
    ------
    UserError
        If the resume file of an earlier run is damaged, or the loss is not finite.
    torch.OutOfMemoryError
        If a part of a batch does not fit into device memory.
    SystemExit
        With code 143, on SIGTERM.
    """
    module = _Module(network, training, parts)
    resume = training.folder / RESUME
    place = load_plain(resume)[PHASE] if resume.exists() else {"number": 0, "first_epoch": 0, "ended": False}
    if training.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # otherwise cuBLAS sums in any order
    with (
        _quiet(),
        torch.random.fork_rng(devices=[]),
        progress(f"train fold {training.fold}", module.steps) if training.writes else nullcontext(_nothing) as advance,
    ):
        callback, first_epoch = _Epochs(history, training, advance), place["first_epoch"]
        for number in range(place["number"], len(module.phases)):
            module.begin_phase(number, first_epoch)
            history.begin_phase(first_epoch)
            resumes = resume.exists() and number == place["number"]
            epochs = place["epochs"] if resumes and place["ended"] else module.phases[number].epochs
            _fit(_new_trainer(training, module, callback, epochs), module, training, resume if resumes else None)
            first_epoch += module.finished
    return module.average.of(network)


class _OwnSignals(Callback):
    """Callback that takes back the handling of SIGTERM, since Lightning's has the processes of a training wait.

    A signal to the first process then ends all of them (`classify.training.devices`).
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signal.signal(signal.SIGTERM, self._handler)


def _nothing(steps: int, note: str = "") -> None:
    """Show no progress: another process does."""


def _new_trainer(training: FoldTraining, module: _Module, callback: Callback, epochs: int) -> Trainer:
    device, section = training.device, training.section
    reduced = autocast_type(section.precision, device, section.backbone)
    names: dict[torch.dtype | None, Any] = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed", None: "32-true"}
    return Trainer(
        accelerator=device.type,
        **_place(training),
        precision=names[reduced],
        deterministic="warn" if device.type == "cuda" else None,
        max_epochs=epochs,
        gradient_clip_val=section.clip_norm or None,
        accumulate_grad_batches=module.accumulate,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        callbacks=[callback] if training.rank is None else [callback, _OwnSignals()],
        plugins=[_PlainFiles()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=training.folder,
    )


def _place(training: FoldTraining) -> dict[str, Any]:
    """Return the arguments of the trainer that say where it runs; processes have met already."""
    device, rank = training.device, training.rank
    if rank is None:
        return {"devices": 1 if device.index is None else [device.index]}
    indices = list(rank.devices.indices)
    return {
        "devices": len(indices) if device.type == "cpu" else indices,
        "num_nodes": rank.devices.nodes,
        "strategy": DDPStrategy(cluster_environment=LightningEnvironment(), timeout=timedelta(hours=2)),
    }


def _fit(trainer: Trainer, module: _Module, training: FoldTraining, resume: Path | None) -> None:
    """Train one phase, and let signals end the process in their ways."""
    try:
        trainer.fit(module, ckpt_path=resume, weights_only=True)
    except SIGTERMException:
        tell_unfinished(training.fold, training.folder, "terminated")
        raise SystemExit(TERMINATED) from None
    except (SystemExit, RuntimeError) as error:
        # Lightning turns Ctrl+C into an exit with code 1, or fails to clean up before the first batch.
        if trainer.interrupted and isinstance(error.__context__, KeyboardInterrupt):
            tell_unfinished(training.fold, training.folder, "interrupted")
            raise KeyboardInterrupt from None
        raise


def tell_unfinished(fold: int, folder: Path, how: str) -> None:
    """Say in one line that a training ended before its end, and that nothing is lost."""
    saved = "a finished epoch is saved" if (folder / RESUME).exists() else "no epoch is saved yet"
    print(f"train fold {fold}: {how}; {saved}, the same command resumes", file=sys.stderr)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's messages about devices, loggers and tips."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Loading in this process is intended.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

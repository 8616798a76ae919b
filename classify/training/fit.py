"""Training the network of one fold, resumable, and with smaller steps where device memory is short."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from classify.config import ClassifySection
from classify.data.crops import FeatureSource, FoldCrops
from classify.data.normalisation import Statistics, measure_statistics
from classify.network.checkpoint import inference_weights, load_plain
from classify.network.model import Network, check_crop_size, check_input
from classify.network.pretrained import Start
from classify.training.fold_training import FoldTraining, LogName
from classify.training.history import BEST, History, remove_best
from classify.training.loop import PHASE, RESUME, run_epochs
from hpa.errors import UserError


@dataclass(frozen=True)
class TrainedModel:
    """Result of training one fold.

    Parameters
    ----------
    state_dict
        Weights, on the CPU.
    epoch
        Number of epochs of training behind them.
    statistics
        Statistics of the training crops.
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
    start: Start | None = None,
    statistics: Statistics | None = None,
    keep: Callable[[dict[str, Tensor], int], None] | None = None,
    logs: tuple[LogName, ...] = (),
) -> TrainedModel:
    """Train the network of one fold, resuming after the last finished epoch of an earlier run.

    Every epoch writes ``history.csv`` and ``resume.ckpt`` to `folder`; `remove_resume_files` removes what is not
    needed after training. Damaged ones are thrown away. On one machine, device and number of threads, an interrupted
    and resumed training gives the same result as an uninterrupted one.

    Parameters
    ----------
    crops
        Training and validation crops.
    section
        Recipe section.
    seed
        The recipe's seed.
    fold
        Number of the fold.
    folder
        Folder of the fold's files. The caller guarantees that existing files were made from these arguments.
    device
        Device to run on. If a training step does not fit into its memory, the batch is split in half, repeatedly, and
        the gradients of the parts are accumulated; batch norm then sees the parts.
    workers
        Number of processes that read and augment crops; 0 does so in this process.
    start
        The weights that the network starts from; None for random ones. Crops are normalised as they were for these if
        the recipe normalises in the same way.
    statistics
        What `start_statistics` returns, if it is known; needed with features in place of crops.
    keep
        Function that keeps the weights after every epoch, from 1; None keeps none.
    logs
        Logs of the epochs that are written beside the history: ``"csv"``, ``"tensorboard"``.

    Raises
    ------
    UserError
        If there is nothing to train or validate on, the network does not accept the crops, pretrained weights are not
        available, or the loss is not finite, in which case
        ``not_finite.csv`` lists the crops of the batch.
    SystemExit
        With code 143, on SIGTERM; the last finished epoch is saved.
    """
    check_enough(crops, fold)
    discard_damaged(folder, section)
    statistics = statistics or start_statistics(crops, section, start)
    training = FoldTraining(crops, section, seed, fold, folder, device, workers, start, keep, logs=logs)
    training = training.with_levels(statistics)
    network, history = _train(training, statistics)
    weights, epoch = history.final_weights(network)
    return TrainedModel(inference_weights(weights), epoch, statistics)


def fit_part(training: FoldTraining, statistics: Statistics) -> None:
    """Train the network of one fold in one of several processes; `fit` then returns the result.

    Parameters
    ----------
    training
        Data, settings and place.
    statistics
        Statistics of the training crops.
    """
    _train(training.with_levels(statistics), statistics)


def check_enough(crops: FoldCrops, fold: int) -> None:
    """Check that there is something to train and to validate on.

    Raises
    ------
    UserError
        If there is not.
    """
    if len(crops.training) < 2 or not len(crops.validation):
        raise UserError(
            f"expected at least 2 crops to train fold {fold} on and 1 to validate it, "
            f"found {len(crops.training)} and {len(crops.validation)}"
        )


def start_statistics(crops: FoldCrops, section: ClassifySection, start: Start | None) -> Statistics:
    """Return the statistics of the pretrained weights if the recipe normalises as they do, else those of the crops."""
    same = start is not None and start.normalise == section.normalise
    # Weights to start from do not bring the statistics of single sources along.
    if same and start is not None and start.statistics is not None and section.normalise != "sources":
        return start.statistics
    return measure_statistics(crops, section.outside_cell, section.normalise)


def remove_resume_files(folder: Path) -> None:
    """Remove the files that only an unfinished training needs."""
    (folder / RESUME).unlink(missing_ok=True)
    remove_best(folder)


def discard_damaged(folder: Path, section: ClassifySection) -> None:
    """Start over if the files of an earlier run are damaged: nothing else can be made of them."""
    if not (folder / RESUME).exists():
        return
    try:
        phase = load_plain(folder / RESUME)[PHASE]
        validated = phase["first_epoch"] + phase["epochs"] >= section.validate_every
        if section.checkpoint == "best" and validated:
            load_plain(folder / BEST)
    except (UserError, KeyError, TypeError):
        print(f"training from the start, since the files to resume from in {folder} are damaged")
        remove_resume_files(folder)


def _train(training: FoldTraining, statistics: Statistics) -> tuple[Network, History]:
    """Train, and start over with every batch split into twice as many parts as long as memory is short."""
    section, crops = training.section, training.crops
    parts = 1
    while True:
        network = training.new_network(statistics)
        if not isinstance(crops.source, FeatureSource):
            _check_crop_sizes(network, crops, section)
        history = History(crops, section, training.folder, training.device)
        try:
            return run_epochs(network, history, training, parts), history
        except torch.OutOfMemoryError:
            if training.rank is not None:
                raise UserError(
                    f"expected room for a part of a batch on {training.device}, found less; set a smaller"
                    " classify.batch_size, with classify.accumulate for the same steps"
                ) from None
            parts *= 2
            reason = f"too little memory on {training.device}"
            print(f"train fold {training.fold}: {reason}, splitting each step into {parts} parts")
        finally:
            # Trainer and module refer to each other: without a collection, the optimizer and the mapped crops would
            # stay in memory for an indefinite time, and the next try would have less room.
            gc.collect()


def _check_crop_sizes(network: Network, crops: FoldCrops, section: ClassifySection) -> None:
    """Check that the network accepts crops in their full size and in those of random crops and of phases."""
    shape = crops.source.pixels(crops.training[:1]).shape
    for side in {shape[2], section.random_crop_px if section.random_crop != "none" else shape[2]}:
        check_crop_size(side, shape[2])
        check_input(network, shape[1], side, [phase.input_px for phase in section.training_phases])

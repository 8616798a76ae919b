"""Run of the training: one model per fold, for every window that a recipe trains on."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from classify.cell_targets import CELL_TARGETS, cell_targets_path
from classify.config import ClassifySection
from classify.data.crops import select_channels
from classify.models import (
    CHECKPOINT,
    checkpoint_path,
    read_labelled_crops,
    run_folds,
    stage_inputs,
)
from classify.network.checkpoint import Checkpoint, inference_weights
from classify.own_code import code_files, code_from, code_sums, folder_in_force
from classify.preparation import (
    PreparedFold,
    check_network,
    computation_of,
    computing,
    loading_workers,
    prepare_fold,
    start_file,
)
from classify.training.devices import Devices, Rank, run_on_devices
from crops.config import CropsSection, Window
from hpa.config import DataSection, parse_section
from hpa.errors import UserError
from hpa.work.device import Computation, default_threads, resolve_device
from hpa.work.folder import WorkFolder
from hpa.work.stage import StageRun, begin

if TYPE_CHECKING:
    from classify.training.fold_training import LogName

EPOCHS: Final = "epochs"
"""Folder of the checkpoints of all epochs of a fold, if the recipe keeps them."""

_RECORDED = ("cellwise", "torch", "torchvision", "lightning", "pytorch-metric-learning")


def train(
    work: WorkFolder,
    *,
    device: str = "auto",
    workers: int | None = None,
    overwrite: bool = False,
    folds: Sequence[int] | None = None,
    threads: int | None = None,
    devices: Devices | None = None,
    logs: Sequence[str] = (),
) -> int:
    """Train one model per fold, for every window that the recipe trains on.

    Parameters
    ----------
    work
        The work folder; the crops stage must be done.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    workers
        Number of processes that read and augment crops; 0 does so in this process, None uses up to 8 with a GPU and
        0 without.
    overwrite
        Discard existing results and start over.
    folds
        Folds to train; None trains all.
    threads
        Threads of a new run (`hpa.work.device.Computation.here`); a run that is resumed keeps its own number.
    devices
        Several devices that train one model together, each on a part of every batch (`choose_devices`); None uses
        `device`.
    logs
        Logs of the epochs that are written beside ``history.csv``: ``"csv"``, ``"tensorboard"``.

    Returns
    -------
    int
        The exit code 0.

    Raises
    ------
    UserError
        If there are no crops, no such fold or device, or the inputs of an earlier run have changed.
    """
    section = work.section("classify", ClassifySection)
    chosen = torch.device(resolve_device(device))
    if section.precision == "16" and chosen.type != "cuda":
        raise UserError(f'expected a CUDA GPU with classify.precision = "16", found {chosen}; "auto" fits any device')
    available = run_folds(work)
    for fold in folds or ():
        if fold not in available:
            raise UserError(f"expected folds among {', '.join(map(str, available))}, found {fold}")
    chosen_logs = _check_logs(logs)
    if devices is not None:
        _check_devices(work, section, devices, available if folds is None else folds)
    here = computation_of(section, chosen, threads)
    # All begin before the first is trained: a fault shows early, and a killed run with --overwrite that is resumed
    # without it replaces the later folds too.
    begun = [
        (window, fold, stage)
        for window in work.section("crops", CropsSection).train_windows
        for fold, stage in _begin_folds(work, window, section, available if folds is None else folds, here, overwrite)
    ]
    for window, fold, stage in begun:
        _train_fold(work, window, section, fold, stage, chosen, loading_workers(workers, chosen), devices, chosen_logs)
    return 0


def parts_of_training(work: WorkFolder, folds: Sequence[int] | None) -> list[str]:
    """Return the parts of a work folder that a training writes, none for the whole.

    Trainings of single folds may run side by side, unless they compute features for all folds.
    """
    if not folds or work.section("classify", ClassifySection).trainable == "heads":
        return []
    return [f"fold-{fold}" for fold in sorted(set(folds))]


def join_training(work: WorkFolder, devices: Devices, workers: int | None = None, code: Path | None = None) -> int:
    """Train a part of every batch on this node, for the run of `train` on node 0, which writes all files.

    Parameters
    ----------
    work, devices, workers
        As for `train`.
    code
        The folder that the recipe's own functions are taken from.

    Raises
    ------
    UserError
        If node 0 does not come.
    """
    count = loading_workers(workers, torch.device(devices.kind))
    run_on_devices(devices, partial(_train_part, work.root, count, code), "", default_threads())
    return 0


def _check_logs(logs: Sequence[str]) -> tuple["LogName", ...]:
    for log in logs:
        if log not in ("csv", "tensorboard"):
            raise UserError(f"expected --log csv or tensorboard, found {log}")
        if log == "tensorboard" and find_spec("tensorboard") is None:
            raise UserError("expected TensorBoard to be installed for --log tensorboard (the extra cellwise[logs])")
    return tuple(dict.fromkeys(logs))  # type: ignore[arg-type]


def _check_devices(work: WorkFolder, section: ClassifySection, devices: Devices, folds: Sequence[int]) -> None:
    if section.trainable == "heads":
        raise UserError('expected one device with classify.trainable = "heads", whose training is short, found several')
    if devices.world > section.batch_size // 2:
        raise UserError(
            f"expected at most half as many devices as crops in a batch ({section.batch_size}), found {devices.world}"
        )
    windows = work.section("crops", CropsSection).train_windows
    if devices.nodes > 1 and (len(folds) > 1 or len(windows) > 1):
        raise UserError(
            f"expected one fold (--fold) of one window with --nodes, found {len(folds)} folds of {len(windows)} windows"
        )


def _begin_folds(
    work: WorkFolder,
    window: Window,
    section: ClassifySection,
    folds: Sequence[int],
    here: Computation,
    overwrite: bool,
) -> list[tuple[int, StageRun]]:
    data = work.data
    inputs = stage_inputs(work, window) | {"folds.parquet": work.folds} | code_files(section)
    if section.labels == "cells":
        inputs[CELL_TARGETS] = cell_targets_path(work)
    command = f"python -m classify train {work.root}"

    weights = {fold: start_file(work, window, section, fold) for fold in folds}

    @cache
    def check() -> None:
        """Check the network on the crops, once for all folds."""
        store, _ = read_labelled_crops(work, window, data)
        select_channels(store, section.channels, data.channels)
        check_network(section, data, store.shape[1], weights[folds[0]])

    def begin_fold(fold: int) -> StageRun:
        """Begin or resume the stage of one fold."""
        folder, file = checkpoint_path(work, window, fold).parent, weights[fold]
        own = inputs if file is None else inputs | {"the pretrained weights": file}
        return begin(
            folder, command, data, section, own, overwrite=overwrite, beside=True, check=check, computation=here
        )

    return [(fold, begin_fold(fold)) for fold in folds]


def _train_fold(
    work: WorkFolder,
    window: Window,
    section: ClassifySection,
    fold: int,
    stage: StageRun,
    device: torch.device,
    workers: int,
    devices: Devices | None,
    logs: tuple["LogName", ...],
) -> None:
    # Imported here, because Lightning takes seconds to import and `predict` does not need it.
    from classify.training.fit import discard_damaged, fit, remove_resume_files
    from classify.training.loop import tell_unfinished

    data, path = work.data, stage.folder / CHECKPOINT
    stage = replace(stage, started=time.monotonic())
    if not (stage.finished and path.is_file()):
        with computing(stage.computation, section) as resolved:
            ready = prepare_fold(work, window, resolved, fold, device)
            describe = partial(_checkpoint, ready=ready, section=section, data=data, fold=fold)
            keep = partial(_keep_epoch, folder=stage.folder / EPOCHS, describe=describe)
            if devices is not None:
                discard_damaged(stage.folder, resolved)
                task = {
                    "window": window,
                    "fold": fold,
                    "folder": str(stage.folder),
                    "section": resolved.model_dump(mode="json"),
                }
                kept = keep if section.keep_epochs else None
                train_part = partial(_train_part, work.root, workers, folder_in_force(), keep=kept, logs=logs)
                try:
                    run_on_devices(devices, train_part, json.dumps(task), torch.get_num_threads())
                except (SystemExit, KeyboardInterrupt) as error:
                    how = "terminated" if isinstance(error, SystemExit) else "interrupted"
                    tell_unfinished(fold, stage.folder, how)
                    raise
            trained = fit(
                *(ready.crops, ready.section, ready.seed, fold, stage.folder, device, workers),
                *(ready.start, ready.statistics),
                keep=keep if section.keep_epochs else None,
                logs=logs if devices is None else (),
            )
        describe(trained.state_dict, trained.epoch).save(path)
        counts = {"trained_crops": len(ready.crops.training), "validated_crops": len(ready.crops.validation)}
        stage.finish(counts, [path])
    remove_resume_files(stage.final)


def _train_part(
    root: Path,
    workers: int,
    code: Path | None,
    rank: Rank,
    task: str,
    *,
    keep: Callable[[dict[str, Tensor], int], None] | None = None,
    logs: tuple["LogName", ...] = (),
) -> None:
    """Train in one of several processes; the last epoch leaves all in the file to resume from."""
    from classify.training.fit import fit_part
    from classify.training.fold_training import FoldTraining

    work, told = WorkFolder(root), json.loads(task)
    section = parse_section(ClassifySection, "classify", told["section"])
    with code_from(code):
        ready = prepare_fold(work, told["window"], section, told["fold"], rank.device)
        training = FoldTraining(
            *(ready.crops, ready.section, ready.seed, told["fold"], Path(told["folder"]), rank.device),
            workers=workers,
            start=ready.start,
            keep=keep,
            rank=rank,
            logs=logs,
        )
        fit_part(training, ready.statistics)


def _checkpoint(
    weights: dict[str, Tensor],
    epoch: int,
    *,
    ready: PreparedFold,
    section: ClassifySection,
    data: DataSection,
    fold: int,
) -> Checkpoint:
    return Checkpoint(
        state_dict=inference_weights(weights),
        config=section.model_dump(mode="json"),
        vocabulary=data.classes.name,
        classes=list(data.classes.classes),
        channels=list(data.channels),
        size_px=ready.size_px,
        mean=ready.statistics.mean,
        std=ready.statistics.std,
        fold=fold,
        epoch=epoch,
        seed=ready.seed,
        versions={package: version(package) for package in _RECORDED},
        sources=ready.statistics.sources,
        code=code_sums(section),
    )


def _keep_epoch(
    weights: dict[str, Tensor], epoch: int, *, folder: Path, describe: Callable[[dict[str, Tensor], int], Checkpoint]
) -> None:
    describe(weights, epoch).save(folder / f"epoch-{epoch:03d}.pt")

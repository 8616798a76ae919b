"""Run of the training: one model per fold, for every window that a recipe trains on."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from classify.cell_targets import CELL_TARGETS, cell_targets_path, read_cell_targets, train_on_cells
from classify.config import ClassifySection
from classify.data.augmentation import check_augment
from classify.data.crops import CropLabels, CropSource, FeatureSource, FoldCrops, select_channels
from classify.data.normalisation import Statistics
from classify.inference.evaluate import uses_bfloat16
from classify.inference.features import FeatureRun, kept_features
from classify.inference.views import five_crop_px
from classify.losses.classification import check_loss
from classify.models import (
    CHECKPOINT,
    checkpoint_path,
    features_folder,
    read_labelled_crops,
    run_folds,
    stage_inputs,
    trained_checkpoints,
)
from classify.network.checkpoint import Checkpoint, inference_weights
from classify.network.model import Network, check_input, new_network
from classify.network.pretrained import Start
from classify.network.start import read_start, start_path
from classify.own_code import code_files, code_from, code_sums, folder_in_force
from classify.training.devices import Devices, Rank, run_on_devices
from classify.training.optimizer import parameter_groups
from crops.config import CropsSection, Window
from crops.store import open_store, store_folder
from hpa.config import DataSection, parse_section
from hpa.errors import UserError
from hpa.splitting.folds import read_folds
from hpa.work.device import Computation, computing_threads, default_threads, resolve_device, warn_if_busy
from hpa.work.files import sha256
from hpa.work.folder import WorkFolder, open_work
from hpa.work.processes import available_processors
from hpa.work.stage import StageRun, begin

if TYPE_CHECKING:
    from classify.training.loop import LogName

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
        store, _ = read_labelled_crops(work, window, data)
        select_channels(store, section.channels, data.channels)
        check_network(section, data, store.shape[1], weights[folds[0]])

    def begin_fold(fold: int) -> StageRun:
        folder, file = checkpoint_path(work, window, fold).parent, weights[fold]
        own = inputs if file is None else inputs | {"the pretrained weights": file}
        return begin(
            folder, command, data, section, own, overwrite=overwrite, beside=True, check=check, computation=here
        )

    return [(fold, begin_fold(fold)) for fold in folds]


def start_file(work: WorkFolder, window: Window, section: ClassifySection, fold: int) -> Path | None:
    """Return the file of the weights that the model of a fold starts from, None for random weights or ImageNet's.

    Raises
    ------
    UserError
        If the recipe names a work folder without a model for the fold, or with other folds.
    """
    path = start_path(section)
    if path is None or path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"expected a file of weights or a trained work folder as classify.pretrained, found no {path}")
    other = open_work(path)
    ours, theirs = (
        read_folds(folder.folds)[["image_id", "fold"]].sort_values("image_id", ignore_index=True)
        if folder.folds.exists()
        else None
        for folder in (work, other)
    )
    if ours is None or theirs is None or not ours.equals(theirs):
        raise UserError(
            f"expected classify.pretrained = {path} to have the images and folds of {work.root}, found others: its"
            " models would have seen images that this run scores"
        )
    return checkpoint_path(other, window, fold)


def computation_of(section: ClassifySection, device: torch.device, threads: int | None) -> Computation:
    """Return how a new run would compute, of which a resumed one keeps what it began with."""
    return Computation.here(str(device), threads, bfloat16=uses_bfloat16(section.precision, device, section.backbone))


@contextmanager
def computing(computation: Computation | None, section: ClassifySection) -> Iterator[ClassifySection]:
    """Compute as a stage does from its first start, and yield the section with the precision that this means."""
    assert computation is not None, "the stage was begun with one"
    if computation.device == "cpu":
        warn_if_busy(os.cpu_count() or 1, computation.threads)
    with computing_threads(computation.threads):
        full = "16" if section.precision == "16" else "32"
        yield section.model_copy(update={"precision": "bf16" if computation.bfloat16 else full})


def loading_workers(requested: int | None, device: torch.device) -> int:
    """Return the number of processes that read and augment crops."""
    if requested is not None:
        return requested
    return (
        min(8, available_processors()) if device.type == "cuda" else 0
    )  # on a CPU they would compete with the network


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

    data, path = work.data, stage.folder / CHECKPOINT
    seed = section.training_seed(data)
    stage = replace(stage, started=time.monotonic())
    if not (stage.finished and path.is_file()):
        with computing(stage.computation, section) as resolved:
            crops, start, statistics = prepare_fold(work, window, resolved, fold, device)
            # Augmentation finds the protein by the names of the channels.
            resolved = resolved.model_copy(update={"channels": section.channels or tuple(data.channels)})
            size_px = open_store(work, window).shape[1]
            describe = partial(
                _checkpoint, section=section, data=data, size_px=size_px, statistics=statistics, fold=fold
            )
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
                run_on_devices(devices, train_part, json.dumps(task), torch.get_num_threads())
            trained = fit(
                *(crops, resolved, seed, fold, stage.folder, device, workers, start, statistics),
                keep=keep if section.keep_epochs else None,
                logs=logs if devices is None else (),
            )
        describe(trained.state_dict, trained.epoch).save(path)
        stage.finish({"trained_crops": len(crops.training), "validated_crops": len(crops.validation)}, [path])
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
    from classify.training.loop import FoldTraining

    work, told = WorkFolder(root), json.loads(task)
    section = parse_section(ClassifySection, "classify", told["section"])
    with code_from(code):
        crops, start, statistics = prepare_fold(work, told["window"], section, told["fold"], rank.device)
        training = FoldTraining(
            *(crops, section, section.training_seed(work.data), told["fold"], Path(told["folder"]), rank.device),
            workers=workers,
            start=start,
            keep=keep,
            rank=rank,
            logs=logs,
        )
        fit_part(training, statistics)


def prepare_fold(
    work: WorkFolder, window: Window, section: ClassifySection, fold: int, device: torch.device
) -> tuple[FoldCrops, Start | None, Statistics]:
    """Return the crops of a fold, or their features if only heads are trained, and what its training starts from."""
    from classify.training.fit import start_statistics

    data = work.data
    store, labels = read_labelled_crops(work, window, data)
    crops = labels.fold_crops(select_channels(store, section.channels, data.channels), fold)
    if section.labels == "cells":
        crops = train_on_cells(crops, read_cell_targets(cell_targets_path(work)), data.classes)
    start = read_start(section, data.channels, data.classes.classes, start_file(work, window, section, fold))
    statistics = start_statistics(crops, section, start)
    if section.trainable == "heads":
        network = new_network(
            *(section, section.training_seed(data), statistics.mean, statistics.std),
            *(np.full(len(data.classes), 0.5), start),
        )
        own = start is None or start.statistics is None or (start_path(section) or work.root).is_dir()
        folder = features_folder(work, window, fold if own else None)
        features = features_of_window(network, section, statistics, folder, crops.source, labels, device, work, window)
        crops = replace(crops, source=FeatureSource(features))
    return crops, start, statistics


def _checkpoint(
    weights: dict[str, Tensor],
    epoch: int,
    *,
    section: ClassifySection,
    data: DataSection,
    size_px: int,
    statistics: Statistics,
    fold: int,
) -> Checkpoint:
    return Checkpoint(
        state_dict=inference_weights(weights),
        config=section.model_dump(mode="json"),
        vocabulary=data.classes.name,
        classes=list(data.classes.classes),
        channels=list(data.channels),
        size_px=size_px,
        mean=statistics.mean,
        std=statistics.std,
        fold=fold,
        epoch=epoch,
        seed=section.training_seed(data),
        versions={package: version(package) for package in _RECORDED},
        sources=statistics.sources,
        code=code_sums(section),
    )


def _keep_epoch(
    weights: dict[str, Tensor], epoch: int, *, folder: Path, describe: Callable[[dict[str, Tensor], int], Checkpoint]
) -> None:
    describe(weights, epoch).save(folder / f"epoch-{epoch:03d}.pt")


def features_of_window(
    network: Network,
    section: ClassifySection,
    statistics: Statistics,
    folder: Path,
    source: CropSource,
    labels: CropLabels,
    device: torch.device,
    work: WorkFolder,
    window: Window,
) -> NDArray[np.float32]:
    """Return the features of all crops of a window, computed once for all folds with the same backbone."""
    inputs = {
        "crops": sha256(store_folder(work, window) / "crops.parquet"),
        "computation": f"{device.type}, {torch.get_num_threads()} threads",
    }
    run = FeatureRun(network.eval().to(device), section, statistics, folder, inputs)
    return kept_features(run, source, labels, device)


def model_to_check(section: ClassifySection, crops: CropsSection) -> Path | None:
    """Return one of the models that a recipe starts from, None unless it names a work folder.

    Raises
    ------
    UserError
        If it names a work folder without models.
    """
    path = start_path(section)
    if path is None or not path.is_dir():
        return None
    paths = trained_checkpoints(open_work(path), crops.train_windows[0])
    return next(iter(paths.values()))


def check_network(section: ClassifySection, data: DataSection, size_px: int, model: Path | None = None) -> None:
    """Check that the network of a recipe can be made, with the weights it starts from, accepts the crops, and its loss.

    Parameters
    ----------
    section, data
        Recipe sections.
    size_px
        Height and width of a crop.
    model
        A model to start from, if the recipe names a work folder.

    Raises
    ------
    UserError
        If there is no such backbone, its weights are missing, damaged or not downloadable, the crops are too small for
        it, it lacks stages that the recipe names, or the loss cannot be computed
        (`classify.losses.classification.check_loss`).
    """
    check_loss(section, len(data.classes))
    side = size_px if section.random_crop == "none" else section.random_crop_px
    check_augment(section, side, section.channels or data.channels)
    flat = np.ones(len(section.channels or data.channels))
    start = read_start(section, data.channels, data.classes.classes, model)
    network = new_network(section, section.training_seed(data), flat, flat, np.full(len(data.classes), 0.5), start)
    sides = {size_px, side}
    if section.test_views != "one" and "five_crops" in section.view_kinds:
        sides.add(five_crop_px(section, size_px))
    for seen_px in sides:
        check_input(network, len(flat), seen_px, [phase.input_px for phase in section.training_phases])
    for phase in section.training_phases:
        network.parameters_of(phase.trainable)
    parameter_groups(network, section)

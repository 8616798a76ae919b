"""What training and prediction need before they start: crops, weights, features, and how the machine computes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from classify.cell_targets import cell_targets_path, read_cell_targets, train_on_cells
from classify.config import ClassifySection
from classify.data.augmentation import check_augment
from classify.data.crops import CropLabels, CropSource, FeatureSource, FoldCrops, select_channels
from classify.data.normalisation import MEASURED, Statistics
from classify.inference.evaluate import uses_bfloat16
from classify.inference.features import FeatureRun, kept_features
from classify.inference.views import five_crop_px
from classify.losses.classification import check_loss
from classify.models import checkpoint_path, features_folder, read_labelled_crops, trained_checkpoints
from classify.network.model import Network, check_crop_size, check_input, new_network
from classify.network.pretrained import Start
from classify.network.start import read_start, start_path
from classify.own_code import code_sums
from classify.training.optimizer import parameter_groups
from crops.config import CropsSection, Window
from crops.store import store_folder
from hpa.config import DataSection
from hpa.errors import UserError
from hpa.splitting.folds import read_folds
from hpa.work.device import Computation, computing_threads, warn_if_busy
from hpa.work.files import sha256
from hpa.work.folder import WorkFolder, open_work
from hpa.work.processes import available_processors


@dataclass(frozen=True)
class PreparedFold:
    """What the training of a fold's network starts from.

    Parameters
    ----------
    crops
        Training and validation crops, or their features if only heads are trained.
    section
        Recipe section, with the names of all channels that the network sees.
    seed
        Seed of the training.
    start
        The weights that the network starts from; None for random ones.
    statistics
        Statistics that crops are normalised by.
    size_px
        Height and width of the crops.
    """

    crops: FoldCrops
    section: ClassifySection
    seed: int
    start: Start | None
    statistics: Statistics
    size_px: int


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


def prepare_fold(
    work: WorkFolder, window: Window, section: ClassifySection, fold: int, device: torch.device
) -> PreparedFold:
    """Gather what the training of a fold's network starts from; where only heads are trained, compute the features.

    Parameters
    ----------
    work, window
        The work folder, and the window that is trained on.
    section
        Recipe section, with the precision that is used.
    fold
        Number of the fold.
    device
        Device that features are computed on.

    Raises
    ------
    UserError
        If there are no crops, or the weights to start from are missing, damaged or not for this network.
    """
    from classify.training.fit import start_statistics

    data = work.data
    store, labels = read_labelled_crops(work, window, data)
    crops = labels.fold_crops(select_channels(store, section.channels, data.channels), fold)
    if section.labels == "cells":
        crops = train_on_cells(crops, read_cell_targets(cell_targets_path(work)), fold, data.classes)
    start = read_start(section, data.channels, data.classes.classes, start_file(work, window, section, fold))
    statistics = start_statistics(crops, section, start)
    seed = section.training_seed(data)
    if section.trainable == "heads":
        even = np.full(len(data.classes), 0.5)
        network = new_network(section, seed, statistics.mean, statistics.std, even, start)
        measured = section.normalise in MEASURED and (start is None or statistics is not start.statistics)
        own = measured or (start_path(section) or work.root).is_dir()
        folder = features_folder(work, window, fold if own else None)
        features = features_of_window(network, section, statistics, folder, crops.source, labels, device, work, window)
        crops = replace(crops, source=FeatureSource(features))
    # Augmentation finds the protein by the names of the channels.
    named = section.model_copy(update={"channels": section.channels or tuple(data.channels)})
    return PreparedFold(crops, named, seed, start, statistics, store.shape[1])


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
        "code": code_sums(section),
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
    check_crop_size(side, size_px)
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

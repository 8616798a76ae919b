"""Runs of the classify stage: train one model per fold on a store of crops, and write the table of probabilities."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from classify.cell_targets import CELL_TARGETS, cell_targets_path, read_cell_targets, train_on_cells
from classify.config import ClassifySection
from classify.data.crops import CropLabels, CropSource, FeatureSource, label_crops, select_channels
from classify.data.normalisation import Statistics
from classify.inference.evaluate import uses_bfloat16
from classify.inference.features import FeatureRun, digest, kept_features
from classify.inference.predict import ScoredCrops, predict_fold
from classify.inference.transfer import transfer_fold
from classify.network.checkpoint import Checkpoint, load_checkpoints
from classify.network.model import Network, check_input, new_network
from classify.network.start import read_start, start_path
from classify.probabilities import KEY, write_probabilities
from classify.trained_pooling import TrainedPooling, write_pooling
from crops.config import CropsSection, Window
from crops.store import CropStore, open_store, store_folder
from hpa.config import DataSection
from hpa.errors import UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.work.device import Computation, computing_threads, resolve_device, warn_if_busy
from hpa.work.files import sha256
from hpa.work.folder import WorkFolder, open_work
from hpa.work.processes import available_processors
from hpa.work.stage import StageRun, begin, is_being_replaced

CHECKPOINT: Final = "checkpoint.pt"
_RECORDED = ("cellwise", "torch", "torchvision", "lightning", "pytorch-metric-learning")


def train(
    work: WorkFolder,
    *,
    device: str = "auto",
    workers: int | None = None,
    overwrite: bool = False,
    folds: Sequence[int] | None = None,
    threads: int | None = None,
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
    available = run_folds(work)
    for fold in folds or ():
        if fold not in available:
            raise UserError(f"expected folds among {', '.join(map(str, available))}, found {fold}")
    here = _computation(section, chosen, threads)
    # All begin before the first is trained: a fault shows early, and a killed run with --overwrite that is resumed
    # without it replaces the later folds too.
    begun = [
        (window, fold, stage)
        for window in work.section("crops", CropsSection).train_windows
        for fold, stage in _begin_folds(work, window, section, available if folds is None else folds, here, overwrite)
    ]
    for window, fold, stage in begun:
        _train_fold(work, window, section, fold, stage, chosen, _workers(workers, chosen))
    return 0


def _begin_folds(
    work: WorkFolder,
    window: Window,
    section: ClassifySection,
    folds: Sequence[int],
    here: Computation,
    overwrite: bool,
) -> list[tuple[int, StageRun]]:
    data = work.data
    inputs = stage_inputs(work, window) | {"folds.parquet": work.folds}
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


def _computation(section: ClassifySection, device: torch.device, threads: int | None) -> Computation:
    return Computation.here(str(device), threads, bfloat16=uses_bfloat16(section.precision, device, section.backbone))


@contextmanager
def _computing(stage: StageRun, section: ClassifySection) -> Iterator[ClassifySection]:
    """Compute as the stage does from its first start, and yield the section with the precision that this means."""
    computation = stage.computation
    assert computation is not None, "the stage was begun with one"
    if computation.device == "cpu":
        warn_if_busy(os.cpu_count() or 1, computation.threads)
    with computing_threads(computation.threads):
        yield section.model_copy(update={"precision": "bf16" if computation.bfloat16 else "32"})


def _workers(requested: int | None, device: torch.device) -> int:
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
) -> None:
    # Imported here, because Lightning takes seconds to import and `predict` does not need it.
    from classify.training.fit import fit, remove_resume_files, start_statistics

    data, path = work.data, stage.folder / CHECKPOINT
    seed = section.training_seed(data)
    stage = replace(stage, started=time.monotonic())
    if not (stage.finished and path.is_file()):
        store, labels = read_labelled_crops(work, window, data)
        crops = labels.fold_crops(select_channels(store, section.channels, data.channels), fold)
        if section.labels == "cells":
            crops = train_on_cells(crops, read_cell_targets(cell_targets_path(work)), data.classes)
        start = read_start(section, data.channels, data.classes.classes, start_file(work, window, section, fold))
        statistics = start_statistics(crops, section, start)
        with _computing(stage, section) as resolved:
            if section.trainable == "heads":
                network = new_network(
                    *(section, seed, statistics.mean, statistics.std, np.full(len(data.classes), 0.5), start)
                )
                own = start is None or start.statistics is None or (start_path(section) or work.root).is_dir()
                folder = features_folder(work, window, fold if own else None)
                features = _features(network, resolved, statistics, folder, crops.source, labels, device, work, window)
                crops = replace(crops, source=FeatureSource(features))
            trained = fit(crops, resolved, seed, fold, stage.folder, device, workers, start, statistics)
        Checkpoint(
            state_dict=trained.state_dict,
            config=section.model_dump(mode="json"),
            vocabulary=data.classes.name,
            classes=list(data.classes.classes),
            channels=list(data.channels),
            size_px=store.shape[1],
            mean=trained.statistics.mean,
            std=trained.statistics.std,
            fold=fold,
            epoch=trained.epoch,
            seed=seed,
            versions={package: version(package) for package in _RECORDED},
            sources=trained.statistics.sources,
        ).save(path)
        stage.finish({"trained_crops": len(crops.training), "validated_crops": len(crops.validation)}, [path])
    remove_resume_files(stage.final)


def _features(
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


def features_folder(work: WorkFolder, window: Window, fold: int | None = None) -> Path:
    """Return the folder of the features of a window's crops: of one backbone, or of the backbone of a fold."""
    folder = work.root / "backbone_features" / window
    return folder if fold is None else folder / f"fold-{fold}"


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
    """Check that the network of a recipe can be made, with the weights it starts from, and accepts the crops.

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
        If there is no such backbone, its weights are missing, damaged or not downloadable, or the crops are too small
        for it.
    """
    flat = np.ones(len(section.channels or data.channels))
    start = read_start(section, data.channels, data.classes.classes, model)
    network = new_network(section, section.training_seed(data), flat, flat, np.full(len(data.classes), 0.5), start)
    for side in {size_px, size_px if section.random_crop == "none" else section.random_crop_px}:
        check_input(network, len(flat), side)


def predict(
    work: WorkFolder,
    *,
    device: str = "auto",
    overwrite: bool = False,
    model: WorkFolder | None = None,
    embeddings: bool = False,
    threads: int | None = None,
) -> int:
    """Score every crop with the models that did not see its image in training, for every window of the recipe.

    Parameters
    ----------
    work
        The work folder whose crops are scored.
    device, threads
        As for `train`.
    overwrite
        Discard existing results and start over.
    model
        A work folder or bundle whose models score all images of `work` as test images; None uses the models of `work`,
        each on the test images and on the images of its own fold.
    embeddings
        Whether to write the features and embeddings of every crop too.

    Returns
    -------
    int
        The exit code 0.

    Raises
    ------
    UserError
        If there are no crops or models, the models do not fit the crops, or the inputs of an earlier run have changed.
    """
    chosen = torch.device(resolve_device(device))
    trained = model or work
    for window in work.section("crops", CropsSection).windows:
        _predict_window(work, trained, window, chosen, threads, overwrite=overwrite, embeddings=embeddings)
    return 0


def _predict_window(
    work: WorkFolder,
    trained: WorkFolder,
    window: Window,
    device: torch.device,
    threads: int | None,
    *,
    overwrite: bool,
    embeddings: bool,
) -> None:
    data = work.data
    # The recipe of the trained run may use models of another window for this one.
    source = trained.section("crops", CropsSection).train_window_for(window)
    paths = trained_checkpoints(trained, source)
    for fold, path in paths.items():
        if is_being_replaced(path.parent):
            raise UserError(
                f"expected fold {fold} to be trained in {path.parent}, found an unfinished run with --overwrite; finish"
                f" it with `python -m classify train {trained.root}`"
            )
    checkpoints = load_checkpoints(paths)
    store, labels = read_labelled_crops(work, window, data)
    inputs = stage_inputs(work, window)
    if trained.root == work.root:
        inputs |= {"folds.parquet": work.folds}
    else:
        labels = labels.as_unseen()
    for fold, checkpoint in checkpoints.items():
        _check_fits(checkpoint, paths[fold], data, store)
    inputs |= {f"fold-{fold}/checkpoint.pt": path for fold, path in paths.items()}
    # The section that the models were trained with, even if the recipe has changed since.
    section = next(iter(checkpoints.values())).section
    folder = stage_folder(work, window)
    command = f"python -m classify predict {work.root}"
    here = _computation(section, device, threads)
    place = folder / "predict"
    stage = begin(place, command, data, section, inputs, overwrite=overwrite, beside=True, computation=here)
    scored = ScoredCrops(store, labels, data.classes)
    with _computing(stage, section) as resolved:
        features = _features_of_models(checkpoints, resolved, scored, device, work, window)
        parts = [
            predict_fold(
                replace(checkpoint, config=checkpoint.config | {"precision": resolved.precision}),
                scored,
                stage.folder / f"fold-{fold}",
                device,
                embeddings=embeddings,
                features=features.get(fold),
            )
            for fold, checkpoint in checkpoints.items()
        ]
    table = pd.concat(parts, ignore_index=True).sort_values(KEY, ignore_index=True)
    outputs = [folder / "probabilities.parquet"]
    pooling = folder / "pooling.json"
    if section.objective != "cell":
        write_pooling(pooling, trained_pooling(checkpoints))
        outputs.append(pooling)
    else:
        pooling.unlink(missing_ok=True)  # it may be left from earlier models that pooled in training
    write_probabilities(outputs[0], table, data.classes)
    neighbours = folder / "neighbours" / "probabilities.parquet"
    if section.nearest_crops and trained.root == work.root:
        with _computing(stage, section) as resolved:
            own = [
                transfer_fold(
                    replace(checkpoint, config=checkpoint.config | {"precision": resolved.precision}),
                    scored,
                    part,
                    stage.folder / f"fold-{fold}",
                    device,
                    features=features.get(fold),
                )
                for (fold, checkpoint), part in zip(checkpoints.items(), parts, strict=True)
            ]
        write_probabilities(neighbours, pd.concat(own).sort_values(KEY, ignore_index=True), data.classes)
        outputs.append(neighbours)
    else:
        neighbours.unlink(missing_ok=True)
    stage.finish({"rows": len(table), "oof_rows": int((table["origin"] == "oof").sum())}, outputs)


def _features_of_models(
    checkpoints: Mapping[int, Checkpoint],
    section: ClassifySection,
    scored: ScoredCrops,
    device: torch.device,
    work: WorkFolder,
    window: Window,
) -> dict[int, NDArray[np.float32]]:
    """Return the features that trained heads are applied to, by fold; none of networks that were trained as a whole."""
    if section.trainable != "heads" or section.test_views != "one":
        return {}
    networks = {fold: checkpoint.network(device) for fold, checkpoint in checkpoints.items()}
    shared = len({digest(network) for network in networks.values()}) == 1
    features: dict[int, NDArray[np.float32]] = {}
    for fold, network in networks.items():
        checkpoint = checkpoints[fold]
        source = select_channels(scored.source, section.channels, checkpoint.channels)
        folder = features_folder(work, window, None if shared else fold)
        features[fold] = (
            next(iter(features.values()))
            if shared and features
            else _features(network, section, checkpoint.statistics, folder, source, scored.labels, device, work, window)
        )
    return features


def trained_pooling(checkpoints: Mapping[int, Checkpoint]) -> TrainedPooling:
    """Return how the models of a run pooled in training, with the parameters they learned; `checkpoints` is by fold."""
    section = next(iter(checkpoints.values())).section
    learned = {fold: checkpoint.state_dict.get("alpha") for fold, checkpoint in checkpoints.items()}
    alpha = {fold: values.tolist() for fold, values in learned.items() if values is not None}
    power = section.completeness_power
    return TrainedPooling(section.pooling, section.top_k, section.sharpness, power, alpha)


def _check_fits(checkpoint: Checkpoint, path: Path, data: DataSection, store: CropStore) -> None:
    section = checkpoint.section
    # A convolutional network trained on random crops accepts other sizes too.
    trained_px = store.shape[1] if section.random_crop != "none" else checkpoint.size_px
    pairs = {
        "vocabulary": (checkpoint.vocabulary, data.classes.name),
        "classes": (checkpoint.classes, list(data.classes.classes)),
        "channels": (checkpoint.channels, list(data.channels)),
        "crop size in px": (trained_px, store.shape[1]),
    }
    for what, (trained, given) in pairs.items():
        if trained != given:
            raise UserError(f"expected the {what} that {path} was trained with ({trained}), found {given}")


def stage_folder(work: WorkFolder, window: Window) -> Path:
    """Return the folder of a window: ``classify/<window>``."""
    return work.root / "classify" / window


def checkpoint_path(work: WorkFolder, window: Window, fold: int) -> Path:
    """Return the path of a fold's model."""
    return stage_folder(work, window) / f"fold-{fold}" / CHECKPOINT


def run_folds(work: WorkFolder) -> list[int]:
    """Return the numbers of the folds that models are trained for.

    Raises
    ------
    UserError
        If there is no fold.
    """
    folds = sorted({int(fold) for fold in read_folds(work.folds)["fold"] if fold >= 0})
    if not folds:
        raise UserError(f"expected train images with known labels in {work.root}, found none to train or to score on")
    return folds


def trained_checkpoints(trained: WorkFolder, window: Window) -> dict[int, Path]:
    """Return the paths of the models of a work folder or a bundle for a window, by fold.

    Raises
    ------
    UserError
        If there is no fold, or a bundle has no model for the window.
    """
    folds = run_folds(trained) if trained.folds.exists() else bundle_folds(trained, window)
    return {fold: checkpoint_path(trained, window, fold) for fold in folds}


def bundle_folds(bundle: WorkFolder, window: Window) -> list[int]:
    """Return the folds of a bundle, which has checkpoints but no images.

    Raises
    ------
    UserError
        If there is no model for the window.
    """
    names = (
        path.parent.name.removeprefix("fold-") for path in stage_folder(bundle, window).glob(f"fold-*/{CHECKPOINT}")
    )
    folds = sorted(int(name) for name in names if name.isdecimal())
    if not folds:
        raise UserError(f"expected a model for the window {window} in {bundle.root}, found none")
    return folds


def stage_inputs(work: WorkFolder, window: Window) -> dict[str, Path]:
    """Return the tables that both `train` and `predict` read, by the name that messages use.

    Raises
    ------
    UserError
        If there are no crops.
    """
    crops = store_folder(work, window) / "crops.parquet"
    if not crops.exists():
        raise UserError(f"expected crops (made by `python -m crops run {work.root}`), found none at {crops.parent}")
    return {"images.parquet": work.images, f"crops/{window}/crops.parquet": crops}


def read_labelled_crops(work: WorkFolder, window: Window, data: DataSection) -> tuple[CropStore, CropLabels]:
    """Open the store of a window and look up the labels of its crops."""
    store = open_store(work, window)
    return store, label_crops(store.table, read_images(work.images), read_folds(work.folds), data.classes)

"""The runs of the classify stage: a crop store in, a trained model a fold and a table of probabilities out."""

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from classify.config import ClassifySection
from classify.data.channels import pick_channels
from classify.inference.evaluate import pick_device
from classify.inference.predict import Scored, predict_fold
from classify.inputs import (
    checkpoint_path,
    packed_folds,
    read_crops,
    read_windows,
    run_folds,
    stage_folder,
    stage_inputs,
)
from classify.network.checkpoint import Checkpoint
from classify.probabilities import KEY, write_probabilities
from classify.trained_pooling import TrainedPooling, write_pooling
from crops.config import Window
from crops.store import CropStore
from hpa.config import DataSection
from hpa.errors import UserError
from hpa.work.folder import WorkFolder
from hpa.work.stage import begin

_RECORDED = ("cellwise", "torch", "torchvision", "lightning", "albumentations", "pytorch-metric-learning")


def train(
    work: WorkFolder,
    *,
    device: str = "auto",
    workers: int | None = None,
    overwrite: bool = False,
    folds: Sequence[int] | None = None,
) -> int:
    """Train a model for every fold, on every kind of window that was cut.

    Parameters
    ----------
    work
        The work folder; the crops stage must be done.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    workers
        Processes that read and vary crops; 0 does it in this one, None takes up to 8 beside a GPU and else 0.
    overwrite
        Begin anew.
    folds
        Train only these.

    Returns
    -------
    int
        0.

    Raises
    ------
    UserError
        If there are no crops, no such fold or device, or what an earlier run was made from changed.
    """
    section = work.section("classify", ClassifySection)
    chosen = pick_device(device)
    known = run_folds(work)
    for fold in folds or ():
        if fold not in known:
            raise UserError(f"expected folds among {', '.join(map(str, known))}, found {fold}")
    for window in read_windows(work).train_windows:
        for fold in known if folds is None else folds:
            _train_fold(work, window, section, fold, chosen, _workers(workers, chosen), overwrite=overwrite)
    return 0


def _workers(asked: int | None, device: torch.device) -> int:
    if asked is not None:
        return asked
    return min(8, os.cpu_count() or 1) if device.type == "cuda" else 0  # on a CPU they would take from the network


def _train_fold(
    work: WorkFolder,
    window: Window,
    section: ClassifySection,
    fold: int,
    device: torch.device,
    workers: int,
    *,
    overwrite: bool,
) -> None:
    from classify.training.fit import clear, fit  # Lightning takes seconds to import and `predict` does without it

    data = work.data
    folder = stage_folder(work, window) / f"fold-{fold}"
    inputs = stage_inputs(work, window) | {"folds.parquet": work.folds}
    stage = begin(folder, f"python -m classify train {work.root}", data, section, inputs, overwrite=overwrite)
    path = checkpoint_path(work, window, fold)
    if not (stage.finished and path.is_file()):
        store, labels = read_crops(work, window, data)
        crops = labels.fold_crops(pick_channels(store, section.channels, data.channels), fold)
        fitted = fit(crops, section, data.seed, fold, folder, device, workers)
        Checkpoint(
            state_dict=fitted.state_dict,
            config=section.model_dump(mode="json"),
            vocabulary=data.classes.name,
            classes=list(data.classes.classes),
            channels=list(data.channels),
            size_px=store.shape[1],
            mean=fitted.statistics.mean,
            std=fitted.statistics.std,
            fold=fold,
            epoch=fitted.epoch,
            seed=data.seed,
            versions={package: version(package) for package in _RECORDED},
            sources=fitted.statistics.sources,
        ).save(path)
        stage.finish({"trained_crops": len(crops.training), "validated_crops": len(crops.validation)})
    clear(folder)


def predict(
    work: WorkFolder,
    *,
    device: str = "auto",
    overwrite: bool = False,
    model: WorkFolder | None = None,
    embeddings: bool = False,
) -> int:
    """Score every crop with the models that may speak about it, on every kind of window that was cut.

    Parameters
    ----------
    work
        The work folder whose crops are scored.
    device
        As for `train`.
    overwrite
        Begin anew.
    model
        The work folder whose models are used, on every image of `work` as on one never seen; None takes `work`'s
        own models, each on the images that it never saw.
    embeddings
        Also write the features and embeddings of every crop.

    Returns
    -------
    int
        0.

    Raises
    ------
    UserError
        If there are no crops or models, models do not fit the crops, or what an earlier run was made from changed.
    """
    chosen = pick_device(device)
    trained = model or work
    for window in read_windows(work).windows:
        _predict_window(work, trained, window, chosen, overwrite=overwrite, embeddings=embeddings)
    return 0


def _predict_window(
    work: WorkFolder, trained: WorkFolder, window: Window, device: torch.device, *, overwrite: bool, embeddings: bool
) -> None:
    data = work.data
    # The models that the trained run's recipe has for this window: its own, or those of another kind of window.
    source = read_windows(trained).train_window_for(window)
    folds = run_folds(trained) if trained.folds.exists() else packed_folds(trained, source)
    paths = {fold: checkpoint_path(trained, source, fold) for fold in folds}
    checkpoints = {fold: Checkpoint.load(path) for fold, path in paths.items()}
    store, labels = read_crops(work, window, data)
    inputs = stage_inputs(work, window)
    if trained.root == work.root:
        inputs |= {"folds.parquet": work.folds}
    else:
        labels = labels.as_new()
    for fold, checkpoint in checkpoints.items():
        _check_fits(checkpoint, paths[fold], data, store)
    inputs |= {f"fold-{fold}/checkpoint.pt": path for fold, path in paths.items()}
    # What was trained decides, whatever the recipe says by now.
    section = next(iter(checkpoints.values())).section
    folder = stage_folder(work, window)
    command = f"python -m classify predict {work.root}"
    stage = begin(folder / "predict", command, data, section, inputs, overwrite=overwrite)
    scored = Scored(store, labels, data.classes)
    parts = [
        predict_fold(checkpoint, scored, folder / "predict" / f"fold-{fold}", device, embeddings=embeddings)
        for fold, checkpoint in checkpoints.items()
    ]
    table = pd.concat(parts, ignore_index=True).sort_values(KEY, ignore_index=True)
    (folder / "pooling.json").unlink(missing_ok=True)  # models trained since may not have been trained to be pooled
    if section.objective != "cell":
        write_pooling(folder / "pooling.json", trained_pooling(checkpoints))
    write_probabilities(folder / "probabilities.parquet", table, data.classes)
    stage.finish({"rows": len(table), "oof_rows": int((table["origin"] == "oof").sum())})


def trained_pooling(checkpoints: Mapping[int, Checkpoint]) -> TrainedPooling:
    """Return how the models of a run, by fold, were trained to be pooled, and what they learned of it."""
    section = next(iter(checkpoints.values())).section
    learned = {fold: checkpoint.state_dict.get("alpha") for fold, checkpoint in checkpoints.items()}
    alpha = {fold: values.tolist() for fold, values in learned.items() if values is not None}
    power = section.completeness_power
    return TrainedPooling(section.pooling, section.top_k, section.sharpness, power, alpha)


def _check_fits(checkpoint: Checkpoint, path: Path, data: DataSection, store: CropStore) -> None:
    section = checkpoint.section
    # A convolutional network looks at any size: at a part in training, if the recipe wants, and at all in the end.
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

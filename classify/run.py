"""The runs of the classify stage: a crop store in, a trained model a fold and a table of probabilities out."""

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from classify.channels import pick_channels
from classify.checkpoint import Checkpoint
from classify.config import ClassifySection
from classify.evaluate import pick_device
from classify.labels import CropLabels, label_crops
from classify.predict import Scored, predict_fold
from classify.probabilities import KEY, TrainedPooling, write_pooling, write_probabilities
from crops.config import CropsSection, Window
from crops.store import CropStore, open_store, store_folder
from hpa.config import DataSection, read_section
from hpa.errors import UserError
from hpa.folds import read_folds
from hpa.images import read_images
from hpa.work import WorkFolder, begin

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
    section = read_section(work.recipe, "classify", ClassifySection)
    chosen = pick_device(device)
    known = _folds(work)
    for fold in folds or ():
        if fold not in known:
            raise UserError(f"expected folds among {', '.join(map(str, known))}, found {fold}")
    for window in _windows(work).trained:
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
    from classify.fit import clear, fit  # Lightning takes seconds to import and `predict` does without it

    data = work.data
    folder = _stage_folder(work, window) / f"fold-{fold}"
    inputs = _inputs(work, window) | {"folds.parquet": work.folds}
    stage = begin(folder, f"python -m classify train {work.root}", data, section, inputs, overwrite=overwrite)
    path = _checkpoint_path(work, window, fold)
    if not (stage.finished and path.is_file()):
        store, labels = _read(work, window, data)
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
    for window in _windows(work).windows:
        _predict_window(work, trained, window, chosen, overwrite=overwrite, embeddings=embeddings)
    return 0


def _predict_window(
    work: WorkFolder, trained: WorkFolder, window: Window, device: torch.device, *, overwrite: bool, embeddings: bool
) -> None:
    data = work.data
    # The models that the trained run's recipe has for this window: its own, or those of another kind of window.
    source = _windows(trained).trained_for(window)
    folds = _folds(trained) if trained.folds.exists() else _packed_folds(trained, source)
    paths = {fold: _checkpoint_path(trained, source, fold) for fold in folds}
    checkpoints = {fold: Checkpoint.load(path) for fold, path in paths.items()}
    store, labels = _read(work, window, data)
    inputs = _inputs(work, window)
    if trained.root == work.root:
        inputs |= {"folds.parquet": work.folds}
    else:
        labels = labels.as_new()
    for fold, checkpoint in checkpoints.items():
        _check_fits(checkpoint, paths[fold], data, store)
    inputs |= {f"fold-{fold}/checkpoint.pt": path for fold, path in paths.items()}
    # What was trained decides, whatever the recipe says by now.
    section = next(iter(checkpoints.values())).section
    folder = _stage_folder(work, window)
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


def _stage_folder(work: WorkFolder, window: Window) -> Path:
    return work.root / "classify" / window


def _checkpoint_path(work: WorkFolder, window: Window, fold: int) -> Path:
    return _stage_folder(work, window) / f"fold-{fold}" / "checkpoint.pt"


def _windows(work: WorkFolder) -> CropsSection:
    return read_section(work.recipe, "crops", CropsSection)


def _folds(work: WorkFolder) -> list[int]:
    folds = sorted({int(fold) for fold in read_folds(work.folds)["fold"] if fold >= 0})
    if not folds:
        raise UserError(f"expected train images with known labels in {work.root}, found none to train or to score on")
    return folds


def _packed_folds(bundle: WorkFolder, window: Window) -> list[int]:
    """Return the folds of a bundle, which has checkpoints but no images."""
    folds = sorted(int(path.parent.name[5:]) for path in _stage_folder(bundle, window).glob("fold-*/checkpoint.pt"))
    if not folds:
        raise UserError(f"expected a model for the window {window} in {bundle.root}, found none")
    return folds


def _inputs(work: WorkFolder, window: Window) -> dict[str, Path]:
    crops = store_folder(work, window) / "crops.parquet"
    if not crops.exists():
        raise UserError(f"expected crops (made by `python -m crops run {work.root}`), found none at {crops.parent}")
    return {"images.parquet": work.images, f"crops/{window}/crops.parquet": crops}


def _read(work: WorkFolder, window: Window, data: DataSection) -> tuple[CropStore, CropLabels]:
    store = open_store(work, window)
    images = read_images(work.images)
    return store, label_crops(store.table, images, read_folds(work.folds), data.classes)

"""The runs of the classify stage: a crop store in, a trained model a fold and a table of probabilities out."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from classify.checkpoint import Checkpoint
from classify.config import ClassifySection
from classify.evaluate import pick_device
from classify.labels import CropLabels, label_crops
from classify.predict import predict_fold
from classify.probabilities import KEY, write_probabilities
from crops.config import CropsSection, Window
from crops.store import CropStore, open_store, store_folder
from hpa.config import DataSection, read_section
from hpa.errors import UserError
from hpa.files import write_parquet
from hpa.folds import read_folds
from hpa.images import read_images
from hpa.work import WorkFolder, begin

_RECORDED = ("cellwise", "torch", "torchvision", "lightning", "albumentations", "pytorch-metric-learning")


def train(
    work: WorkFolder, *, device: str = "auto", overwrite: bool = False, folds: Sequence[int] | None = None
) -> int:
    """Train a model for every fold, on every kind of window that was cut.

    Parameters
    ----------
    work
        The work folder; the crops stage must be done.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
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
            _train_fold(work, window, section, fold, chosen, overwrite=overwrite)
    return 0


def _train_fold(
    work: WorkFolder, window: Window, section: ClassifySection, fold: int, device: torch.device, *, overwrite: bool
) -> None:
    from classify.fit import clear, fit  # Lightning takes seconds to import and `predict` does without it

    data = work.data
    folder = _stage_folder(work, window) / f"fold-{fold}"
    inputs = _inputs(work, window) | {"folds.parquet": work.folds}
    stage = begin(folder, f"python -m classify train {work.root}", data, section, inputs, overwrite=overwrite)
    path = _checkpoint_path(work, window, fold)
    if not (stage.finished and path.is_file()):
        store, labels = _read(work, window, data)
        crops = labels.fold_crops(store, fold)
        fitted = fit(crops, section, data.seed, fold, folder, device)
        Checkpoint(
            state_dict=fitted.state_dict,
            config=section.model_dump(mode="json"),
            vocabulary=data.classes.name,
            classes=list(data.classes.classes),
            channels=list(data.channels),
            size_px=store.shape[1],
            mean=fitted.mean,
            std=fitted.std,
            fold=fold,
            epoch=fitted.epoch,
            seed=data.seed,
            versions={package: version(package) for package in _RECORDED},
        ).save(path)
        stage.finish({"trained_crops": len(crops.training), "validated_crops": len(crops.validation)})
    clear(folder)


def predict(work: WorkFolder, *, device: str = "auto", overwrite: bool = False, model: WorkFolder | None = None) -> int:
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
        _predict_window(work, trained, window, chosen, overwrite=overwrite)
    return 0


def _predict_window(
    work: WorkFolder, trained: WorkFolder, window: Window, device: torch.device, *, overwrite: bool
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
    parts = []
    for fold, checkpoint in checkpoints.items():
        part = folder / "predict" / f"fold-{fold}.parquet"
        if not part.is_file():
            write_parquet(part, predict_fold(checkpoint, store, store.table, labels, data.classes, device))
        parts.append(pd.read_parquet(part))
    table = pd.concat(parts, ignore_index=True).sort_values(KEY, ignore_index=True)
    write_probabilities(folder / "probabilities.parquet", table, data.classes)
    stage.finish({"rows": len(table), "oof_rows": int((table["origin"] == "oof").sum())})


def _check_fits(checkpoint: Checkpoint, path: Path, data: DataSection, store: CropStore) -> None:
    pairs = {
        "vocabulary": (checkpoint.vocabulary, data.classes.name),
        "classes": (checkpoint.classes, list(data.classes.classes)),
        "channels": (checkpoint.channels, list(data.channels)),
        "crop size in px": (checkpoint.size_px, store.shape[1]),
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
        raise UserError(f"expected at least one fold in {work.folds}, found none")
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

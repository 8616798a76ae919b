"""Where the models of a work folder are, by window and fold, and the crops that they are trained on and score."""

from pathlib import Path
from typing import Final

from classify.data.crops import CropLabels, label_crops
from crops.config import Window
from crops.store import CropStore, open_store, store_folder
from hpa.config import DataSection
from hpa.errors import UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.work.folder import WorkFolder

CHECKPOINT: Final = "checkpoint.pt"


def stage_folder(work: WorkFolder, window: Window) -> Path:
    """Return the folder of a window: ``classify/<window>``."""
    return work.root / "classify" / window


def checkpoint_path(work: WorkFolder, window: Window, fold: int) -> Path:
    """Return the path of a fold's model."""
    return stage_folder(work, window) / f"fold-{fold}" / CHECKPOINT


def references_path(work: WorkFolder, window: Window, fold: int) -> Path:
    """Return the path of the crops that labels are transferred from, to crops of a window, for the model of a fold."""
    return stage_folder(work, window) / "predict" / f"references-{fold}.npz"


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


def features_folder(work: WorkFolder, window: Window, fold: int | None = None) -> Path:
    """Return the folder of the features of a window's crops: of one backbone, or of the backbone of a fold."""
    folder = work.root / "backbone_features" / window
    return folder if fold is None else folder / f"fold-{fold}"

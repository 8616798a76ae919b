"""What the runs of the classify stage read, and where its files lie."""

from pathlib import Path

from classify.data.labels import CropLabels, label_crops
from crops.config import CropsSection, Window
from crops.store import CropStore, open_store, store_folder
from hpa.config import DataSection
from hpa.errors import UserError
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.work.folder import WorkFolder


def stage_folder(work: WorkFolder, window: Window) -> Path:
    """Return the folder of a kind of window: ``classify/<window>``."""
    return work.root / "classify" / window


def checkpoint_path(work: WorkFolder, window: Window, fold: int) -> Path:
    """Return where the model of a fold lies."""
    return stage_folder(work, window) / f"fold-{fold}" / "checkpoint.pt"


def read_windows(work: WorkFolder) -> CropsSection:
    """Return the recipe section that says on which kinds of windows to train and to predict."""
    return work.section("crops", CropsSection)


def run_folds(work: WorkFolder) -> list[int]:
    """Return the numbers of the folds that models are trained for.

    Raises
    ------
    UserError
        If there is none.
    """
    folds = sorted({int(fold) for fold in read_folds(work.folds)["fold"] if fold >= 0})
    if not folds:
        raise UserError(f"expected train images with known labels in {work.root}, found none to train or to score on")
    return folds


def packed_folds(bundle: WorkFolder, window: Window) -> list[int]:
    """Return the folds of a bundle, which has checkpoints but no images.

    Raises
    ------
    UserError
        If there is no model for that kind of window.
    """
    folds = sorted(int(path.parent.name[5:]) for path in stage_folder(bundle, window).glob("fold-*/checkpoint.pt"))
    if not folds:
        raise UserError(f"expected a model for the window {window} in {bundle.root}, found none")
    return folds


def stage_inputs(work: WorkFolder, window: Window) -> dict[str, Path]:
    """Return the tables that both train and predict read, by the name told to the user.

    Raises
    ------
    UserError
        If there are no crops.
    """
    crops = store_folder(work, window) / "crops.parquet"
    if not crops.exists():
        raise UserError(f"expected crops (made by `python -m crops run {work.root}`), found none at {crops.parent}")
    return {"images.parquet": work.images, f"crops/{window}/crops.parquet": crops}


def read_crops(work: WorkFolder, window: Window, data: DataSection) -> tuple[CropStore, CropLabels]:
    """Open the store of a kind of window, and tell what is known of its crops."""
    store = open_store(work, window)
    images = read_images(work.images)
    return store, label_crops(store.table, images, read_folds(work.folds), data.classes)

"""Making a work folder: the image table, the folds, the resolved recipe."""

from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from hpa.channels import Channel
from hpa.config import DataSection, Section
from hpa.errors import UserError
from hpa.folds import antibody_groups, assign_folds, write_folds
from hpa.images import write_images
from hpa.layouts import index
from hpa.work import WorkFolder, locked
from pipeline.recipe import write_recipe


def init(root: Path, data: Path, recipe: dict[str, Section], *, limit: int = 0) -> WorkFolder:
    """Make a work folder from a data folder.

    Parameters
    ----------
    root
        The folder to make; the recipe is written last, so that a killed init leaves no work folder.
    data
        The data folder.
    recipe
        All sections (`pipeline.recipe.load_recipe`).
    limit
        Take about so many train images, stratified, and so many test images; 0 takes all.

    Raises
    ------
    UserError
        If there is a work folder already, or the data folder or its tables are unusable.
    """
    work = WorkFolder(root)
    if work.recipe.exists():
        raise UserError(f"expected a new work folder, found one initialised at {root}")
    section = cast(DataSection, recipe["data"])
    images = _index(data, section)
    if missing := _without_files(images, section):
        kept = ", ".join(f'"{channel}"' for channel in section.channels if channel not in missing)
        raise UserError(
            f"expected files of the channels {', '.join(section.channels)} in {data}, found no image with "
            f"{' or '.join(missing)}; for data without, add --set 'data.channels=[{kept}]'"
        )
    if limit:
        images = _limited(images, limit, section)
    with locked(root):
        _commit(work, images, recipe, section)
    return work


def init_apply(root: Path, data: Path, recipe: dict[str, Section]) -> WorkFolder:
    """Make a work folder of test images only, for a trained recipe; one made of the same is kept and resumed.

    Raises
    ------
    UserError
        If the data lack a channel of the trained run, or the folder was made of other images.
    """
    work = WorkFolder(root)
    section = cast(DataSection, recipe["data"]).model_copy(update={"layout": "auto"})
    images = _index(data, section).assign(split="test")
    if missing := _without_files(images, section):
        raise UserError(
            f"expected the channels of the trained run ({', '.join(section.channels)}), "
            f"found no image with {' or '.join(missing)} in {data}"
        )
    with locked(root):
        if work.recipe.exists():
            earlier = pd.read_parquet(work.images)
            if list(earlier["image_id"]) != list(images["image_id"]):
                raise UserError(f"expected a new folder or one made of {data}, found {root} made of other images")
            return work
        _commit(work, images, recipe | {"data": section}, section)
    return work


def _index(data: Path, section: DataSection) -> pd.DataFrame:
    found = index(data, section.layout, section.classes, section.channels)
    for notice in found.notices:
        print(f"init: {notice}")
    return found.images


def _without_files(images: pd.DataFrame, section: DataSection) -> list[Channel]:
    """Return the channels that no image has a file of."""
    return [channel for channel in section.channels if not images[f"bytes_{channel}"].any()]


def _commit(work: WorkFolder, images: pd.DataFrame, recipe: dict[str, Section], section: DataSection) -> None:
    write_folds(work.folds, _folds(images[images["split"] == "train"], section))
    write_images(work.images, images.reset_index(drop=True), section.classes, section.channels)
    write_recipe(work.recipe, recipe)
    splits = images["split"].value_counts()
    print(f"init: {splits.get('train', 0)} train and {splits.get('test', 0)} test images in {work.root}")


def _folds(train: pd.DataFrame, section: DataSection) -> pd.DataFrame:
    """Group and fold of every train image; no rows where there are none, as when a model is applied."""
    groups = antibody_groups(list(train["antibody"]))
    folds = np.empty(0, dtype=np.int16)
    if len(train):
        folds = assign_folds(section.classes.multi_hot(train["target"]), groups, section.folds, section.seed)
    return pd.DataFrame({"image_id": pd.Series(list(train["image_id"]), dtype=str), "group": groups, "fold": folds})


def _limited(images: pd.DataFrame, limit: int, section: DataSection) -> pd.DataFrame:
    """Take one of as many folds as make about `limit` train images, and test images at even distances."""
    train, test = images[images["split"] == "train"], images[images["split"] == "test"]
    if len(train) > limit:
        groups = antibody_groups(list(train["antibody"]))
        k = -(-len(train) // limit)
        folds = assign_folds(section.classes.multi_hot(train["target"]), groups, k, section.seed)
        train = train[folds == 0]
    if len(test) > limit:
        test = test.iloc[np.linspace(0, len(test) - 1, limit).astype(int)]
    return pd.concat([train, test])

"""Make a work folder: the image table, the folds and the resolved recipe."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.config import DataSection
from hpa.errors import UserError
from hpa.images import read_images, write_images
from hpa.layouts.depth import recognise_bit_depth
from hpa.layouts.index import LAYOUTS
from hpa.layouts.listing import is_text
from hpa.layouts.pixel_size import recognise_pixel_size
from hpa.layouts.sources import SEPARATOR, check_channels, find_layouts, index_sources, parse_sources
from hpa.splitting.folds import split_images, stratified_subset, write_folds
from hpa.splitting.groups import join_groups, largest_group
from hpa.splitting.near_duplicates import SimilarImages, find_similar
from hpa.work.files import write_csv
from hpa.work.folder import WorkFolder, locked
from pipeline.recipe import Recipe, check_recipe, read_recipe, write_recipe


def init(root: Path, data: Sequence[str | Path], recipe: Recipe, *, limit: int = 0, workers: int = 0) -> WorkFolder:
    """Make a work folder from data folders.

    Parameters
    ----------
    root
        The folder to make; the recipe is written last, so that a killed `init` leaves no work folder.
    data
        The data folders, ``PATH`` or ``NAME=PATH`` (`hpa.layouts.sources`).
    recipe
        The recipe (`pipeline.recipe.read_recipe`).
    limit
        Number of train images, stratified, and of test images to take; 0 takes all.
    workers
        Processes that hash images; 0 uses one per processor.

    Raises
    ------
    UserError
        If there is a work folder already, or a data folder or its tables are unusable.
    """
    work = WorkFolder(root)
    if work.recipe.exists():
        raise UserError(f"expected a new work folder, found one initialised at {root}")
    _check_place(root, data)
    recipe = _with_vocabulary(data, recipe)
    check_recipe(recipe)
    images, conflicts = _index(data, recipe.data)
    check_channels(images, parse_sources(data), recipe.data)
    images, recipe = _with_bit_depth(images, _with_pixel_size(images, recipe))
    section = recipe.data
    if limit:
        images = _limited(images, limit, section)
        conflicts = conflicts[conflicts["image_id"].isin(images["image_id"])]
    with locked(root):
        similar = SimilarImages.none(len(images))
        if section.finds_duplicates:
            similar = find_similar(root / "scan", images, section, workers=workers)
            print(f"init: {similar}")
        if len(conflicts):
            write_csv(root / "conflicts.csv", conflicts)
        groups = join_groups(len(images), [list(images["antibody"]), list(images["well"])], similar.edges)
        kept = np.ones(len(images), dtype=bool)
        if section.dedupe == "keep-one":
            kept = _deduped(root, images, similar, section)
        _commit(work, images[kept], groups[kept], recipe)
    return work


def _check_place(root: Path, data: Sequence[str | Path]) -> None:
    if not is_text(str(root)):
        raise UserError(f"expected a work folder with a name in UTF-8, found {str(root)!r}")
    if any(os.path.realpath(source.path) == os.path.realpath(root) for source in parse_sources(data)):
        raise UserError(f"expected a work folder apart from the data, found the data folder {root}")


def init_apply(
    root: Path, data: Sequence[str | Path], recipe: Recipe, naming: Mapping[str, object] | None = None
) -> WorkFolder:
    """Make a work folder of test images for a trained recipe, or resume one made of the same images.

    Parameters
    ----------
    root, data
        As for `init`.
    recipe
        The trained recipe.
    naming
        How the new files are named, the keys ``pattern`` and ``file_channels`` of `[data]`; None for a known layout.

    Raises
    ------
    UserError
        If the data lack a channel of the trained run, or the folder was made of other images or by another recipe.
    """
    work = WorkFolder(root)
    _check_place(root, data)
    # The new images may come from another camera.
    own: dict[str, object] = {"layout": "auto", "source_layouts": {}, "train_only": (), "bit_depth": 0, "pixel_um": 0}
    own |= {"pattern": "", "file_channels": {}}
    own |= naming or {}
    section = recipe.data.model_copy(update=own)
    images, _ = _index(data, section)
    all_known = pd.Series([()] * len(images), index=images.index, dtype=object)
    images = images.assign(split="test", unknown_classes=all_known)
    for channel in section.channels:
        if not images[f"bytes_{channel}"].any():
            raise UserError(
                f"expected the channels of the trained run ({', '.join(section.channels)}), "
                f"found no image with {channel} in {', '.join(map(str, data))}"
            )
    with locked(root):
        recipe = _with_pixel_size(images, recipe.model_copy(update={"data": section}))
        images, recipe = _with_bit_depth(images, recipe)
        if work.recipe.exists():
            files = ["image_id", *(f"{what}_{channel}" for channel in section.channels for what in ("path", "bytes"))]
            earlier = read_images(work.images)[files]
            if not earlier.astype(str).equals(images[files].astype(str).reset_index(drop=True)):
                raise UserError(f"expected a new folder or one made of {data[0]}, found {root} made of other images")
            if read_recipe(work.recipe) != recipe:
                raise UserError(f"expected a new folder or one made with this model, found {root} made with another")
            return work
        _commit(work, images, np.arange(len(images), dtype=np.int32), recipe)
    return work


def _index(data: Sequence[str | Path], section: DataSection) -> tuple[pd.DataFrame, pd.DataFrame]:
    joined = index_sources(parse_sources(data), section)
    for notice in joined.notices:
        print(f"init: {notice}")
    return joined.images, joined.conflicts


def _with_vocabulary(data: Sequence[str | Path], recipe: Recipe) -> Recipe:
    """Replace ``auto`` by the vocabulary, and where it differs the submission, of the first scored source's layout."""
    section, aggregate = recipe.data, recipe.aggregate
    layouts = find_layouts(parse_sources(data), section)
    scored = [layout for name, layout in layouts.items() if name not in section.train_only] or list(layouts.values())
    layout = LAYOUTS.get(scored[0])  # none for a pattern of names
    vocabulary = layout and layout.vocabulary
    if section.vocabulary == "auto":
        chosen = vocabulary or section.classes
        section = section.model_copy(update={"vocabulary": chosen.name})
        reason = f"of the layout {scored[0]}" if vocabulary else "the default"
        print(f"init: {len(chosen)} classes ({chosen.name}, {reason}; data.vocabulary sets others)")
    # Its form with a row of cells per image cannot be told from the vocabulary's header.
    brings_form = scored[0] == "kaggle2021" and section.classes == vocabulary and "cells" in recipe.crops.windows
    if aggregate.submission == "auto" and brings_form:
        aggregate = aggregate.model_copy(update={"submission": "kaggle2021"})
        print(
            "init: submission.csv in the form kaggle2021, cells instead of images (aggregate.submission sets another)"
        )
    return recipe.model_copy(update={"data": section, "aggregate": aggregate})


def _with_bit_depth(images: pd.DataFrame, recipe: Recipe) -> tuple[pd.DataFrame, Recipe]:
    """Set the bits that 16-bit files use, in the image table and the recipe; recognise them if the recipe says 0."""
    bits: int = recipe.data.bit_depth
    if not bits:
        recognised = recognise_bit_depth(images, recipe.data.channels)
        bits = recognised.bits
        for notice in recognised.notices:
            print(f"init: {notice}")
    section = recipe.data.model_copy(update={"bit_depth": bits})
    return images.assign(bit_depth=np.int16(bits)), recipe.model_copy(update={"data": section})


def _with_pixel_size(images: pd.DataFrame, recipe: Recipe) -> Recipe:
    """Set the size of a pixel in the recipe by the metadata of the images, if the recipe says 0."""
    if recipe.data.pixel_um:
        return recipe
    size = recognise_pixel_size(images, recipe.data.channels)
    for notice in size.notices:
        print(f"init: {notice}")
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"pixel_um": size.um})})


def _commit(
    work: WorkFolder,
    images: pd.DataFrame,
    groups: NDArray[np.int32],
    recipe: Recipe,
) -> None:
    section = recipe.data
    folds = _folds(images, groups, section)
    write_folds(work.folds, folds)
    write_images(work.images, images.reset_index(drop=True), section.classes, section.channels)
    write_recipe(work.recipe, recipe)
    splits = images["split"].value_counts()
    if splits.get("train", 0):
        print(f"init: {_start_of_network(recipe)}")
    print(f"init: {splits.get('train', 0)} train and {splits.get('test', 0)} test images in {work.root}")
    if len(folds):
        sizes = folds["group"].nunique(), largest_group(folds["group"].to_numpy())
        print(
            f"init: {sizes[0]} groups of train images, {sizes[1]} images in the largest, {folds['scored'].sum()} scored"
        )


def _start_of_network(recipe: Recipe) -> str:
    section = recipe.classify
    what = {
        "atlas": f"the weights shipped for {section.backbone}, trained on drawn cells",
        "imagenet": "ImageNet weights",
        "none": "random weights",
    }.get(section.starts_from, f"the weights in {section.starts_from}")
    trained = "its heads alone are trained" if section.trainable == "heads" else "all of it is trained"
    return f"the network starts from {what} (classify.pretrained = {section.pretrained!r}), and {trained}"


def _folds(images: pd.DataFrame, groups: NDArray[np.int32], section: DataSection) -> pd.DataFrame:
    """Split the train images with a known class; without any, as when a model is applied, return no rows."""
    known = _labelled(images, section)
    train = images[known]
    ids = pd.DataFrame({"image_id": pd.Series(list(train["image_id"]), dtype=str)})
    numbers = pd.factorize(groups[known])[0].astype(np.int32)
    train_only = _train_only(train, section)
    targets = section.classes.multi_hot(train["target"])
    return pd.concat([ids, split_images(targets, numbers, train_only, section)], axis=1)


def _labelled(images: pd.DataFrame, section: DataSection) -> NDArray[np.bool_]:
    some = images["unknown_classes"].map(len) < len(section.classes)
    labelled: NDArray[np.bool_] = ((images["split"] == "train") & some).to_numpy()
    return labelled


def _train_only(images: pd.DataFrame, section: DataSection) -> NDArray[np.bool_]:
    """Return which images come from no scored source."""
    unscored = set(section.train_only)
    return np.array([set(source.split(SEPARATOR)) <= unscored for source in images["source"]], dtype=bool)


def _deduped(root: Path, images: pd.DataFrame, similar: SimilarImages, section: DataSection) -> NDArray[np.bool_]:
    """Keep one train image of each set that looks alike, of a scored source if there is one, and list the others."""
    train = (images["split"] == "train").to_numpy()
    order = np.lexsort((np.arange(len(images)), _train_only(images, section), ~_labelled(images, section)))
    order = order[train[order]]
    alike = pd.Series(join_groups(len(images), [], similar.edges))
    first = pd.Series(order, index=alike.iloc[order]).groupby(level=0, sort=False).first()
    kept = ~train
    kept[first.to_numpy()] = True
    ids = images["image_id"].to_numpy()
    dropped = pd.DataFrame({"image_id": ids[~kept], "looks_like": ids[first.loc[alike[~kept]].to_numpy()]})
    write_csv(root / "dropped.csv", dropped)
    print(f"init: {len(dropped)} train images dropped because they look like another one (dropped.csv)")
    return kept


def _limited(images: pd.DataFrame, limit: int, section: DataSection) -> pd.DataFrame:
    """Take about `limit` train images with every class in its share, and evenly spaced test images."""
    train, test = images[images["split"] == "train"], images[images["split"] == "test"]
    while len(train) > limit:  # a small share of many images is taken in steps
        one_by_one = np.arange(len(train), dtype=np.int32)  # groups matter for the folds, which are made later
        targets = section.classes.multi_hot(train["target"])
        train = train[stratified_subset(targets, one_by_one, limit / len(train), section.seed)]
    if len(test) > limit:
        test = test.iloc[np.linspace(0, len(test) - 1, limit).astype(int)]
    return pd.concat([train, test], ignore_index=True)

"""Make work folders as if the classify stage had run, with known truth and without a network: for benches and tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from classify.probabilities import class_columns, write_probabilities
from hpa.channels import CHANNELS
from hpa.images import write_images
from hpa.splitting.folds import write_folds
from hpa.vocabulary import HPA28
from hpa.work.folder import WorkFolder
from pipeline.recipe import read_recipe, write_recipe
from tests.support.simulation.probabilities import draw_images, score_cells

COLUMNS = class_columns(HPA28)


def make_work(
    root: Path,
    settings: Sequence[str] = (),
    *,
    train: int = 60,
    test: int = 30,
    models: int = 3,
    seed: int = 0,
    noise_seed: int = 0,
) -> WorkFolder:
    """Write recipe, images, folds, crops and probabilities.

    Parameters
    ----------
    root
        The folder to create.
    settings
        Settings of the recipe, ``section.key=value``.
    train, test, models
        Number of train images, test images and folds.
    seed
        Seed of images and cells.
    noise_seed
        Seed of the models: a different one gives different models of the same cells.
    """
    work = WorkFolder(root)
    rng = np.random.default_rng(seed)
    drawn = draw_images(train + test, 0.8, rng)
    ids = [f"i{place:05d}" for place in range(train + test)]
    folds = np.where(np.arange(train + test) < train, drawn.groups % models, -1)
    images = _images(ids, drawn.targets, train)
    write_images(work.images, images, HPA28, CHANNELS)
    table = pd.DataFrame({"image_id": ids, "group": drawn.groups, "fold": folds.astype(np.int16)})
    write_folds(work.folds, table.iloc[:train].astype({"image_id": str}))
    noise = np.random.default_rng(noise_seed)
    cell_labels = np.arange(len(drawn.image_of)) - drawn.first_rows[drawn.image_of] + 1
    parts = []
    for fold, bias in enumerate(noise.normal(0, 0.3, (models, 28))):
        scored = (folds[drawn.image_of] == fold) | (drawn.image_of >= train)
        part = pd.DataFrame(score_cells(drawn, bias, 1.0, noise)[scored], columns=COLUMNS)
        part.insert(0, "origin", np.where(drawn.image_of[scored] < train, "oof", "test"))
        part.insert(0, "fold", np.int16(fold))
        part.insert(0, "cell_label", cell_labels[scored].astype(np.int32))
        part.insert(0, "image_id", np.array(ids)[drawn.image_of[scored]])
        parts.append(part)
    rows = pd.concat(parts).sort_values(["image_id", "cell_label", "fold"], ignore_index=True)
    write_probabilities(probabilities_path(work), rows, HPA28)
    crops = pd.DataFrame({"image_id": np.array(ids)[drawn.image_of], "cell_label": cell_labels})
    crops["completeness"] = noise.random(len(crops))
    (root / "crops" / "cells").mkdir(parents=True, exist_ok=True)
    crops.to_parquet(root / "crops" / "cells" / "crops.parquet")
    write_recipe(work.recipe, read_recipe(None, settings))
    return work


def probabilities_path(work: WorkFolder) -> Path:
    """Return the path of the table of crop probabilities."""
    return work.root / "classify" / "cells" / "probabilities.parquet"


def rewrite(work: WorkFolder, table: pd.DataFrame) -> None:
    """Write a table of probabilities without checking it, to simulate a damaged or external file."""
    content = pyarrow.Table.from_pandas(table, preserve_index=False)
    metadata = {**content.schema.metadata, b"cellwise_vocabulary": b"hpa28"}
    pyarrow.parquet.write_table(content.replace_schema_metadata(metadata), probabilities_path(work))


def _images(ids: list[str], targets: np.ndarray, train: int) -> pd.DataFrame:
    n = len(ids)
    split = np.where(np.arange(n) < train, "train", "test")
    images = pd.DataFrame({"image_id": ids, "source": [f"part{place % 2}" for place in range(n)], "split": split})
    hot = [tuple(np.flatnonzero(row).tolist()) if place < train else () for place, row in enumerate(targets)]
    images["target"] = pd.Series(hot, dtype=object)
    images["antibody"] = pd.Series([None] * n, dtype=object)
    images["height_px"] = images["width_px"] = np.int32(64)
    for channel in CHANNELS:
        images[f"path_{channel}"] = "nowhere"
        images[f"plane_{channel}"] = np.int16(-1)
        images[f"bytes_{channel}"] = np.int64(0)
    return images


def truth(train: int = 60, test: int = 30, seed: int = 0) -> np.ndarray:
    """Return the targets of all images that `make_work` draws."""
    return draw_images(train + test, 0.8, np.random.default_rng(seed)).targets

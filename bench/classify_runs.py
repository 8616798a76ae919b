"""Runs of the classifier on one hold-out split of an atlas, for `bench.classify`."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch

import crops.run
import segment.run
from aggregate.trained import pool_as_trained
from classify.batches import FoldCrops
from classify.channels import pick_channels
from classify.checkpoint import Checkpoint
from classify.config import ClassifySection
from classify.evaluate import pick_device
from classify.fit import clear, fit
from classify.labels import CropLabels, label_crops
from classify.predict import Scored, predict_fold
from classify.probabilities import ATTENTION, class_columns
from classify.run import trained_pooling
from classify.trained_pooling import TrainedPooling
from crops.store import CropStore
from hpa.atlas import synthesize
from hpa.channels import CHANNELS
from hpa.files import write_json
from hpa.folds import read_folds
from hpa.images import read_images
from hpa.vocabulary import HPA28
from hpa.work import WorkFolder
from pipeline.init import init
from pipeline.recipe import load_recipe

ROOT: Final = Path("work/bench-classify")
"""Where everything lies that the bench makes."""

FOLD: Final = 0
"""The fold that is held out: thresholds are tuned on it, nothing is trained on it."""


@dataclass(frozen=True)
class Size:
    """How large an experiment is.

    Parameters
    ----------
    train, test
        Images of the atlas.
    image_px
        Their side.
    crop_px
        Side of the crops of cells.
    budgets_s
        Seconds of training that systems are compared at.
    epochs
        Of the objectives.
    seeds
        Of the finalists.
    backbone
        Of all but `five_backbone`.
    five_backbone
        Of the system of five windows.
    """

    train: int
    test: int
    image_px: int
    crop_px: int
    budgets_s: tuple[float, ...]
    epochs: int
    seeds: tuple[int, ...]
    backbone: str
    five_backbone: str

    @property
    def section(self) -> ClassifySection:
        """What the experiments start from."""
        return ClassifySection(backbone=self.backbone, precision="auto", validate_every=100)


FULL: Final = Size(500, 300, 512, 64, (100, 200, 400), 8, (0, 1, 2), "resnet18", "densenet121")
TINY: Final = Size(20, 6, 256, 32, (1, 2), 1, (0,), "cnn3", "cnn3")


@dataclass(frozen=True)
class World:
    """An atlas with its segmented cells.

    Parameters
    ----------
    root
        Where its work folders lie, one for each kind of window.
    size
        How large it is.
    penetrance
        Multiplies the share of cells that carry a label of their image.
    """

    root: Path
    size: Size
    penetrance: float = 1.0

    @classmethod
    def of(cls, size: Size, penetrance: float = 1.0) -> "World":
        """Return the atlas of a size and penetrance, below `ROOT`."""
        return cls(ROOT / f"{size.train}-{penetrance}", size, penetrance)

    @property
    def atlas(self) -> Path:
        """The data set, with its truth."""
        return self.root / "atlas"

    def work(self, window: str, size_px: int) -> WorkFolder:
        """Return a work folder with crops of one kind of window, made if it is not there; cells are segmented once.

        Raises
        ------
        UserError
            If there is no such window.
        """
        recipe = load_recipe(None, [f'crops.windows=["{window}"]', f"crops.size_px={size_px}"])
        if not self.atlas.exists():
            unfinished = self.root / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            size = self.size
            synthesize(unfinished, size.train, size.test, 0, size_px=size.image_px, penetrance=self.penetrance)
            unfinished.rename(self.atlas)
        work = WorkFolder(self.root / f"{window}-{size_px}")
        if not work.recipe.exists():
            init(work.root, [self.atlas], recipe)
        segmented = self.root / "segment"
        if segmented.exists() and not (work.root / "segment").exists():
            shutil.copytree(segmented, work.root / "segment")
        segment.run.run(work)
        if not segmented.exists():
            shutil.copytree(work.root / "segment", segmented)
        crops.run.run(work)
        return work


@dataclass(frozen=True)
class Job:
    """One classifier: the windows it is trained on and those it scores.

    Parameters
    ----------
    name
        Of its folder.
    section
        How it is trained.
    trained_on, scored_on
        Work folders with the crops, and their window.
    seed
        Of the training.
    """

    name: str
    section: ClassifySection
    trained_on: tuple[WorkFolder, str]
    scored_on: tuple[WorkFolder, str]
    seed: int = 0

    def crops(self) -> FoldCrops:
        """Return what is trained and validated on."""
        store, labels = read(*self.trained_on)
        return labels.fold_crops(pick_channels(store, self.section.channels, CHANNELS), FOLD)


def read(work: WorkFolder, window: str) -> tuple[CropStore, CropLabels]:
    """Return the crops of a window and what is known of them."""
    store = CropStore(work.root / "crops" / window)
    return store, label_crops(store.table, read_images(work.images), read_folds(work.folds), HPA28)


@dataclass(frozen=True)
class Ran:
    """What came of a job.

    Parameters
    ----------
    folder
        Where its files lie.
    seconds
        Of training.
    table
        Probabilities of crops, as `classify.probabilities` has them.
    pooling
        How they are pooled.
    """

    folder: Path
    seconds: float
    table: pd.DataFrame
    pooling: TrainedPooling


def run(job: Job, *, embeddings: bool = False) -> Ran:
    """Train and predict, or read what an earlier run of the bench left."""
    folder = job.scored_on[0].root / "bench" / f"{job.name}-seed{job.seed}"
    path, record = folder / "checkpoint.pt", folder / "bench.json"
    if not record.is_file():
        _train(job, folder)
    seconds = float(json.loads(record.read_text())["seconds"])
    checkpoint = Checkpoint.load(path)
    store, labels = read(*job.scored_on)
    table = predict_fold(
        checkpoint, Scored(store, labels, HPA28), folder / "predict", pick_device("auto"), embeddings=embeddings
    )
    pooling = trained_pooling({FOLD: checkpoint})
    if job.section.objective == "cell":
        pooling = replace(pooling, pooling="max")
    return Ran(folder, seconds, table, pooling)


def _train(job: Job, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    source = job.crops()
    started = time.monotonic()
    fitted = fit(source, job.section, job.seed, FOLD, folder, pick_device("auto"))
    seconds = round(time.monotonic() - started, 1)
    statistics = fitted.statistics
    Checkpoint(
        state_dict=fitted.state_dict,
        config=job.section.model_dump(mode="json"),
        vocabulary=HPA28.name,
        classes=list(HPA28.classes),
        channels=list(CHANNELS),
        size_px=source.source.pixels(source.training[:1]).shape[2],
        mean=statistics.mean,
        std=statistics.std,
        fold=FOLD,
        epoch=fitted.epoch,
        seed=job.seed,
        versions={"torch": version("torch")},
        sources=statistics.sources,
    ).save(folder / "checkpoint.pt")
    clear(folder)
    record = {"seconds": seconds, "threads": torch.get_num_threads(), "section": job.section.model_dump(mode="json")}
    write_json(folder / "bench.json", record)


def image_probabilities(ran: Ran) -> pd.DataFrame:
    """Pool the crops of each image: origin and p of each class, by image_id."""
    columns = class_columns(HPA28)
    table = ran.table.sort_values(["image_id", "cell_label"], kind="stable", ignore_index=True)
    first = np.flatnonzero((table["image_id"] != table["image_id"].shift()).to_numpy())
    attention = table[ATTENTION].to_numpy(np.float32) if ATTENTION in table else None
    pooled = pool_as_trained(
        table[columns].to_numpy(np.float32), first, ran.pooling, [FOLD] * len(first), attention=attention
    )
    heads = table.loc[first, ["image_id", "origin"]].reset_index(drop=True)
    return pd.concat([heads, pd.DataFrame(pooled, columns=columns)], axis=1).set_index("image_id")


def joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Average image probabilities of several systems over the images that all of them scored."""
    columns = class_columns(HPA28)
    values = np.mean([part[columns].reindex(parts[0].index).to_numpy() for part in parts], axis=0)
    return pd.DataFrame(values, index=parts[0].index, columns=columns).assign(origin=parts[0]["origin"]).dropna()


def show(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Print a table and write it as JSON records."""
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    write_json(path, json.loads(table.to_json(orient="records")))

"""Run the classifier on one hold-out split of an atlas, for `bench.classify`."""

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

from aggregate.pooling.formulas import pool_as_trained
from classify.config import ClassifySection
from classify.data.crops import CropLabels, FoldCrops, label_crops, select_channels
from classify.inference.predict import ScoredCrops, predict_fold
from classify.network.checkpoint import Checkpoint
from classify.probabilities import ATTENTION, class_columns
from classify.run import trained_pooling
from classify.trained_pooling import TrainedPooling
from classify.training.fit import fit, remove_resume_files
from crops.store import CropStore
from hpa.channels import CHANNELS
from hpa.images import read_images
from hpa.splitting.folds import read_folds
from hpa.vocabulary import HPA28
from hpa.work.device import resolve_device
from hpa.work.files import write_json
from hpa.work.folder import WorkFolder

FOLD: Final = 0
"""The held-out fold: thresholds are tuned on it, but nothing is trained on it."""


@dataclass(frozen=True)
class Job:
    """A classifier to train: its settings, the crops it is trained on and those it scores.

    Parameters
    ----------
    name
        Name of its folder.
    section
        Settings of the training.
    trained_on, scored_on
        Work folders with the crops, and their window.
    seed
        Seed of the training.
    """

    name: str
    section: ClassifySection
    trained_on: tuple[WorkFolder, str]
    scored_on: tuple[WorkFolder, str]
    seed: int = 0

    def crops(self) -> FoldCrops:
        """Return the crops for training and validation."""
        store, labels = read(*self.trained_on)
        return labels.fold_crops(select_channels(store, self.section.channels, CHANNELS), FOLD)


def read(work: WorkFolder, window: str) -> tuple[CropStore, CropLabels]:
    """Return the crops of a window and their labels."""
    store = CropStore(work.root / "crops" / window)
    return store, label_crops(store.table, read_images(work.images), read_folds(work.folds), HPA28)


@dataclass(frozen=True)
class Ran:
    """The result of a job.

    Parameters
    ----------
    folder
        The folder with its files.
    seconds
        Duration of the training.
    table
        Probabilities of the crops (`classify.probabilities`).
    pooling
        How they are pooled to images.
    """

    folder: Path
    seconds: float
    table: pd.DataFrame
    pooling: TrainedPooling


def run(job: Job, *, embeddings: bool = False) -> Ran:
    """Train and predict, or read the results of an earlier run of the bench."""
    folder = job.scored_on[0].root / "bench" / f"{job.name}-seed{job.seed}"
    path, record = folder / "checkpoint.pt", folder / "bench.json"
    if not record.is_file():
        _train(job, folder)
    seconds = float(json.loads(record.read_text())["seconds"])
    checkpoint = Checkpoint.load(path)
    store, labels = read(*job.scored_on)
    device = torch.device(resolve_device("auto"))
    table = predict_fold(
        checkpoint, ScoredCrops(store, labels, HPA28), folder / "predict", device, embeddings=embeddings
    )
    pooling = trained_pooling({FOLD: checkpoint})
    if job.section.objective == "cell":
        pooling = replace(pooling, pooling="max")
    return Ran(folder, seconds, table, pooling)


def _train(job: Job, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    source = job.crops()
    started = time.monotonic()
    fitted = fit(source, job.section, job.seed, FOLD, folder, torch.device(resolve_device("auto")))
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
    remove_resume_files(folder)
    record = {"seconds": seconds, "threads": torch.get_num_threads(), "section": job.section.model_dump(mode="json")}
    write_json(folder / "bench.json", record)


def image_probabilities(ran: Ran) -> pd.DataFrame:
    """Pool the crops of each image; the table has origin and p of each class, indexed by image_id."""
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
    """Average the image probabilities of several systems, for images scored by all of them."""
    columns = class_columns(HPA28)
    values = np.mean([part[columns].reindex(parts[0].index).to_numpy() for part in parts], axis=0)
    return pd.DataFrame(values, index=parts[0].index, columns=columns).assign(origin=parts[0]["origin"]).dropna()


def show(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Print a table and write it as JSON records."""
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    write_json(path, json.loads(table.to_json(orient="records")))
